"""Products over three axes, indexer logits and the pre-norm as DeepGEMM's calls."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dgref.backends.base import BufferKernel, FunctionKernel, Kernel
from dgref.backends.deep_gemm_cases.call import FP4, FP8, UE8M0, Call, Operation
from dgref.backends.deep_gemm_cases.products import addition_refuses, operands_refuse, out_refuses, product_family
from dgref.formats import RECIPES, ScaledTensor
from dgref.formats.native import as_native
from dgref.formats.scaling import FULL
from dgref.ops import OPS
from dgref.reference.einsum import roles
from dgref.reference.paging import fuse_kv_cache
from dgref.suite import Case

HEADS = {"sm90": (32, 64), "sm100": (8, 16, 32, 64)}  # csrc/apis/attention.hpp, as the rest of these tables
DEPTHS = {FP8: (32, 64, 128), FP4: (64, 128)}
PAGES = {"sm90": (64,), "sm100": (32, 64)}
PLAIN = ("bmk,bnk->mn", "bhr,hdr->bhd", "bhd,hdr->bhr")
SCALED = {"sm90": ("bhr,hdr->bhd",), "sm100": ("bhr,hdr->bhd", "bhd,hdr->bhr", "bhd,bhr->hdr")}

# -- einsum -----------------------------------------------------------------------------------------------------------


def _einsum_refuses(case: Case, here: str) -> str | None:
    expression = OPS[case.op].problem(case)["expression"]
    plain = RECIPES[case.operands["a"].recipe].scaling is None
    known = PLAIN if plain else SCALED[here]
    if expression not in known:
        return f"DeepGEMM has {', '.join(known)} for such operands, not {expression}"
    if any(case.operands[name].major == "mn" for name in "ab"):
        return "DeepGEMM's einsum reads operands in the order of the expression"
    accumulates, sums_batch = bool(case.params.get("accumulate")), expression == PLAIN[0]
    if plain and accumulates != (sums_batch and case.out == "float32"):
        return "DeepGEMM's BF16 einsum accumulates in bmk,bnk->mn with float32 output, and only there"
    if not plain and here == "sm90" and (accumulates or case.out != "bfloat16"):
        return "the sm_90a FP8 einsum writes bfloat16 and does not accumulate"
    outs = ("bfloat16", "float32") if sums_batch or not plain else ("bfloat16",)
    return operands_refuse(case, here) or out_refuses(case, *outs) or addition_refuses(case)


def _einsum_family(case: Case) -> str | None:
    """Return the kernel family; where the batch is summed over, parts are added in no fixed order."""
    return None if OPS[case.op].problem(case)["expression"] == PLAIN[0] else product_family(case)


def _einsum_prepare(call: Call) -> Kernel:
    expression, outputs = call.param("expression"), call.outputs()
    d, role, c = outputs["d"], roles(expression), None
    orders = {"a": _order(role.a_last, role.a), "b": _order(role.b_last, role.b)}
    if "c" in call.inputs:
        c = call.start(d)
    if call.inputs["a"].scale is not None:
        pairs = [_in_order(call, name, orders[name]) for name in "ab"]
        (rows_a, width), (rows_b, _) = (call.inputs[name].scaling.block for name in "ab")
        run = partial(call.library.fp8_einsum, expression, *pairs, d, c=c, recipe=(rows_a, rows_b, width))
        return BufferKernel(run, outputs)
    a, b = (call.payload(name).permute(orders[name]).contiguous() for name in "ab")
    if c is None:
        return BufferKernel(partial(call.library.einsum, expression, a, b, d), outputs)

    def accumulate() -> None:  # the library adds to d itself
        d.copy_(c)
        call.library.einsum(expression, a, b, d, c=d)

    return BufferKernel(accumulate, outputs)


def _order(held: str, written: str) -> list[int]:
    return [held.index(letter) for letter in written]


def _in_order(call: Call, name: str, order: list[int]) -> tuple[Any, Any]:
    """Return payload and float32 scales with their axes in the order of the expression: the library moves them."""
    tensor = call.inputs[name]
    scale = call.place(np.asarray(tensor.scale_values(), np.float32))
    return call.payload(name).permute(order).contiguous(), scale.permute(order).contiguous()


# -- indexer logits ---------------------------------------------------------------------------------------------------


def _logits_refuse(case: Case, here: str, keys: str) -> str | None:
    recipes = OPS[case.op].recipes(case)
    q, kv, weights = (RECIPES[recipes[name]] for name in ("q", keys, "weights"))
    fp4 = q.format == FP4
    need = ((1, 32), UE8M0) if fp4 else ((1, FULL), "float32")
    if q.format not in DEPTHS or q.format != kv.format or (q.scaling is not None) != fp4:
        return f"DeepGEMM's logits take E4M3 queries without scales, or FP4, with keys alike: not {q.name} by {kv.name}"
    if kv.scaling is None or (kv.scaling.block, kv.scaling.scale_format) != need:
        return f"DeepGEMM's {q.format} keys have {need[1]} scales, one for {need[0][1] or 'all'} elements"
    if here == "sm90" and (fp4 or weights.name == "bfloat16"):
        return "sm_90a logits kernels take E4M3 with float32 weights only"
    if case.shape["h"] not in HEADS[here] or case.shape["d"] not in DEPTHS[q.format]:
        got = f"{case.shape['h']} heads of {case.shape['d']}"
        return f"{here} logits kernels take {HEADS[here]} heads of {DEPTHS[q.format]}, not {got}"
    return "bfloat16 weights give bfloat16 logits" if weights.name == "bfloat16" and case.out != "bfloat16" else None


def _logits_family(case: Case) -> str:
    recipes = OPS[case.op].recipes(case)
    if RECIPES[recipes["q"]].format == FP4:
        return "mqa_logits_fp4"
    return "mqa_logits_bf16" if recipes["weights"] == "bfloat16" else "mqa_logits"


def _query(call: Call) -> tuple[Any, Any]:
    q = call.inputs["q"]
    return call.payload("q"), None if q.scale is None else call.place(_words(q.scale))


def _words(codes: np.ndarray) -> np.ndarray:
    """Return UE8M0 codes [..., up to 4] as int32 words [...], filled up with 1.0."""
    filled = np.full((*codes.shape[:-1], 4), 127, np.uint8)
    filled[..., : codes.shape[-1]] = codes
    return filled.view(np.int32)[..., 0]


def _weights(call: Call) -> Any:
    return call.place(as_native(call.inputs["weights"].data, call.inputs["weights"].format))


def _out_dtype(call: Call) -> Any:
    import torch

    return getattr(torch, call.case.out)


def _mqa_prepare(call: Call) -> Kernel:
    kv: ScaledTensor = call.inputs["kv"]
    scale = _words(kv.scale) if kv.format == FP4 else np.asarray(kv.scale[:, 0], np.float32)
    run = partial(
        call.library.fp8_fp4_mqa_logits,
        _query(call),
        (call.payload("kv"), call.place(scale)),
        _weights(call),
        call.index("starts"),
        call.index("ends"),
        clean_logits=call.param("clean"),
        max_seqlen_k=call.param("max_seqlen_k"),
        logits_dtype=_out_dtype(call),
    )
    return FunctionKernel(lambda: {"logits": run()})


def _paged_refuses(case: Case, here: str) -> str | None:
    problem = OPS[case.op].problem(case)
    if problem["clean"] or not problem["per_token"]:
        return "DeepGEMM's paged logits take the keys of each token, and are never cleaned"
    if case.shape["page"] not in PAGES[here]:
        return f"{here} paged logits kernels take pages of {PAGES[here]}, not {case.shape['page']}"
    return _logits_refuse(case, here, "kv_cache")


def _paged_prepare(call: Call) -> Kernel:
    lengths, page = call.index("context_lens"), call.case.shape["page"]
    schedule = call.library.get_paged_mqa_logits_metadata(lengths, page, call.library.get_num_sms())
    run = partial(
        call.library.fp8_fp4_paged_mqa_logits,
        _query(call),
        call.place(fuse_kv_cache(call.inputs["kv_cache"])),
        _weights(call),
        lengths,
        call.index("block_table"),
        schedule,
        call.case.shape["max_context_len"],
        logits_dtype=_out_dtype(call),
    )
    return FunctionKernel(lambda: {"logits": run()})


def _schedule_refuses(case: Case, here: str) -> str | None:
    problem = OPS[case.op].problem(case)
    if problem["schedule"] != here:
        return f"this is DeepGEMM for {here}: it does not make schedules for {problem['schedule']}"
    return "ragged schedules need sm_100a, this is sm90" if problem["ragged"] and here == "sm90" else None


def _schedule_prepare(call: Call) -> Kernel:
    lengths = call.index("context_lens")
    indices = call.index("indices") if "indices" in call.inputs else None
    run = partial(call.library.get_paged_mqa_logits_metadata, lengths, 64, call.case.shape["num_sms"], indices)
    return FunctionKernel(lambda: {"schedule": run()})


# -- pre-norm ---------------------------------------------------------------------------------------------------------


def _prenorm_refuses(case: Case, here: str) -> str | None:
    recipe = OPS[case.op].recipes(case)["b"]
    return None if recipe == "float32" else f"DeepGEMM's pre-norm takes float32 weights, not {recipe}"


def _prenorm_prepare(call: Call) -> Kernel:
    a, b, outputs = call.payload("a"), call.payload("b"), call.outputs()
    run = call.library.tf32_hc_prenorm_gemm
    splits = call.param("num_splits")
    return BufferKernel(lambda: run(a, b, outputs["d"], outputs["sqr_sum"], num_splits=splits), outputs)


OPERATIONS = {
    "einsum": Operation(_einsum_refuses, _einsum_family, _einsum_prepare),
    "mqa_logits": Operation(lambda case, here: _logits_refuse(case, here, "kv"), _logits_family, _mqa_prepare),
    "paged_mqa_logits": Operation(_paged_refuses, _logits_family, _paged_prepare),
    "paged_mqa_metadata": Operation(_schedule_refuses, lambda case: "exact", _schedule_prepare),
    "hc_prenorm": Operation(_prenorm_refuses, lambda case: "hc_prenorm", _prenorm_prepare),
}
