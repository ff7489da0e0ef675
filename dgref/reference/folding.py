"""Scales that are powers of two, folded into codes of a wider format before anything is multiplied.

A chain of instructions takes one scale of each row. Where a row has several of them over the chain's K, and they lie
near enough to the first, the codes become values of a wider format times their distance from it, exactly: the chain
then has the first scale alone. Where they do not, each has a chain of its own.
"""

from __future__ import annotations

from dataclasses import replace
from math import floor, frexp, log2

import numpy as np

from dgref.errors import FormatError, ShapeError, expected
from dgref.formats.element import FORMATS, Format
from dgref.formats.native import to_numpy
from dgref.formats.scaling import FULL
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import Arithmetic

_POWERS = "float8_e8m0fnu"
_NOTHING = -1  # the scale of zeros that stand for a chain which is not there


def folded(a: ScaledTensor, b: ScaledTensor, arithmetic: Arithmetic) -> tuple[ScaledTensor, ScaledTensor, Arithmetic]:
    """Return operands and an arithmetic that folds nothing, of the same bits as these.

    A part of K in which some row of b does not fold stands several times: once for the rows that fold, then once for
    each scale of the others, with zeros in place of everything else. Their scale is -1: a product of -0 changes no sum,
    not even one of -0, where A's scales are finite and above zero. `kinds` says how to go about the others.
    """
    interval, plain = arithmetic.interval, arithmetic.but(fold_b=None)
    if not _may_fold(b, arithmetic):
        return a, b, plain
    _check(a, b, arithmetic)
    k = b.shape[-1]
    parts, values, scales = _parts(b, interval, FORMATS[arithmetic.fold_b], sparing=_marks_zeros(a))
    left = _repeated(a, interval, parts)
    chosen = FORMATS[arithmetic.fold_b]
    scaling = replace(b.scaling, block=(1, interval), scale_format="float32")
    right = ScaledTensor(chosen.encode(values), chosen.name, scales, scaling, b.global_scale)
    if len(parts) * interval - k < interval and len(set(parts)) == len(parts):
        left, right = a, replace(right, data=right.data[..., :k])
    edges = [int(np.searchsorted(parts, stop // interval)) * interval for _, stop in arithmetic.ranges(k)[:-1]]
    return left, right, plain.but(splits=1, boundaries=tuple(edges))  # of the new K, which may be longer than any named


def kinds(a: ScaledTensor, b: ScaledTensor, arithmetic: Arithmetic) -> np.ndarray | None:
    """Return numbers [..., N] that say which rows of b fold in the same parts of K; None where it does not matter.

    Rows of one kind need no zeros in place of chains that are not there. It matters where a scale of A would make
    something of those zeros.
    """
    if not _may_fold(b, arithmetic) or not _marks_zeros(a):
        return None
    _check(a, b, arithmetic)
    folds = _distances(b, arithmetic.interval, FORMATS[arithmetic.fold_b])[2]
    patterns, numbers = np.unique(folds.reshape(-1, folds.shape[-1]), axis=0, return_inverse=True)
    return None if len(patterns) == 1 else numbers.reshape(folds.shape[:-1])


def octaves(narrow: Format, wide: Format) -> tuple[int, int]:
    """Return by how many octaves all values of a format may be moved and stay normal numbers of a wider one."""
    least = frexp(float(narrow.min_subnormal))[1] - 1
    return wide.emin - least, floor(log2(wide.max / narrow.max))


def _width(tensor: ScaledTensor) -> int | None:
    if tensor.scale is None or tensor.scaling.block[1] == FULL:
        return None
    return tensor.scaling.block[1]


def _may_fold(b: ScaledTensor, arithmetic: Arithmetic) -> bool:
    width = _width(b)
    return arithmetic.fold_b is not None and width is not None and width < arithmetic.interval and 0 not in b.shape


def _marks_zeros(a: ScaledTensor) -> bool:
    """Whether a scale is infinite, which makes NaN of zeros, or negative, which adds +0 to a sum of -0."""
    scales = np.zeros(0) if a.scale is None else np.asarray(to_numpy(a.scale_values()), np.float32)
    return bool((np.isinf(scales) | np.signbit(scales)).any())


def _check(a: ScaledTensor, b: ScaledTensor, arithmetic: Arithmetic) -> None:
    width, interval, k = _width(b), arithmetic.interval, b.shape[-1]
    if b.scaling.scale_format != _POWERS:
        raise FormatError(expected("b.scale", b.scaling.scale_format, f"{_POWERS}, to be folded", arithmetic.name))
    narrow, wide = FORMATS[b.format], FORMATS[arithmetic.fold_b]
    values = np.asarray(narrow.decode(np.arange(1 << narrow.storage_bits, dtype=narrow.code_dtype)), np.float32)
    if not np.array_equal(wide.decode(wide.encode(values)), values, equal_nan=True):
        raise FormatError(expected("b", b.format, f"a format whose values {wide.name} holds", arithmetic.name))
    if b.scaling.block[0] != 1 or interval % width:
        need = f"1 row by a divisor of {interval}, to be folded"
        raise ShapeError(expected("b.scale", f"blocks of {b.scaling.block}", need, arithmetic.name))
    if _width(a) is not None and _width(a) % interval:
        need = "chains of instructions that stay inside a block"
        raise ShapeError(expected("a.scale", f"blocks of {_width(a)} along K", need, f"each runs over {interval}"))
    uneven = [stop for _, stop in arithmetic.ranges(k)[:-1] if stop % interval]
    if uneven:
        need = f"multiples of the interval {interval}, where scales are folded"
        raise ShapeError(expected("split boundaries", uneven, need, arithmetic.name))


def _parts(b: ScaledTensor, interval: int, wide: Format, sparing: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which interval of K each part of the new K is, b's values over it, and the one scale of each row.

    `sparing` leaves out the part for rows that fold where none does: it would hold zeros alone.
    """
    *lead, k = b.shape
    grid, moved, folds = _distances(b, interval, wide)
    count, each = grid.shape[-2:]
    values = np.zeros((*lead, count * interval), np.float32)
    values[..., :k] = to_numpy(b.values())
    values = values.reshape(*lead, count, each, -1)
    moved = np.where(folds[..., None], moved, 0)
    absent = ~folds.reshape(-1, count).any(0) & sparing
    whole = folds.reshape(-1, count).all(0)
    found, scales, parts = [], [], []
    for part in range(count):
        every = np.ldexp(values[..., part, :, :], moved[..., part, :, None])
        keep = folds[..., part, None, None]
        if not absent[part]:
            found.append(np.where(keep, every, 0))
            scales.append(np.where(folds[..., part], grid[..., part, 0], _NOTHING))
            parts.append(part)
        within = min(each, -(-(k - part * interval) // _width(b)))  # beyond the end of K are no chains
        for index in () if whole[part] else range(within):
            own = np.zeros_like(every)
            own[..., index, :] = np.where(keep[..., 0], 0, values[..., part, index, :])
            found.append(own)
            scales.append(np.where(folds[..., part], _NOTHING, grid[..., part, index]))
            parts.append(part)
    stacked = np.stack(found, axis=-3).reshape(*lead, len(parts) * interval)
    return np.array(parts), stacked, np.stack(scales, axis=-1).astype(np.float32)


def _distances(b: ScaledTensor, interval: int, wide: Format) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scales [..., intervals, scales of each], their octaves from the first, and which intervals fold."""
    count, each = -(-b.shape[-1] // interval), interval // _width(b)
    grid, exponents = _by_interval(np.asarray(to_numpy(b.scale_values()), np.float32), count, each)
    low, high = octaves(FORMATS[b.format], wide)
    moved = exponents - exponents[..., :1]
    return grid, moved, np.isfinite(grid).all(-1) & (moved >= low).all(-1) & (moved <= high).all(-1)


def _by_interval(grid: np.ndarray, count: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scales [..., intervals, scales of each] and their exponents; beyond K the first of an interval stands."""
    *lead, columns = grid.shape
    whole = np.empty((*lead, count * each), np.float32)
    whole[..., :columns] = grid
    whole[..., columns:] = grid[..., (count - 1) * each, None]
    whole = whole.reshape(*lead, count, each)
    finite = np.where(np.isfinite(whole), whole, 1)
    return whole, np.frexp(finite)[1]


def _repeated(a: ScaledTensor, interval: int, parts: np.ndarray) -> ScaledTensor:
    """Return a over these intervals of K, the last filled up with zeros."""
    *lead, k = a.shape
    data = to_numpy(a.data)
    whole = np.zeros((*lead, (int(parts[-1]) + 1) * interval), data.dtype)
    whole[..., :k] = data
    data = whole.reshape(*lead, -1, interval)[..., parts, :].reshape(*lead, len(parts) * interval)
    if _width(a) is None:
        return replace(a, data=data)
    lines = parts * interval // _width(a)
    scaling = replace(a.scaling, block=(a.scaling.block[0], interval))
    return replace(a, data=data, scale=to_numpy(a.scale)[..., lines], scaling=scaling)
