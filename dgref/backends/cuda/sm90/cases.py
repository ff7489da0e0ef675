"""How cases of the op table run on the Hopper kernels, and the arithmetic that each launch declares."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dgref.backends.base import BufferKernel, Inputs, Kernel
from dgref.backends.cuda.case_kernel import CaseKernel
from dgref.backends.cuda.placement import native, on_device, payload, vector_scale
from dgref.backends.cuda.sm90 import gemm, grouped
from dgref.backends.cuda.sm90.arithmetic import arithmetic_of
from dgref.backends.cuda.sm90.configuration import Shape, configuration
from dgref.backends.cuda.sm90.launch import device_multiprocessors
from dgref.formats import RECIPES, ScaledTensor, as_native
from dgref.ops import OPS
from dgref.reference.arithmetic import Arithmetic, sm90_bf16, sm90_fp8
from dgref.suite import Case

OUTPUTS = {"bfloat16": "BF16", "float32": "F32"}


@dataclass(frozen=True)
class _Operands:
    """A pair of recipes as the kernel names it."""

    element: str
    scaling: str


def _operands(case: Case) -> _Operands | str:
    a, b = (RECIPES[case.operands[name].recipe] for name in "ab")
    if a.name == b.name == "bfloat16":
        return _Operands("BF16", "NONE")
    if (a.format, b.format) != ("float8_e4m3fn", "float8_e4m3fn") or a.scaling is None or b.scaling is None:
        return f"no kernel of sm90 multiplies {a.name} by {b.name}"
    if a.scaling.block != (1, 128) or b.scaling.block not in gemm.SCALINGS:
        return f"scales of a must be 1x128 and of b 1x128 or 128x128, not {a.scaling.block} and {b.scaling.block}"
    if {a.scaling.scale_format, b.scaling.scale_format} != {"float32"}:
        return "sm90 kernels read FP32 scales"
    return _Operands("E4M3", gemm.SCALINGS[b.scaling.block])


def _shape(case: Case, operands: _Operands, batch_invariant: bool) -> Shape:
    majors = {name: {"k": "K", "mn": "MN"}[case.operands[name].major] for name in "ab"}
    return Shape(
        m=case.shape["m"],
        n=case.shape["n"],
        k=case.shape["k"],
        element=operands.element,
        scaling=operands.scaling,
        major_a=majors["a"],
        major_b=majors["b"],
        output=OUTPUTS[case.out],
        accumulate=bool(case.params.get("accumulate")),
        batch_invariant=batch_invariant,
    )


def _gemm_refuses(case: Case) -> str | None:
    operands = _operands(case)
    if isinstance(operands, str):
        return operands
    if case.params.get("head_splits") and operands.element == "BF16":
        return "only the FP8 kernel leaves room for another head's columns"
    return None if case.out in OUTPUTS else f"sm90 kernels write {' or '.join(OUTPUTS)}, not {case.out}"


def _gemm_arithmetic(case: Case, batch_invariant: bool) -> Arithmetic:
    operands = _operands(case)
    shape = _shape(case, operands, batch_invariant)
    described = arithmetic_of(configuration(shape, device_multiprocessors()))
    edges = {edge for edge in described["split_boundaries"] if 0 < edge < shape.k}
    made = sm90_fp8 if operands.element == "E4M3" else sm90_bf16
    return made(tuple(sorted(edges)))


def _gemm_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    a, b, c = inputs["a"], inputs["b"], inputs.get("c")
    left, right = (payload(tensor, case.operands[name].major) for name, tensor in (("a", a), ("b", b)))
    d = on_device(OPS[case.op].allocate(case)["d"])
    start = None if c is None else on_device(native(c)).to(d.dtype)
    if a.scale is None:
        return BufferKernel(lambda: gemm.bf16_gemm(left, right, d, start, batch_invariant=batch_invariant), {"d": d})
    block = b.scaling.block
    scales = (vector_scale(a.scale), on_device(b.scale) if block == (128, 128) else vector_scale(b.scale))
    options: dict[str, Any] = {"b_block": block, "batch_invariant": batch_invariant}
    if case.params.get("head_splits"):
        options["head_splits"] = tuple(case.params["head_splits"])
    return BufferKernel(lambda: gemm.fp8_gemm(left, scales[0], right, scales[1], d, start, **options), {"d": d})


# -- grouped ----------------------------------------------------------------------------------------------------------


def _grouped_refuses(case: Case) -> str | None:
    reason = _gemm_refuses(case)
    if reason is None and _operands(case).scaling == "VECTOR":
        return "grouped kernels of sm90 read 128x128 scales of b"
    return reason


def _unsplit(case: Case, batch_invariant: bool) -> Arithmetic:
    return (sm90_fp8 if _operands(case).element == "E4M3" else sm90_bf16)()


def _scales(a: ScaledTensor, b: ScaledTensor) -> tuple[Any, Any]:
    return (None, None) if a.scale is None else (vector_scale(a.scale), on_device(b.scale))


def _contiguous_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    a, b = inputs["a"], inputs["b"]
    left, right = (payload(tensor, case.operands[name].major) for name, tensor in (("a", a), ("b", b)))
    d, layout, scales = on_device(OPS[case.op].allocate(case)["d"]), on_device(inputs["grouped_layout"]), _scales(a, b)
    problem = OPS[case.op].problem(case)
    options = {
        "prefix_sum": problem["psum"],
        "alignment": problem["alignment"],
        "zero_padding": problem["zero_padding"],
    }
    return BufferKernel(lambda: grouped.gemm_grouped_contiguous(left, right, d, layout, *scales, **options), {"d": d})


def _masked_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    a, b = inputs["a"], inputs["b"]
    left, right = (payload(tensor, case.operands[name].major) for name, tensor in (("a", a), ("b", b)))
    d, counts, scales = on_device(OPS[case.op].allocate(case)["d"]), on_device(inputs["masked_m"]), _scales(a, b)
    likely = max(1, int(inputs["masked_m"].mean())) if len(inputs["masked_m"]) else 1
    return BufferKernel(lambda: grouped.gemm_grouped_masked(left, right, d, counts, likely, *scales), {"d": d})


def _k_refuses(case: Case) -> str | None:
    operands = _operands(case)
    if isinstance(operands, str):
        return operands
    if operands.scaling == "BLOCK":
        return "groups of K are scaled per 1x128 on both sides"
    if operands.element == "E4M3" and case.params.get("psum"):
        return "FP8 groups of K come with their lengths, each a matrix of its own"
    return None if case.out == "float32" else f"groups of K are added up in float32, not {case.out}"


def _k_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    problem = OPS[case.op].problem(case)
    layout, d = inputs["grouped_layout"], on_device(OPS[case.op].allocate(case)["d"])
    start = on_device(native(inputs["c"])).to(d.dtype) if "c" in inputs else None
    options: dict[str, Any] = {"prefix_sum": problem["psum"], "alignment": problem["alignment"]}
    if inputs["a"].scale is None:
        operands = [payload(inputs[name], "mn").t() for name in "ab"]
        scales: list[Any] = []
    else:
        options |= {"sizes": [int(size) for size in layout]}
        operands = [_flat(inputs[name], layout) for name in "ab"]
        scales = [vector_scale(inputs[name].scale).t() for name in "ab"]
    ends = on_device(layout)
    return BufferKernel(lambda: grouped.gemm_grouped_k(*operands, d, ends, start, *scales, **options), {"d": d})


def _flat(tensor: ScaledTensor, sizes: Any) -> Any:
    """Return the K of each group as a K-major matrix of its own, one behind the other."""
    edges = np.cumsum([0, *sizes])
    parts = [tensor.data[:, low:high].ravel() for low, high in pairwise(edges)]
    return on_device(as_native(np.concatenate(parts), tensor.format))


CASES = {
    "gemm": CaseKernel(_gemm_refuses, _gemm_arithmetic, _gemm_prepare),
    "gemm_grouped_contiguous": CaseKernel(_grouped_refuses, _unsplit, _contiguous_prepare),
    "gemm_grouped_masked": CaseKernel(_grouped_refuses, _unsplit, _masked_prepare),
    "gemm_grouped_k": CaseKernel(_k_refuses, _unsplit, _k_prepare),
}
