"""dgref's own references as backends, so that each independent path is judged by another.

`reference/rational` adds fractions and is judged by the exact oracle; `reference/readable` runs the short tensor-core
models and is judged by the fast engine; `reference/engine` runs the fast engine and is held to the derived bound.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from dgref.arch import Architecture
from dgref.backends.base import BackendBase, FunctionKernel, Inputs, Kernel
from dgref.ops import OPS
from dgref.ops.typical import operands_of, typical_arithmetic
from dgref.reference.dispatch import using
from dgref.suite import Case

RATIONAL_LIMIT = 1 << 16  # multiply-adds: what fractions do within a second
READABLE_LIMIT = 1 << 20


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
            return f"more than the {self._limit} multiply-adds that this slow path takes"
        return None

    def arithmetic(self, case: Case, architecture: Architecture | None) -> Any:
        if not OPS[case.op].takes_arithmetic or self._path == "rational":
            return "exact"
        return typical_arithmetic(case.op, operands_of(case)) if self._path == "readable" else None

    def limit_arithmetic(self, case: Case, architecture: Architecture | None) -> Any:
        return typical_arithmetic(case.op, operands_of(case))

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        return FunctionKernel(partial(self._compute, case, inputs))

    def _compute(self, case: Case, inputs: Inputs) -> dict[str, Any]:
        op = OPS[case.op]
        if not op.takes_arithmetic:
            return op.compute(case, inputs)
        arithmetic = "exact" if self._path == "rational" else typical_arithmetic(case.op, operands_of(case))
        with using("fast" if self._path == "engine" else "readable"):
            return op.compute(case, inputs, arithmetic)


BACKENDS = [
    _Reference("rational", "rational", RATIONAL_LIMIT),
    _Reference("readable", "readable", READABLE_LIMIT),
    _Reference("engine", "engine", None),
]
