"""Grouped products: rows that belong to groups (contiguous, masked), and a K axis cut into groups.

Group boundaries come in two forms: one label or length per row or group, or the running ends of a prefix sum, where
each group starts at the next multiple of `alignment` after the end of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dgref.errors import FormatError, InputError, ShapeError, counted, expected, flag, whole_number
from dgref.formats.scaling import FULL
from dgref.formats.tensor import ScaledTensor
from dgref.reference.dispatch import EXACT, allocated, product
from dgref.reference.operands import (
    bind,
    fitting,
    integers,
    line_of_integers,
    operation,
    scaled,
    take,
    take_columns,
    take_rows,
    values,
)


@operation
def gemm_grouped_contiguous(
    a: Any,
    b: Any,
    grouped_layout: Any,
    *,
    psum: bool = False,
    alignment: int = 128,
    arithmetic: Any = EXACT,
    out: str = "bfloat16",
) -> np.ndarray:
    """Return a[i] @ b[group of row i].T for every row i of a[m, k], with b[groups, n, k].

    `grouped_layout` holds a label for each row, -1 for padding; or, with `psum`, the row at which each group ends.
    Padding rows are zero: what a kernel that guarantees zero padding writes there.
    """
    a, b = scaled(a, "a"), scaled(b, "b")
    axis = "g" if flag("psum", psum) else "m"
    extents = bind({"a": ("m k", a), "b": ("g n k", b), "grouped_layout": (axis, grouped_layout)})
    d = allocated((extents["m"], extents["n"]), out)
    for group, rows in _groups_of_rows(grouped_layout, extents, psum, alignment):
        d[rows] = product(take_rows(a, rows), take(b, group), arithmetic=arithmetic, out=out)
    return d


@operation
def gemm_grouped_masked(a: Any, b: Any, masked_m: Any, *, arithmetic: Any = EXACT, out: str = "bfloat16") -> np.ndarray:
    """Return a[g, i] @ b[g].T for the first masked_m[g] rows i of every group of a[groups, m, k].

    Rows past the mask are not computed by any kernel; they are zero here.
    """
    a, b = scaled(a, "a"), scaled(b, "b")
    extents = bind({"a": ("g m k", a), "b": ("g n k", b), "masked_m": ("g", masked_m)})
    d = allocated((extents["g"], extents["m"], extents["n"]), out)
    for group, count in enumerate(integers(masked_m, "masked_m", 0, extents["m"])):
        part = take_rows(take(a, group), slice(0, int(count)))
        d[group, :count] = product(part, take(b, group), arithmetic=arithmetic, out=out)
    return d


@operation
def gemm_grouped_k(
    a: Any,
    b: Any,
    grouped_layout: Any,
    c: Any = None,
    *,
    psum: bool = False,
    alignment: int = 128,
    arithmetic: Any = EXACT,
    out: str = "float32",
) -> np.ndarray:
    """Return a[:, K of g] @ b[:, K of g].T + c[g] for every group g of the K axis of a[m, k] and b[n, k].

    `grouped_layout` holds the K of each group; or, with `psum`, where each group ends. Every group starts a new scale
    block, so the scale grids are [m, sum over g of ceil(K of g / block)]. An empty group gives c, or zero.
    """
    grouped_layout = integers(grouped_layout, "grouped_layout", 0)
    a, b = (t if isinstance(t, ScaledTensor) else scaled(t, name) for t, name in ((a, "a"), (b, "b")))
    extents = bind({"a": ("m k", a), "b": ("n k", b), "grouped_layout": ("g", grouped_layout), "c": ("g m n", c)})
    d = allocated((extents["g"], extents["m"], extents["n"]), out)
    c = None if c is None else values(c, "c")
    spans = list(k_spans(grouped_layout, extents["k"], psum, alignment))
    scale_a, scale_b = (scale_spans(t, spans, name) for t, name in ((a, "a"), (b, "b")))
    for group, span in enumerate(spans):
        part_a = fitting(take_columns(a, span, scale_a[group]), f"a of group {group}")
        part_b = fitting(take_columns(b, span, scale_b[group]), f"b of group {group}")
        start = None if c is None else c[group]
        d[group] = product(part_a, part_b, start, arithmetic=arithmetic, out=out)
    return d


def _groups_of_rows(layout: Any, extents: dict[str, int], psum: bool, alignment: int) -> Iterator[tuple[int, Any]]:
    if psum:
        spans = psum_spans(layout, extents["m"], alignment)
        yield from ((group, span) for group, span in enumerate(spans) if span.stop > span.start)
        return
    labels = integers(layout, "grouped_layout", -1, extents["g"] - 1)
    yield from ((int(group), np.flatnonzero(labels == group)) for group in np.unique(labels[labels >= 0]))


def psum_spans(ends: Any, limit: int, alignment: int) -> Iterator[slice]:
    """Yield the span of each group from its ends: it starts at the aligned end of the group before."""
    stop, alignment = 0, whole_number("alignment", alignment, 1)
    for group, end in enumerate(line_of_integers(ends, "grouped_layout", 0, limit)):
        start = min(-(-stop // alignment) * alignment, limit)
        if end < start:
            need = f">= {start}, the end of the group before rounded up to {alignment}"
            raise InputError(expected(f"grouped_layout[{group}]", int(end), need))
        stop = int(end)
        yield slice(start, stop)


def k_spans(layout: Any, k: int, psum: bool, alignment: int) -> Iterator[slice]:
    """Yield the span of K that each group covers; lengths must add up to the whole axis."""
    if flag("psum", psum):
        yield from psum_spans(layout, k, alignment)
        return
    lengths = integers(layout, "grouped_layout", 0)
    if lengths.sum() != k:
        raise ShapeError(
            expected("grouped_layout", f"lengths that add up to {lengths.sum()}", f"{k}, the K of a and b")
        )
    ends = np.cumsum(lengths)
    yield from (slice(int(end - length), int(end)) for end, length in zip(ends, lengths, strict=True))


def scale_spans(tensor: ScaledTensor, spans: list[slice], name: str) -> list[slice]:
    """Return which scale columns belong to each group of K: every group starts a new block."""
    if tensor.scale is None:
        return [slice(None)] * len(spans)
    if tensor.scaling is None:
        raise FormatError(expected(f"{name}.scaling", "None beside scales", "a Scaling that explains them"))
    width = tensor.scaling.block[1]
    if width == FULL:
        return [slice(0, 1)] * len(spans)
    counts = [-(-(span.stop - span.start) // width) for span in spans]
    if sum(counts) != tensor.scale.shape[-1]:
        need = f"{counted(sum(counts), 'column')}: ceil(K of a group / {width}), added over the groups"
        raise ShapeError(expected(f"{name} scale", counted(tensor.scale.shape[-1], "column"), need))
    ends = np.cumsum(counts)
    return [slice(int(end - count), int(end)) for end, count in zip(ends, counts, strict=True)]


def check_group_labels(labels: Any, groups: int, alignment: int = 128) -> None:
    """Raise unless labels obey the contract of tiled kernels: one label a tile of `alignment` rows, padding last.

    The error names the first row that breaks it. Kernels read one label a tile and never notice.
    """
    alignment = whole_number("alignment", alignment, 1)
    labels = integers(labels, "grouped_layout", -1, whole_number("groups", groups, 0) - 1)
    if labels.ndim != 1:
        raise ShapeError(expected("grouped_layout shape", list(labels.shape), "one axis [m]"))
    for start in range(0, len(labels), alignment):
        tile = labels[start : start + alignment]
        used = tile != -1
        last = int(np.flatnonzero(used)[-1]) if used.any() else -1
        for row in np.flatnonzero((tile != tile[0]) & (np.arange(len(tile)) <= last)):
            got, where = int(tile[row]), f"rows {start}..{start + len(tile) - 1} are one tile of {alignment}"
            need = f"{int(tile[0])}, as row {start}" if got != -1 else "padding only after the last used row of a tile"
            raise InputError(expected(f"grouped_layout[{start + row}]", got, need, where))
