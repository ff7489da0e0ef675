"""Layouts that are a pattern of digits, and compositions of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from dgref.errors import LayoutError, expected
from dgref.formats.layouts.arrays import Array, is_torch, padded, permuted
from dgref.formats.layouts.base import Layout, Shape
from dgref.formats.layouts.pattern import Pattern, split_modes

_FAST_BYTES = 1 << 14  # below this the readable way is quicker than a compiled call


@dataclass(frozen=True, kw_only=True)
class Tiled(Layout):
    """A layout that one pattern describes."""

    pattern: Pattern

    @property
    def divisor(self) -> int:
        """What the number of rows must be a multiple of: one, where the pattern pads."""
        return 1 if self.pattern.pads else self.pattern.unit(0)

    def element_shape(self, shape: Shape) -> Shape:
        """Return the shape of one matrix's buffer, in elements."""
        return self.pattern.buffer_shape(shape)

    def view_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Return the shapes of the buffer as a matrix by column, where memory begins with the logical columns."""
        if self.pattern.right[0][0] not in self.pattern.left[1]:
            return ()
        columns, rows = self.buffer_shape(shape)[-2:]
        return tuple((*shape[:-2], count, columns) for count in dict.fromkeys((shape[-2], rows)))

    def locate(self, rows: np.ndarray, columns: np.ndarray, shape: Shape) -> np.ndarray:
        """Sum digit x stride; of repeated elements this is the first."""
        sizes, strides = self.pattern.extents(shape), self.pattern.strides(shape)
        address = np.int64(0)
        for axis, coordinate in zip(self.pattern.left, (rows, columns), strict=True):
            for digit in reversed(axis):
                size = max(sizes[digit], 1)
                address = address + coordinate % size * strides[digit]
                coordinate = coordinate // size
        return address

    def arrange(self, codes: Array) -> Array:
        """Put raw codes in memory order."""
        return _fast_arrange(self, (self,), codes) if _fast(codes) else self.readable_arrange(codes)

    def readable_arrange(self, codes: Array) -> Array:
        """Pad, split, permute, join: the definition that the fast way is held equal to."""
        pattern, lead, shape = self.pattern, tuple(codes.shape[:-2]), tuple(codes.shape)
        sizes = pattern.extents(shape)
        digits = [digit for axis in pattern.left for digit in axis]
        split = padded(codes, *pattern.padded(shape)).reshape(*lead, *(sizes[digit] for digit in digits))
        for digit in pattern.repeated:
            split = split.reshape(*split.shape, 1).repeat(*_repeat(split, sizes[digit]))
        order = [(digits + list(pattern.repeated)).index(digit) + len(lead) for digit in pattern.order]
        return permuted(split, [*range(len(lead)), *order]).reshape(*lead, *pattern.buffer_shape(shape))

    def restore(self, codes: Array, shape: Shape) -> Array:
        """Take raw codes out of memory order."""
        pattern, lead = self.pattern, tuple(shape[:-2])
        sizes = pattern.extents(shape)
        digits = [digit for axis in pattern.left for digit in axis] + list(pattern.repeated)
        split = codes.reshape(*lead, *(sizes[digit] for digit in pattern.order))
        order = [pattern.order.index(digit) + len(lead) for digit in digits]
        split = permuted(split, [*range(len(lead)), *order])
        for digit in pattern.repeated:
            self._agree(split, digit)
            split = split[..., 0]
        whole = split.reshape(*lead, *pattern.padded(shape))
        return whole[..., : shape[-2], : shape[-1]]

    def _agree(self, split: Array, digit: str) -> None:
        """Refuse copies of one scale that differ: such a buffer is not a broadcast."""
        if not bool((split == split[..., :1]).all()):
            raise LayoutError(expected("buffer", "copies that differ", f"one value along {digit}", self.name))


@dataclass(frozen=True, kw_only=True)
class Composed(Layout):
    """Layouts one after the other: the buffer of each is the grid of the next."""

    stages: tuple[Tiled, ...]

    @property
    def divisor(self) -> int:
        """What the number of rows must be a multiple of: the first stage sees them."""
        return self.stages[0].divisor

    def element_shape(self, shape: Shape) -> Shape:
        """Return the shape of one matrix's buffer, in elements."""
        for stage in self.stages:
            shape = stage.element_shape(shape)
        return shape

    def view_shapes(self, shape: Shape) -> tuple[Shape, ...]:
        """Return those of the last stage: the others decide what its rows are."""
        one = tuple(shape[-2:])
        for stage in self.stages[:-1]:
            one = stage.element_shape(one)
        return self.stages[-1].view_shapes((*shape[:-2], *one))

    def locate(self, rows: np.ndarray, columns: np.ndarray, shape: Shape) -> np.ndarray:
        """Follow a coordinate through every stage."""
        for number, stage in enumerate(self.stages):
            address = stage.locate(rows, columns, shape)
            if number + 1 < len(self.stages):
                shape = stage.element_shape(shape)
                rows, columns = np.divmod(address, max(shape[1], 1))
        return address

    def arrange(self, codes: Array) -> Array:
        """Put raw codes in memory order, in one pass where the patterns fuse."""
        return _fast_arrange(self, self.stages, codes) if _fast(codes) else self.readable_arrange(codes)

    def readable_arrange(self, codes: Array) -> Array:
        """Apply the stages one by one."""
        for stage in self.stages:
            codes = stage.readable_arrange(codes)
        return codes

    def restore(self, codes: Array, shape: Shape) -> Array:
        """Take raw codes out of memory order, last stage first."""
        shapes = [tuple(shape[-2:])]
        for stage in self.stages:
            shapes.append(stage.element_shape(shapes[-1]))
        for stage, one in zip(reversed(self.stages), reversed(shapes[:-1]), strict=True):
            codes = stage.restore(codes, (*shape[:-2], *one))
        return codes

    @cached_property
    def formula(self) -> str:
        """The stages' names, in order."""
        return " then ".join(stage.name for stage in self.stages)


