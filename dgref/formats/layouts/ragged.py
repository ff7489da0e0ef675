"""Layouts whose rows belong to groups: each group is packed by itself, or rows between groups are padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dgref.errors import LayoutError, ShapeError, expected, whole_number, whole_numbers
from dgref.formats.layouts.arrays import Array, zeros
from dgref.formats.layouts.base import Layout, Shape
from dgref.formats.layouts.tiled import Tiled


def _extents(values: Sequence[int], rows: int, name: str) -> list[int]:
    """Return the groups' row counts, which must cover the rows."""
    extents = list(whole_numbers("extents", values, error=ShapeError))
    if sum(extents) != rows:
        raise ShapeError(expected("extents", f"{extents} with sum {sum(extents)}", f"counts with sum {rows}", name))
    return extents


@dataclass(frozen=True, kw_only=True)
class Grouped(Layout):
    """Rows in consecutive groups of `extents` rows, each packed alone and laid after the one before."""

    inner: Tiled
    parameters: tuple[str, ...] = ("extents",)

    def _groups(self, shape: Shape, extents: Sequence[int]) -> Iterator[tuple[slice, slice, Shape]]:
        """Yield the rows of each group in the grid, its rows in the buffer, and its grid shape."""
        start = into = 0
        for extent in _extents(extents, shape[-2], self.name):
            one = (extent, shape[-1])
            rows = self.inner.element_shape(one)[0]
            yield slice(start, start + extent), slice(into, into + rows), one
            start, into = start + extent, into + rows

    def element_shape(self, shape: Shape, extents: Sequence[int]) -> Shape:
        """Return the shape of one matrix's buffer, in elements."""
        last = [target.stop for _, target, _ in self._groups(shape, extents)]
        return (last[-1] if last else 0, *self.inner.element_shape((1, shape[-1]))[1:])

    def locate(self, rows: np.ndarray, columns: np.ndarray, shape: Shape, extents: Sequence[int]) -> np.ndarray:
        """Locate within the group, then add where the group starts."""
        address = np.full(np.broadcast(rows, columns).shape, -1, np.int64)
        width = int(np.prod(self.element_shape(shape, extents)[1:]))
        for source, target, one in self._groups(shape, extents):
            inside = (rows >= source.start) & (rows < source.stop)
            here = self.inner.locate(np.where(inside, rows - source.start, 0), columns, one)
            address = np.where(inside, target.start * width + here, address)
        return address

    def arrange(self, codes: Array, extents: Sequence[int]) -> Array:
        """Pack every group into its rows of the buffer."""
        shape = tuple(codes.shape)
        result = zeros(codes, (*shape[:-2], *self.element_shape(shape[-2:], extents)))
        axis = len(shape) - 2
        for source, target, _ in self._groups(shape, extents):
            result[(slice(None),) * axis + (target,)] = self.inner.arrange(codes[..., source, :])
        return result

    def restore(self, codes: Array, shape: Shape, extents: Sequence[int]) -> Array:
        """Unpack every group."""
        result = zeros(codes, tuple(shape))
        axis = len(shape) - 2
        for source, target, one in self._groups(shape, extents):
            group = codes[(slice(None),) * axis + (target,)]
            result[..., source, :] = self.inner.restore(group, (*shape[:-2], *one))
        return result


@dataclass(frozen=True, kw_only=True)
class PrefixSum(Layout):
    """Rows of group g are [align(ends[g-1]), ends[g]); every row between groups is padding and packs to zero."""

    inner: Tiled
    parameters: tuple[str, ...] = ("ends",)

    @property
    def options(self) -> tuple[str, ...]:
        """`row_alignment`: what a group's first row is a multiple of (128 unless told)."""
        return ("row_alignment",)

    def spans(self, rows: int, ends: Sequence[int], row_alignment: int = 128) -> Iterator[slice]:
        """Yield the rows of each group; a group whose end is not after its start is empty."""
        start = last = 0
        row_alignment = whole_number("row_alignment", row_alignment, 1, error=LayoutError)
        for end in whole_numbers("ends", ends, error=LayoutError):
            if not last <= end <= rows:
                raise LayoutError(expected("ends", f"{end} after {last}", f"{last} to {rows}", self.name))
            yield slice(start, max(start, end))
            start, last = -(-end // row_alignment) * row_alignment, end

    def stored(self, rows: int, **groups) -> np.ndarray:
        """Return which rows belong to a group."""
        mask = np.zeros(rows, bool)
        for span in self.spans(rows, **groups):
            mask[span] = True
        return mask

    def element_shape(self, shape: Shape, **_) -> Shape:
        """Return the shape of one matrix's buffer, in elements."""
        return self.inner.element_shape(shape)

    def locate(self, rows: np.ndarray, columns: np.ndarray, shape: Shape, **groups) -> np.ndarray:
        """Locate as the inner layout does, and -1 in padding rows."""
        inside = self.stored(shape[-2], **groups)[rows]
        return np.where(inside, self.inner.locate(rows, columns, shape), -1)

    def encode(self, scales: Array, **groups) -> Array:
        """Encode the groups' rows; padding rows are never read, so they may hold anything."""
        codes = zeros(self.elements.encode(scales[..., :0, :]), tuple(scales.shape))
        for span in self.spans(scales.shape[-2], **groups):
            codes[..., span, :] = self.elements.encode(scales[..., span, :])
        return codes

    def arrange(self, codes: Array, **_) -> Array:
        """Pack everything; the padding rows are zeros already."""
        return self.inner.arrange(codes)

    def restore(self, codes: Array, shape: Shape, **_) -> Array:
        """Unpack everything; padding rows give whatever their words hold."""
        return self.inner.restore(codes, shape)
