"""How cases of the op table run on the Hopper kernels, and the arithmetic that each launch declares."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dgref.backends.base import BufferKernel, Inputs, Kernel
from dgref.backends.cuda.case_kernel import CaseKernel
from dgref.backends.cuda.launch import WHOLE_CARD
from dgref.backends.cuda.placement import native, on_device, payload, vector_scale
from dgref.backends.cuda.sm90 import gemm, grouped
from dgref.backends.cuda.sm90.arithmetic import arithmetic_of
from dgref.backends.cuda.sm90.configuration import configuration
from dgref.backends.cuda.sm90.launch import available
from dgref.backends.cuda.sm90.pair import SCALINGS
from dgref.backends.cuda.sm90.shape import WORDS, Shape
from dgref.formats import RECIPES, ScaledTensor, as_native
from dgref.guards import guarded_outputs
from dgref.ops import OPS
from dgref.reference.arithmetic import Arithmetic, sm90_bf16, sm90_fp8
from dgref.suite import Case

OUTPUTS = {"bfloat16": "BF16", "float32": "F32"}


@dataclass(frozen=True)
class _Operands:
    """A pair of recipes as the kernel names it."""

    element: str
    b_block: tuple[int, int] | None = None
    packed: bool = False
    powers: bool = False  # scales of packed codes are UE8M0, and stay so

    @property
    def scaling(self) -> str:
        found = SCALINGS[self.b_block] if self.b_block else "NONE"
        return WORDS[found] if self.powers else found

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of a scaled product."""
        return {"b_block": self.b_block, "packed": self.packed} if self.b_block else {}


def _operands(case: Case) -> _Operands | str:
    a, b = (RECIPES[case.operands[name].recipe] for name in "ab")
    if a.name == b.name == "bfloat16":
        return _Operands("BF16")
    if (
        a.format != "float8_e4m3fn"
        or b.format not in ("float8_e4m3fn", "float4_e2m1fn")
        or not (a.scaling and b.scaling)
    ):
        return f"no kernel of sm90 multiplies {a.name} by {b.name}"
    packed = b.format == "float4_e2m1fn"
    if a.scaling.block != (1, 128) or b.scaling.block not in SCALINGS or (packed and b.scaling.block[0] != 1):
        known = ", ".join(f"{rows}x{columns}" for rows, columns in SCALINGS)
        return f"scales of a must be 1x128 and of b one of {known}, not {a.scaling.block} and {b.scaling.block}"
    if (
        a.scaling.has_global
        or b.scaling.has_global
        or "float8_e4m3fn" in (a.scaling.scale_format, b.scaling.scale_format)
    ):
        return "sm90 kernels read scales of FP32 or UE8M0"
    return _Operands("E4M3", b.scaling.block, packed, packed and b.scaling.scale_format == "float8_e8m0fnu")