def _repeat(array: Array, count: int) -> tuple:
    """Return the arguments of `repeat` that copy along a last axis of one, which NumPy and torch spell differently."""
    return ((1,) * (array.ndim) + (count,)) if is_torch(array) else (count, array.ndim)


def _fast(codes: Array) -> bool:
    return not is_torch(codes) and codes.nbytes >= _FAST_BYTES


def _fast_arrange(layout: Layout, stages: tuple[Tiled, ...], codes: np.ndarray) -> np.ndarray:
    """Copy once through fused modes; fall back where digits or padding do not fuse."""
    from dgref.formats.layouts.fast import strided_copy

    shape = tuple(codes.shape)
    source = _whole(stages, shape)
    need = layout.element_shape(shape[-2:])
    try:
        modes = _fused(stages, source)
    except LayoutError:
        return layout.readable_arrange(codes)
    if prod(extent for extent, _ in modes) != prod(need):
        return layout.readable_arrange(codes)
    whole = np.ascontiguousarray(padded(codes, *source))
    batches = (prod(shape[:-2]), prod(source))
    return strided_copy(whole.reshape(-1), [batches, *modes]).reshape(*shape[:-2], *need)


def _whole(stages: tuple[Tiled, ...], shape: Shape) -> tuple[int, int]:
    """Return the padded extents of the grid that every stage then divides."""
    rows, columns = stages[0].pattern.padded(shape)
    unit = stages[-1].pattern.unit(1)
    return rows, -(-columns // unit) * unit


def _fused(stages: tuple[Tiled, ...], shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (extent, source step) of every digit of the composition, in memory order."""
    axes = [[(shape[0], shape[1])], [(shape[1], 1)]]
    for stage in stages:
        pattern = stage.pattern
        extents = tuple(prod(extent for extent, _ in axis) for axis in axes)
        if extents != pattern.padded(extents):
            raise LayoutError(expected("composition", extents, "no padding between stages", stage.name))
        sizes = pattern.extents(extents)
        modes = {digit: [(sizes[digit], 0)] for digit in pattern.repeated}
        for axis, digits in zip(axes, pattern.left, strict=True):
            modes.update(zip(digits, split_modes(axis, [sizes[digit] for digit in digits]), strict=True))
        axes = [[mode for digit in axis for mode in modes[digit]] for axis in pattern.right]
    return [mode for axis in axes for mode in axis]
