"""Dense and grouped products as DeepGEMM's calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgref.backends.base import BufferKernel, Kernel
from dgref.backends.deep_gemm_cases.call import FP4, FP8, UE8M0, Call, Operation, under_alignment
from dgref.formats import LAYOUTS, RECIPES
from dgref.formats.native import as_native
from dgref.formats.scaling import FULL
from dgref.reference.scale_transforms import group_lengths
from dgref.suite import Case


def operands_refuse(case: Case, here: str, major_matters: bool = True) -> str | None:
    """Say why DeepGEMM has no product of these operands."""
    a, b = (RECIPES[case.operands[name].recipe] for name in "ab")
    if a.name == b.name == "bfloat16":
        return None
    if a.scaling is None or b.scaling is None:
        return f"DeepGEMM multiplies scaled FP8 or FP4, or BF16: not {a.name} by {b.name}"
    if here == "sm90":
        return _hopper_refuses(case, a, b, major_matters)
    for row in (a, b):
        if row.format not in (FP8, FP4) or row.scaling.block[1] not in (32, 128) or row.scaling.block[0] == FULL:
            return f"sm_100a kernels take FP8 or FP4 with a scale for 32 or 128 of K, not {row.name}"
        if row.scaling.scale_format != UE8M0:
            return f"sm_100a kernels read UE8M0 scales, which would round those of {row.name}"
    return None


def _hopper_refuses(case: Case, a: Any, b: Any, major_matters: bool) -> str | None:
    if {a.format, b.format} != {FP8} or {a.scaling.scale_format, b.scaling.scale_format} != {"float32"}:
        return f"sm_90a kernels take E4M3 with FP32 scales, not {a.name} by {b.name}"
    if a.scaling.block != (1, 128) or b.scaling.block not in ((1, 128), (128, 128)):
        return f"sm_90a kernels scale 1x128 by 1x128 or 128x128, not {a.scaling.block} by {b.scaling.block}"
    if major_matters and "mn" in (case.operands["a"].major, case.operands["b"].major):
        return "sm_90a FP8 kernels read K-major operands only"
    return None


def out_refuses(case: Case, *formats: str) -> str | None:
    return None if case.out in formats else f"DeepGEMM writes {' or '.join(formats)} here, not {case.out}"


def addition_refuses(case: Case) -> str | None:
    """Say why a product that is added to C cannot be judged: cp.reduce.async.bulk adds in the format of C."""
    if case.params.get("accumulate") and case.out == "bfloat16":
        return "DeepGEMM rounds a product to BF16 before the copy engine adds it to C: no arithmetic here says that"
    return None


def product_family(case: Case) -> str:
    """Return the kernel family of a product, as ARITHMETICS names it."""
    a, b = (RECIPES[case.operands[name].recipe] for name in "ab")
    if a.scaling is None:
        return "bf16"
    if FP4 in (a.format, b.format) or 32 in (a.scaling.block[1], b.scaling.block[1]):
        return "fp8_fp4"
    return "fp8_1d2d" if b.scaling.block[0] == 128 else "fp8_1d1d"


# -- dense ------------------------------------------------------------------------------------------------------------


def _gemm_refuses(case: Case, here: str) -> str | None:
    refusal = operands_refuse(case, here) or out_refuses(case, "bfloat16", "float32") or addition_refuses(case)
    plain = RECIPES[case.operands["a"].recipe].scaling is None
    if not refusal and case.params.get("head_splits") and (plain or not _is_fp8_128(case)):
        return "DeepGEMM's head-split kernels take FP8 with a scale for 128 of K"
    if refusal or here != "sm90" or plain:
        return refusal
    one_dimensional = RECIPES[case.operands["b"].recipe].scaling.block[0] == 1
    if one_dimensional and (not case.params.get("accumulate") or case.out != "float32"):
        return "the sm_90a 1D1D kernel adds to C in float32, and does nothing else"
    if not one_dimensional and (case.params.get("accumulate") or case.out != "bfloat16"):
        return "the sm_90a 1D2D kernel writes bfloat16 and does not accumulate"
    return None


def _is_fp8_128(case: Case) -> bool:
    rows = [RECIPES[case.operands[name].recipe] for name in "ab"]
    return all(row.format == FP8 and row.scaling.block[1] == 128 for row in rows)


def _gemm_prepare(call: Call) -> Kernel:
    a, b, outputs = call.pair("a"), call.pair("b"), call.outputs()
    d, splits = outputs["d"], call.param("head_splits")
    c = call.start(d)
    if splits is not None:
        run = call.library.fp8_gemm_nt_skip_head_mid
        recipe = call.recipes().get("recipe") or (1, 1, call.inputs["a"].scaling.block[1])
        return BufferKernel(lambda: run(a, b, d, tuple(splits), recipe=recipe), outputs)
    run, options = call.function("fp8_fp4_gemm_nt", "bf16_gemm_nt"), call.recipes()
    return BufferKernel(lambda: run(a, b, d, c=c, **options), outputs)


# -- grouped ----------------------------------------------------------------------------------------------------------


def _contiguous_refuses(case: Case, here: str) -> str | None:
    if case.operands["a"].major == "mn":
        return "DeepGEMM reads the rows of groups K-major only"
    return operands_refuse(case, here) or _blocks_refuse(case, here) or out_refuses(case, "bfloat16")


def _masked_refuses(case: Case, here: str) -> str | None:
    if "mn" in (case.operands["a"].major, case.operands["b"].major):
        return "DeepGEMM reads masked groups K-major only"
    return operands_refuse(case, here) or _blocks_refuse(case, here) or out_refuses(case, "bfloat16")


def _blocks_refuse(case: Case, here: str) -> str | None:
    scaling = RECIPES[case.operands["b"].recipe].scaling
    if here == "sm90" and scaling is not None and scaling.block != (128, 128):
        return "sm_90a grouped kernels scale b in blocks of 128x128"
    return None


def _contiguous_prepare(call: Call) -> Kernel:
    a, b, layout, outputs = call.pair("a"), call.pair("b"), call.index("grouped_layout"), call.outputs()
    run = call.function("m_grouped_fp8_fp4_gemm_nt_contiguous", "m_grouped_bf16_gemm_nt_contiguous")
    options = call.recipes() | {
        "use_psum_layout": call.param("psum"),
        "ensure_zero_padding": call.param("zero_padding"),
    }
    launch = under_alignment(call, lambda: run(a, b, outputs["d"], layout, **options))
    return BufferKernel(launch, outputs)


def _masked_prepare(call: Call) -> Kernel:
    a, b, counts, outputs = call.pair("a"), call.pair("b"), call.index("masked_m"), call.outputs()
    run = call.function("m_grouped_fp8_fp4_gemm_nt_masked", "m_grouped_bf16_gemm_nt_masked")
    rows, options = max(int(np.mean(call.inputs["masked_m"])), 1), call.recipes()
    return BufferKernel(lambda: run(a, b, outputs["d"], counts, rows, **options), outputs)


def _k_refuses(case: Case, here: str) -> str | None:
    refusal = operands_refuse(case, here, major_matters=False) or out_refuses(case, "float32")
    if refusal:
        return refusal
    if not case.params.get("accumulate"):
        return "DeepGEMM's k-grouped kernels add to C"
    if RECIPES[case.operands["a"].recipe].scaling is not None:
        blocks = {RECIPES[case.operands[name].recipe].scaling.block for name in "ab"}
        if len(blocks) != 1 or next(iter(blocks))[0] != 1:
            return "DeepGEMM's k-grouped FP8 kernels scale both operands alike, row by row"
    if here == "sm90" and case.params.get("psum"):
        return "sm_90a k-grouped kernels take the K of each group, not running ends"
    return None


def _k_prepare(call: Call) -> Kernel:
    layout, outputs = call.index("grouped_layout"), call.outputs()
    d, psum = outputs["d"], call.param("psum")
    sizes = None if psum else [int(size) for size in call.inputs["grouped_layout"]]
    options = {"c": call.start(d), "use_psum_layout": psum}
    if call.inputs["a"].scale is None:
        name, (a, b) = "k_grouped_bf16_gemm_tn_contiguous", (_k_first(call, name) for name in "ab")
    else:
        flat = call.backend.architecture_name == "sm90"
        name = f"k_grouped_fp8_gemm_{'nt' if flat else 'tn'}_contiguous"
        a, b = ((_flat(call, key, sizes) if flat else _k_first(call, key), _k_scale(call, key)) for key in "ab")
        options["recipe"] = (1, 1, call.inputs["a"].scaling.block[1])
    run = getattr(call.library, name)
    return BufferKernel(under_alignment(call, lambda: run(a, b, d, sizes, layout, **options)), outputs)


def _k_first(call: Call, name: str) -> Any:
    """Return an operand as [k, rows]."""
    tensor = call.inputs[name]
    return call.place(as_native(np.ascontiguousarray(tensor.data.T), tensor.format))


def _flat(call: Call, name: str, sizes: list[int]) -> Any:
    """Return an operand whose groups are K-major matrices one behind the other."""
    tensor = call.inputs[name]
    parts = np.split(tensor.data, np.cumsum(sizes)[:-1], axis=1)
    return call.place(as_native(np.concatenate([part.reshape(-1) for part in parts]), tensor.format))


def _k_scale(call: Call, name: str) -> Any:
    """Return scales: on Hopper MN-major [rows, K blocks], on Blackwell words [K, rows], every group from a new row."""
    tensor = call.inputs[name]
    if call.backend.architecture_name == "sm90":
        return call.scale(tensor)
    lengths = group_lengths(call.inputs["grouped_layout"], call.param("psum"), call.param("alignment"))
    counts = [-(-length // tensor.scaling.block[1]) for length in lengths]
    grid = np.ascontiguousarray(tensor.scale.T)
    return call.place(LAYOUTS["packed_ue8m0_k_grouped"].pack(grid, extents=counts))


OPERATIONS = {
    "gemm": Operation(_gemm_refuses, product_family, _gemm_prepare),
    "gemm_grouped_contiguous": Operation(_contiguous_refuses, product_family, _contiguous_prepare),
    "gemm_grouped_masked": Operation(_masked_refuses, product_family, _masked_prepare),
    "gemm_grouped_k": Operation(_k_refuses, product_family, _k_prepare),
}