def _shape(case: Case, batch_invariant: bool) -> Shape:
    """Return what the dense launch of a case is in numbers; FP8 operands are rewritten K-major before it."""
    operands = _operands(case)
    majors = {name: {"k": "K", "mn": "MN"}[case.operands[name].major] for name in "ab"}
    return Shape(
        m=case.shape["m"],
        n=case.shape["n"],
        k=case.shape["k"],
        element=operands.element,
        weights="E2M1" if operands.packed else "AS_A",
        scaling=operands.scaling,
        major_a="K" if operands.b_block else majors["a"],
        major_b="K" if operands.b_block else majors["b"],
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
    if operands.packed and case.operands["b"].major == "mn":
        return "packed codes lie along K"
    return None if case.out in OUTPUTS else f"sm90 kernels write {' or '.join(OUTPUTS)}, not {case.out}"


def _gemm_arithmetic(case: Case, batch_invariant: bool) -> Arithmetic:
    operands = _operands(case)
    if 0 in case.shape.values():
        return _declared(operands)  # nothing is launched
    shape = _shape(case, batch_invariant)
    described = arithmetic_of(configuration(shape, available(WHOLE_CARD)))
    edges = tuple(sorted({edge for edge in described["split_boundaries"] if 0 < edge < shape.k}))
    return _declared(operands, edges)


def _declared(operands: _Operands, boundaries: tuple[int, ...] = ()) -> Arithmetic:
    if operands.element == "BF16":
        return sm90_bf16(boundaries)
    fold = "float8_e4m3fn" if operands.scaling == "POWERS_32" else None
    return sm90_fp8(boundaries, interval=32 if operands.scaling == "VECTOR_32" else 128, fold_b=fold)


def _gemm_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    operands, c = _operands(case), inputs.get("c")
    left, right, scales = _placed(case, inputs)
    outputs = guarded_outputs(case, on_device)
    d = outputs["d"]
    start = None if c is None else on_device(native(c)).to(d.dtype)
    options: dict[str, Any] = {"batch_invariant": batch_invariant, **operands.options}
    if not operands.b_block:
        return BufferKernel(lambda: gemm.bf16_gemm(left, right, d, start, **options), outputs)
    if case.params.get("head_splits"):
        options["head_splits"] = tuple(case.params["head_splits"])
    return BufferKernel(lambda: gemm.fp8_gemm(left, scales[0], right, scales[1], d, start, **options), outputs)


def _placed(case: Case, inputs: Inputs) -> tuple[Any, Any, tuple[Any, Any]]:
    """Return both payloads and both scales as the kernels read them; scales are None for BF16."""
    a, b = inputs["a"], inputs["b"]
    left, right = (payload(tensor, case.operands[name].major) for name, tensor in (("a", a), ("b", b)))
    if a.scale is None:
        return left, right, (None, None)
    if _operands(case).powers:
        return left, right, (vector_scale(a.scale_values()), vector_scale(b.scale, "packed_ue8m0"))
    scale = np.ascontiguousarray(b.scale_values(), np.float32)
    block = b.scaling.block == (128, 128)
    return left, right, (vector_scale(a.scale_values()), on_device(scale) if block else vector_scale(scale))


# -- grouped ----------------------------------------------------------------------------------------------------------


def _grouped_arithmetic(case: Case, batch_invariant: bool) -> Arithmetic:
    return _declared(_operands(case))


def _contiguous_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    left, right, scales = _placed(case, inputs)
    outputs, layout = guarded_outputs(case, on_device), on_device(inputs["grouped_layout"])
    d, problem = outputs["d"], OPS[case.op].problem(case)
    options = {"prefix_sum": problem["psum"], "alignment": problem["alignment"], **_operands(case).options}
    options["zero_padding"] = problem["zero_padding"]
    return BufferKernel(lambda: grouped.gemm_grouped_contiguous(left, right, d, layout, *scales, **options), outputs)


def _masked_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    left, right, scales = _placed(case, inputs)
    outputs, counts = guarded_outputs(case, on_device), on_device(inputs["masked_m"])
    d = outputs["d"]
    likely = max(1, int(inputs["masked_m"].mean())) if len(inputs["masked_m"]) else 1
    options = _operands(case).options
    return BufferKernel(
        lambda: grouped.gemm_grouped_masked(left, right, d, counts, likely, *scales, **options), outputs
    )


def _k_refuses(case: Case) -> str | None:
    operands = _operands(case)
    if isinstance(operands, str):
        return operands
    if operands.scaling not in ("VECTOR", "NONE") or operands.packed:
        return "groups of K are scaled per 1x128 on both sides"
    problem, block = OPS[case.op].problem(case), 128 if operands.b_block else 64
    if problem["alignment"] % block:
        return f"groups of K start at multiples of {block}, not of {problem['alignment']}"
    return None if case.out == "float32" else f"groups of K are added up in float32, not {case.out}"


def _k_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    problem = OPS[case.op].problem(case)
    layout, outputs = inputs["grouped_layout"], guarded_outputs(case, on_device)
    d = outputs["d"]
    start = on_device(native(inputs["c"])).to(d.dtype) if "c" in inputs else None
    options: dict[str, Any] = {"prefix_sum": problem["psum"], "alignment": problem["alignment"]}
    operands = [payload(inputs[name], case.operands[name].major).t() for name in "ab"]
    scales = [] if inputs["a"].scale is None else [vector_scale(inputs[name].scale) for name in "ab"]
    if scales and not problem["psum"] and {case.operands[name].major for name in "ab"} == {"k"}:
        options |= {"sizes": [int(size) for size in layout]}
        operands = [_flat(inputs[name], layout) for name in "ab"]
    ends = on_device(layout)
    return BufferKernel(lambda: grouped.gemm_grouped_k(*operands, d, ends, start, *scales, **options), outputs)


def _flat(tensor: ScaledTensor, sizes: Any) -> Any:
    """Return the K of each group as a K-major matrix of its own, one behind the other."""
    edges = np.cumsum([0, *sizes])
    parts = [tensor.data[:, low:high].ravel() for low, high in pairwise(edges)]
    return on_device(as_native(np.concatenate(parts), tensor.format))


CASES = {
    "gemm": CaseKernel(_gemm_refuses, _gemm_arithmetic, _gemm_prepare, _shape),
    "gemm_grouped_contiguous": CaseKernel(_gemm_refuses, _grouped_arithmetic, _contiguous_prepare),
    "gemm_grouped_masked": CaseKernel(_gemm_refuses, _grouped_arithmetic, _masked_prepare),
    "gemm_grouped_k": CaseKernel(_k_refuses, _grouped_arithmetic, _k_prepare),
}
