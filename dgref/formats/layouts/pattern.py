"""Patterns: a layout as one line, `(T a b) (U c) -> (T U b a c)`.

The left side splits the two logical axes into digits, most significant first; the right side orders the digits in
memory, and its parentheses are the axes of the buffer. An upper-case digit takes whatever extent is left; a
lower-case digit has a fixed extent. A digit that appears on the right only repeats what is there (a broadcast).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import prod

from dgref.errors import LayoutError, ShapeError, expected

Digits = tuple[str, ...]


def _axes(side: str) -> tuple[Digits, ...]:
    return tuple(tuple((group or single).split()) for group, single in re.findall(r"\(([^)]*)\)|(\S+)", side))


@dataclass(frozen=True)
class Pattern:
    """How digits of the logical coordinate are ordered in memory."""

    text: str
    fixed: tuple[tuple[str, int], ...] = ()
    pads: bool = True  # False: an extent that does not divide is an error, because padding would move real rows

    @cached_property
    def left(self) -> tuple[Digits, ...]:
        """The digits of each logical axis."""
        return _axes(self.text.split("->")[0])

    @cached_property
    def right(self) -> tuple[Digits, ...]:
        """The digits of each axis of the buffer."""
        return _axes(self.text.split("->")[1])

    @cached_property
    def order(self) -> Digits:
        """Every digit, in the order of memory."""
        return tuple(chain(*self.right))

    @cached_property
    def repeated(self) -> Digits:
        """Digits that copy, because no logical axis has them."""
        return tuple(digit for digit in self.order if digit not in chain(*self.left))

    def unit(self, axis: int) -> int:
        """The extent that the logical axis is padded to a multiple of."""
        return prod(dict(self.fixed)[digit] for digit in self.left[axis] if digit.islower())

    def padded(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the two logical extents after padding."""
        return tuple(-(-extent // self.unit(axis)) * self.unit(axis) for axis, extent in enumerate(shape[-2:]))

    def extents(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Return the extent of every digit for a logical shape."""
        sizes = dict(self.fixed)
        for axis, extent in enumerate(shape[-2:]):
            unit = self.unit(axis)
            if extent % unit and not self.pads:
                raise ShapeError(expected(f"axis {axis - 2} of the scales", extent, f"a multiple of {unit}", self.text))
            sizes.update({digit: -(-extent // unit) for digit in self.left[axis] if digit.isupper()})
        return sizes

    def buffer_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of one matrix's buffer, in elements."""
        sizes = self.extents(shape)
        return tuple(prod(sizes[digit] for digit in axis) for axis in self.right)

    def strides(self, shape: tuple[int, ...]) -> dict[str, int]:
        """Return each digit's step in memory."""
        sizes, step, steps = self.extents(shape), 1, {}
        for digit in reversed(self.order):
            steps[digit] = step
            step *= sizes[digit]
        return steps


def split_modes(modes: list[tuple[int, int]], sizes: list[int]) -> list[list[tuple[int, int]]]:
    """Cut an axis, given as (extent, step) modes, into consecutive digits of the given sizes.

    Raises LayoutError where a digit would cross a mode unevenly: such a composition is not one strided copy.
    """
    rest, digits = list(modes), []
    for size in reversed(sizes):
        taken: list[tuple[int, int]] = []
        while size > 1:
            extent, step = rest.pop() if rest else (1, 0)
            if size % extent == 0 and extent > 1:
                taken.insert(0, (extent, step))
                size //= extent
            elif extent > size and extent % size == 0:
                taken.insert(0, (size, step))
                rest.append((extent // size, step * size))
                size = 1
            elif extent != 1 or not rest:
                raise LayoutError(expected("composition", f"a digit of {size} over {modes}", "digits that divide"))
        digits.insert(0, taken)
    return digits
