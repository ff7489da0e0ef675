"""Where two arrays differ: the smallest description of a set of elements.

Candidate descriptions (rows, columns, tiles, groups, periodic stripes) compete by code length: the bits that say the
description, plus the bits that then say which elements inside and outside of it really differ. The shortest one wins,
so a description must pay for itself, and noise is called scattered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import log2
from typing import Any

import numpy as np

from dgref.compare.scan import CELL, Scan
from dgref.compare.stripes import Axis, axis_candidates
from dgref.errors import counted

TILE_SIZES = [CELL << i for i in range(6)]  # 8 to 256, both ways
_LISTED = 16  # tiles named one by one


@dataclass(frozen=True)
class Where:
    """A set of elements, described. `kind` is none, everything, scattered, region or tiles."""

    kind: str
    description: str
    inside: int = 0  # elements of the described set
    differing: int = 0  # those of them that differ
    missed: int = 0  # differing elements outside of it
    bits: float = 0.0
    parts: dict[str, Any] = field(default_factory=dict)  # rows, columns, groups, tile, tiles

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        counts = {"inside": self.inside, "differing": self.differing, "missed": self.missed}
        return {"kind": self.kind, "description": self.description, **counts, **self.parts}


def locate(
    found: Scan, shape: tuple[int, ...], count: Callable | None = None, labels: np.ndarray | None = None
) -> Where:
    """Return the smallest description of what differs in an array of `shape`.

    `count(rows, columns)` counts differing elements among chosen rows and columns, where margins alone cannot tell.
    `labels` gives each row's group, for outputs that hold the groups one below the other; leading axes are groups.
    """
    total, size = found.differing, found.row_counts.size * found.column_counts.size
    if total == 0:
        return Where("none", "nothing")
    if total == 1:
        return _single(found)
    candidates = [_scattered(total, size), *_regions(found, shape, count, labels), *_tiles(found, size)]
    return min(candidates, key=lambda where: where.bits)


def code_length(inside: int, differing: int, outside: int, missed: int) -> float:
    """Return the bits that say which elements differ, knowing only how many do inside and outside."""
    return _entropy(inside, differing) + _entropy(outside, missed)


def _entropy(size: int, chosen: int) -> float:
    if chosen <= 0 or chosen >= size:
        return log2(size + 1)
    share = chosen / size
    return -size * (share * log2(share) + (1 - share) * log2(1 - share)) + log2(size + 1)


def _scattered(total: int, size: int) -> Where:
    share = total / size
    bits = 1 + code_length(size, total, 0, 0)
    if share > 0.999:
        return Where("everything", "everything", size, total, 0, bits)
    text = f"scattered {share:.1%}" if share >= 0.001 else counted(total, "scattered element")
    return Where("scattered", text, size, total, 0, bits)


def _single(found: Scan) -> Where:
    row, column = int(found.row_counts.argmax()), int(found.column_counts.argmax())
    parts = {"rows": [(row, row)], "columns": [(column, column)]}
    return Where("region", f"one element at ({row}, {column})", 1, 1, 0, 0.0, parts)


def _regions(found: Scan, shape: tuple[int, ...], count: Callable | None, labels: np.ndarray | None) -> Iterator[Where]:
    rows = axis_candidates(found.row_counts, "row", groups=_groups(shape), labels=labels)
    columns = axis_candidates(found.column_counts, "column")
    for row in rows:
        for column in columns:
            if not (row.all and column.all):
                yield _region(found, row, column, count)


def _groups(shape: tuple[int, ...]) -> int:
    """Return how many rows of the flattened matrix one leading index spans; 0 for a plain matrix."""
    return int(shape[-2]) if len(shape) > 2 else 0


def _region(found: Scan, rows: Axis, columns: Axis, count: Callable | None) -> Where:
    inside = int(rows.chosen.sum()) * int(columns.chosen.sum())
    total = found.differing
    differing = _inside(found, rows, columns, count)
    size = found.row_counts.size * found.column_counts.size
    text = ", ".join(axis.text for axis in (rows, columns) if not axis.all)
    bits = 3 + rows.bits + columns.bits + code_length(inside, differing, size - inside, total - differing)
    parts = {axis.name: axis.data for axis in (rows, columns) if not axis.all}
    return Where("region", text, inside, differing, total - differing, bits, parts)


def _inside(found: Scan, rows: Axis, columns: Axis, count: Callable | None) -> int:
    """Return the differing elements in a product of rows and columns."""
    total = found.differing
    in_rows, in_columns = int(found.row_counts[rows.chosen].sum()), int(found.column_counts[columns.chosen].sum())
    if in_columns == total:
        return in_rows
    if in_rows == total:
        return in_columns
    if count is not None:
        return count(np.nonzero(rows.chosen)[0], np.nonzero(columns.chosen)[0])
    return max(0, in_rows + in_columns - total)  # at least this many


def _tiles(found: Scan, size: int) -> Iterator[Where]:
    extents = found.row_counts.size, found.column_counts.size
    for tile, counts in _tile_counts(found.grid):
        if tile[0] < 2 * extents[0] and tile[1] < 2 * extents[1]:
            yield _tile_set(counts, tile, extents, found.differing, size)


def _tile_counts(grid: np.ndarray) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield the counts of every tile size, each from the size below by adding neighbours."""
    tall = grid.astype(np.int32)
    for height in TILE_SIZES:
        wide = tall
        for width in TILE_SIZES:
            yield (height, width), wide
            wide = _halved(wide, 1)
        tall = _halved(tall, 0)


def _halved(counts: np.ndarray, axis: int) -> np.ndarray:
    even, odd = (counts[start::2] if axis == 0 else counts[:, start::2] for start in (0, 1))
    total = even.copy()
    total[: odd.shape[0], : odd.shape[1]] += odd
    return total


def _tile_set(counts: np.ndarray, tile: tuple[int, int], extents: tuple[int, int], total: int, size: int) -> Where:
    chosen = counts > counts.max() / 4
    heights, widths = (
        np.minimum(side, extent - np.arange(n) * side)
        for side, extent, n in zip(tile, extents, counts.shape, strict=True)
    )
    inside = int(heights.astype(np.float64) @ (chosen @ widths.astype(np.float64)))
    differing = int(counts[chosen].sum())
    number = int(chosen.sum())
    bits = 3 + 2 * log2(len(TILE_SIZES)) + _entropy(chosen.size, number)
    bits += code_length(inside, differing, size - inside, total - differing)
    listed = np.unravel_index(np.flatnonzero(chosen)[:_LISTED], chosen.shape)
    places = [(int(row), int(column)) for row, column in zip(*listed, strict=True)]
    name = f"{tile[0]}x{tile[1]}"
    first = ", ".join(str(place) for place in places[:4]) + (", …" if number > 4 else "")
    text = f"one {name} tile at {first}" if number == 1 else f"{number:,} tiles of {name} at {first}"
    return Where("tiles", text, inside, differing, total - differing, bits, {"tile": list(tile), "tiles": places})
