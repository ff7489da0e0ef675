"""Tensors as a plan knows them: everything but where they lie, which every launch says anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Address:
    """Where operand `index` of a call lies: at `now` when the plan is made, elsewhere at the next launch.

    It is no number, so that nothing computed from it can stay behind in a plan: a pointer or a tensor map is all that
    it becomes. Its remainder by 16 is the same at every launch of a plan.
    """

    index: int
    now: int

    def __mod__(self, alignment: int) -> int:
        if 16 % alignment:
            raise ValueError(f"an address is planned by its remainder by 16, not by {alignment}")
        return self.now % alignment

    def __str__(self) -> str:
        return hex(self.now)


@dataclass(frozen=True)
class Struct:
    """A struct that is passed by value, and which of its bytes are addresses of operands."""

    data: bytes
    addresses: tuple[tuple[int, Address], ...]


class Operand:
    """An operand of a call, as what plans it may read it: a tensor's geometry, and an address to be replaced."""

    def __init__(self, tensor: Any, index: int):
        self._tensor, self._index = tensor, index
        self.dtype, self.shape, self.device = tensor.dtype, tensor.shape, tensor.device
        self.dim, self.stride, self.numel = tensor.dim, tensor.stride, tensor.numel
        self.element_size, self.is_contiguous = tensor.element_size, tensor.is_contiguous

    def data_ptr(self) -> Address:
        """Return the address, for a plan to replace."""
        return Address(self._index, self._tensor.data_ptr())

    def t(self) -> Operand:
        """Return the transposed view of a matrix, which lies at the same address."""
        return Operand(self._tensor.t(), self._index)

    def transpose(self, first: int, second: int) -> Operand:
        """Return the view with two axes swapped, which lies at the same address."""
        return Operand(self._tensor.transpose(first, second), self._index)
