"""dgref's own references as backends, so that each independent path is judged by another.

`reference/rational` adds fractions and is judged by the exact oracle; `reference/readable` runs the short tensor-core
models and is judged by the fast engine; `reference/engine` runs the fast engine and is held to the derived bound.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from dgref.arch import Architecture
from dgref.backends.base import BackendBase, FunctionKernel, Inputs, Kernel
from dgref.formats import RECIPES
from dgref.ops import OPS
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic
from dgref.reference.dispatch import using
from dgref.suite import Case

RATIONAL_LIMIT = 1 << 18  # multiply-adds: what fractions do within a second
READABLE_LIMIT = 1 << 23


class _Reference(BackendBase):
    def __init__(self, name: str, path: str, limit: int | None):
        self.name = f"reference/{name}"
        self._path = path
        self._limit = limit

    def unsupported(self, case: Case, architecture: Architecture | None) -> str | None:
        op = OPS[case.op]
        work = op.flops(case) // 2
        if self._path != "engine" and not op.takes_arithmetic:
            return f"{case.op} has one path only, which reference/engine runs"
        if self._limit is not None and work > self._limit:
            return f"{work} multiply-adds: more than the {self._limit} that this slow path takes"
        return None

    def arithmetic(self, case: Case, architecture: Architecture | None) -> Any:
        if not OPS[case.op].takes_arithmetic or self._path == "rational":
            return "exact"
        return default_arithmetic(case) if self._path == "readable" else None

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        return FunctionKernel(partial(self._compute, case, inputs))

    def _compute(self, case: Case, inputs: Inputs) -> dict[str, Any]:
        op = OPS[case.op]
        if not op.takes_arithmetic:
            return op.compute(case, inputs)
        arithmetic = "exact" if self._path == "rational" else default_arithmetic(case)
        with using("fast" if self._path == "engine" else "readable"):
            return op.compute(case, inputs, arithmetic)


_BY_OP = {
    "hc_prenorm": "deep_gemm.{}.hc_prenorm",
    "mqa_logits": "deep_gemm.{}.mqa_logits",
    "paged_mqa_logits": "deep_gemm.{}.mqa_logits",
}
NO_BLOCKS = 1 << 30  # a scale that spans all of K
_BY_SCALE_FORMAT = {"float8_e8m0fnu": "deep_gemm.sm100.fp8_fp4", "float8_e4m3fn": "cublaslt.sm100.nvfp4"}


def default_arithmetic(case: Case) -> Arithmetic:
    """Return the arithmetic of the hardware and library that most likely runs a case."""
    rows = [RECIPES[recipe] for recipe in OPS[case.op].recipes(case).values()]
    if case.op in _BY_OP:
        return ARITHMETICS[_BY_OP[case.op].format("sm100" if rows[0].format == "float4_e2m1fn" else "sm90")]
    scalings = [row.scaling for row in rows if row.scaling is not None]
    if not scalings:
        return Arithmetic(f"sm90.{rows[0].format}", f"sm90.wgmma.{rows[0].format}")
    finest = min(scalings, key=lambda scaling: scaling.block[1] or NO_BLOCKS)
    if finest.scale_format in _BY_SCALE_FORMAT and finest.block[1] < 128:
        return ARITHMETICS[_BY_SCALE_FORMAT[finest.scale_format]]
    return ARITHMETICS["deep_gemm.sm90.fp8_1d2d" if finest.block[1] == 128 else "cublaslt.fp8_promote128"]


BACKENDS = [
    _Reference("rational", "rational", RATIONAL_LIMIT),
    _Reference("readable", "readable", READABLE_LIMIT),
    _Reference("engine", "engine", None),
]
