"""The op table: what is computed, on which shapes, with what left undefined, at what cost. `OPS` holds every row."""

from dgref.ops import attention, codecs, einsum, gemm, grouped, hyperconnection, moe, scale_transforms
from dgref.ops.op import Op
from dgref.ops.part import Part
from dgref.ops.problem import Constraint, Operand, Param, Problem
from dgref.registry import Registry

_ROOMS = (codecs, gemm, grouped, einsum, attention, hyperconnection, moe, scale_transforms)
OPS: Registry[Op] = Registry("op", [row for room in _ROOMS for row in room.ROWS], listed="ops")

__all__ = ["OPS", "Constraint", "Op", "Operand", "Param", "Part", "Problem"]
