"""Which arithmetic most likely runs a case: what the slow references imitate, and what bounds an undeclared one."""

from __future__ import annotations

from collections.abc import Sequence

from dgref.arch import ARCHITECTURES
from dgref.errors import instance
from dgref.formats import RECIPES, Scaling
from dgref.ops import OPS
from dgref.ops.problem import CaseLike
from dgref.reference.arithmetic import ARITHMETICS, OUTSIDE, SCALED_INSIDE, Arithmetic, resolve
from dgref.reference.tensor_core import NARROW, TENSOR_CORES, TensorCore

_BY_OP = {
    "hc_prenorm": "deep_gemm.sm90.hc_prenorm",
    "mqa_logits": "deep_gemm.sm90.mqa_logits",
    "paged_mqa_logits": "deep_gemm.sm90.mqa_logits",
}
CPU = "cpu"  # an architecture beside those of GPUs: sums are fp32 or better
_LOGITS = ("mqa_logits", "paged_mqa_logits")
_NO_BLOCKS = 1 << 30  # a scale that spans all of K


Operand = tuple[str, Scaling | None]  # an element format, and the scaling over it


def operands_of(case: CaseLike) -> list[Operand]:
    """Return what the tensor operands of a case are, in the op's order."""
    rows = [RECIPES[recipe] for recipe in OPS[case.op].recipes(case).values()]
    return [(row.format, row.scaling) for row in rows]


def typical_arithmetic(op: str, operands: Sequence[Operand]) -> Arithmetic:
    """Return the arithmetic of the hardware and library that most likely runs an op on such operands."""
    format = operands[0][0]
    if op in _BY_OP:
        row = ARITHMETICS[_BY_OP[op] if format != "float4_e2m1fn" else "deep_gemm.sm100.mqa_logits_fp4"]
        return _widened(row, operands) if op in _LOGITS else row
    scalings = [scaling for _, scaling in operands if scaling is not None]
    if not scalings:
        return Arithmetic(f"sm90.{format}", f"sm90.wgmma.{format}")
    finest = min(scalings, key=lambda scaling: scaling.block[1] or _NO_BLOCKS)
    narrow, alike = 0 < finest.block[1] < 128, len({scaling.scale_format for scaling in scalings}) == 1
    if narrow and alike and finest.scale_format in SCALED_INSIDE:
        return ARITHMETICS[SCALED_INSIDE[finest.scale_format]]
    if narrow:
        return OUTSIDE.but(interval=finest.block[1])
    return ARITHMETICS["deep_gemm.sm90.fp8_1d2d" if finest.block[1] == 128 else "cublaslt.fp8_promote128"]


def _widened(row: Arithmetic, operands: Sequence[Operand]) -> Arithmetic:
    """Return the arithmetic on the core of 16-bit products, where q or kv is of a format that its own does not take."""
    if all(format != "bfloat16" for format, _ in operands[:2]):
        return row
    return row.but(name=f"{row.name}.bfloat16", core="sm90.wgmma.bfloat16", status="assumed", source="")


def published_arithmetics(limits: Arithmetic) -> list[Arithmetic]:
    """Return what published accumulators of the width of a limit do: how much each truncates toward zero."""
    kind = _kind(limits.tensor_core)
    rows = {(row.step, row.fraction_bits): row.name for row in TENSOR_CORES.values() if _kind(row) == kind}
    intervals = (0, 128) if limits.scales in ("none", "epilogue") else (limits.interval,)
    return [limits.but(core=name, interval=interval) for name in rows.values() for interval in intervals]


def _kind(core: TensorCore) -> tuple[str, int, bool]:
    return core.format, core.scale_block, core.fraction_bits < NARROW


def may_be_narrow(architecture: str | None) -> bool:
    """Return whether FP8 may be added in 13 fraction bits: not on a CPU; anywhere, where nobody says where that was."""
    if instance("architecture", architecture, str | None, "an architecture's name, 'cpu', or None") is None:
        return True
    return architecture != CPU and ARCHITECTURES[architecture].narrow_fp8


def bound_of(limits: Arithmetic | str) -> str:
    """Return whose bound it is that an output is held to, as a sentence says it."""
    limits = resolve(limits)
    if limits.status != "undeclared":
        return f"the bound of {limits.name or limits.core}"
    bits = limits.tensor_core.fraction_bits
    return (
        f"the bound of an accumulator of {bits} fraction bits" if bits < NARROW else "the bound of an fp32 accumulator"
    )


def limit_arithmetic(op: str, operands: Sequence[Operand], narrow: bool) -> Arithmetic:
    """Return what bounds an implementation that declares nothing.

    `narrow` says that FP8 products may be added in 13 fraction bits, as Ada and Hopper do; elsewhere every product is
    added in fp32 or better, which a core of 25 fraction bits with truncated fp32 results covers.
    """
    typical = typical_arithmetic(op, operands).but(status="undeclared")
    if typical.scales in ("none", "epilogue"):
        typical = typical.but(interval=0)  # nobody promises a promotion that no scale asks for
    if narrow and typical.scales == "core" and typical.lanes is None:
        return _outside(operands)
    wide = f"sm100.tcgen05.{typical.tensor_core.format}"
    return typical if narrow or typical.scales == "core" else typical.but(core=wide)


def _outside(operands: Sequence[Operand]) -> Arithmetic:
    """Return what adds a block in a narrow accumulator, and its scales afterwards: Ada and Hopper scale no other way.

    Limits of what is undeclared hold an instruction that scales as well (dgref.reference.bound_plans).
    """
    block = min(scaling.block[1] or _NO_BLOCKS for _, scaling in operands if scaling is not None)
    return OUTSIDE.but(interval=block, status="undeclared")
