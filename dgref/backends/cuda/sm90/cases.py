"""How cases of the op table run on the Hopper kernels, and the arithmetic that each launch declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dgref.backends.base import BufferKernel, Inputs, Kernel
from dgref.backends.cuda.backend import CaseKernel
from dgref.backends.cuda.placement import native, on_device, payload, vector_scale
from dgref.backends.cuda.sm90 import gemm
from dgref.backends.cuda.sm90.configuration import Shape, configuration
from dgref.backends.cuda.sm90.launch import device_multiprocessors
from dgref.formats import RECIPES
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
    return None if case.out in OUTPUTS else f"sm90 kernels write {' or '.join(OUTPUTS)}, not {case.out}"


def _gemm_arithmetic(case: Case, batch_invariant: bool) -> Arithmetic:
    operands = _operands(case)
    shape = _shape(case, operands, batch_invariant)
    splits = configuration(shape, device_multiprocessors()).splits
    edges = {split * shape.blocks_of_k // splits * shape.block_k for split in range(1, splits)} - {0}
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


CASES = {"gemm": CaseKernel(_gemm_refuses, _gemm_arithmetic, _gemm_prepare)}
