"""The op table: what is computed, on which shapes, with what left undefined, at what cost. `OPS` holds every row."""

from dgref.ops import codecs, gemm, grouped
from dgref.ops.op import Op
from dgref.ops.problem import Constraint, Operand, Param, Problem
from dgref.registry import Registry

OPS: Registry[Op] = Registry("op", [row for room in (codecs, gemm, grouped) for row in room.ROWS])

__all__ = ["OPS", "Constraint", "Op", "Operand", "Param", "Problem"]
