"""One pass over two arrays of codes: all that a comparison reports, in memory that grows with rows and columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from dgref.compare.ulp import Codes, Policy

CELL = 8  # the grid of counts has one cell for 8 x 8 elements
BINS = 68  # 0: signs of zero; 1 + k: up to 2^k units; the last: unrelated
_SEGMENT = 8192  # columns of one task; a multiple of the run that is tested for equality at once
_RUN = 64
_FAR = np.uint32(0xFFFFFFFF)


@dataclass
class Scan:
    """What one pass found. Rows are the flattened leading axes."""

    histogram: np.ndarray  # [BINS]
    row_counts: np.ndarray  # [rows] differing elements
    column_counts: np.ndarray  # [columns]
    grid: np.ndarray  # [rows / CELL, columns / CELL]
    row_worst: np.ndarray  # [rows] largest distance, saturated
    largest: int  # the largest countable distance
    payloads: int  # NaN against another NaN, where that is no difference

    @property
    def differing(self) -> int:
        """The number of elements that differ."""
        return int(self.histogram.sum())


def matrix(array: np.ndarray) -> np.ndarray:
    """Return an array of any rank as a C-ordered matrix: leading axes are rows, and a vector is one row."""
    array = np.atleast_1d(array)
    return np.ascontiguousarray(array).reshape(-1 if array.size else 0, max(array.shape[-1], 1))


def scan(actual: Codes, expected: Codes, policy: Policy, mask: np.ndarray | None = None) -> Scan:
    """Compare two matrices of codes under a policy; elements where `mask` is False do not count."""
    a, b = matrix(actual.array), matrix(expected.array)
    rows, columns = a.shape
    segments = max(1, -(-columns // _SEGMENT))
    chunks = max(1, min(16, -(-rows // CELL)))
    histogram = np.zeros((chunks * segments, BINS), np.int64)
    row_counts = np.zeros((rows, segments), np.int32)
    column_counts = np.zeros((chunks, columns), np.int32)
    grid = np.zeros((-(-rows // CELL), -(-columns // CELL)), np.uint8)
    worst = np.zeros((rows, segments), np.uint32)
    largest, payloads = np.zeros((2, chunks * segments), np.int64)
    considered = np.ones((1, 1), np.bool_) if mask is None else matrix(mask)
    special = [field for field in actual.fields[3:] if field >= 0]
    reading = tuple(np.int64(field) for field in (*actual.fields, min(special, default=1 << 62)))
    outputs = histogram, row_counts, column_counts, grid, worst, largest, payloads
    if a.size:
        flags = actual.format is None, actual.negative_zero_is_nan, *policy.flags
        _scan(a, b, mask is not None, considered, reading, flags, chunks, segments, *outputs)
    totals = row_counts.sum(axis=1, dtype=np.int64), column_counts.sum(axis=0, dtype=np.int64)
    return Scan(
        histogram.sum(axis=0), *totals, grid, worst.max(axis=1), int(largest.max(initial=0)), int(payloads.sum())
    )


def counter(actual: Codes, expected: Codes, policy: Policy, mask: np.ndarray | None) -> Callable:
    """Return a function that counts the differing elements among chosen rows and columns."""

    def count(rows: np.ndarray, columns: np.ndarray) -> int:
        parts = [Codes(matrix(side.array)[rows][:, columns], side.format) for side in (actual, expected)]
        return scan(*parts, policy, None if mask is None else matrix(mask)[rows][:, columns]).differing

    return count


@njit(cache=True)
def _distance(x, y, reading, flags):
    """Return the distance of two codes that are not the same; -1: unrelated, -2: no difference, -3: NaN payloads."""
    integer, zero_is_nan, nans_differ, zeros_differ, infinity_apart = flags
    sign, mask, shift, first_nan, infinity, ordinary = reading
    x, y = np.int64(x), np.int64(y)
    if integer:
        return abs(x - y)
    x_size, y_size = (x & mask) >> shift, (y & mask) >> shift
    if (x ^ y) & sign == 0 and x_size < ordinary and y_size < ordinary and x_size != y_size and not zero_is_nan:
        return abs(x_size - y_size)
    x_negative, y_negative = x & sign != 0, y & sign != 0
    x_nan = (first_nan >= 0 and x_size >= first_nan) or (zero_is_nan and x_negative and x_size == 0)
    y_nan = (first_nan >= 0 and y_size >= first_nan) or (zero_is_nan and y_negative and y_size == 0)
    if x_nan and y_nan:
        return -1 if nans_differ else -3
    if x_nan or y_nan or (infinity_apart and infinity >= 0 and (x_size == infinity or y_size == infinity)):
        return -1
    if x_size == 0 and y_size == 0:
        return 0 if zeros_differ and x_negative != y_negative else -2
    distance = abs((-x_size if x_negative else x_size) - (-y_size if y_negative else y_size))
    return distance if distance else -2


@njit(cache=True)
def _bin(distance):
    """Return 0 for 0, else 1 + k for distances up to 2^k; the last bin for unrelated."""
    if distance <= 0:
        return BINS - 1 if distance < 0 else 0
    return (np.float64(2 * distance - 1).view(np.int64) >> 52) - 1022


@njit(cache=True)
def _ordinary(a, b, reading, flags, distances):
    """Fill in distances if a run holds nothing special, without branches; return whether it does not."""
    sign, mask, shift, _, _, ordinary = reading
    special = flags[1]
    for i in range(a.size):
        x, y = np.int64(a[i]), np.int64(b[i])
        x_size, y_size = (x & mask) >> shift, (y & mask) >> shift
        x_sign, y_sign = -np.int64(x & sign != 0), -np.int64(y & sign != 0)
        distance = abs(((x_size ^ x_sign) - x_sign) - ((y_size ^ y_sign) - y_sign))
        distances[i] = distance
        special |= (x_size >= ordinary) | (y_size >= ordinary) | ((distance == 0) & (x != y))
    return not special


@njit(cache=True)
def _tally(distances, histogram, column_counts, grid):
    """Count the differing elements of one run of ordinary distances; return how many and the largest."""
    found, farthest = np.int64(0), np.int64(0)
    for i in range(distances.size):
        differs = distances[i] != 0
        found += differs
        column_counts[i] += differs
        farthest = max(farthest, distances[i])
    if farthest == 1:  # the usual case, and one that would wait for one counter again and again
        histogram[1] += found
    else:
        for i in range(distances.size):
            index = ((np.float64(2 * distances[i] - 1).view(np.int64) >> 52) & 0x7FF) - 1022  # _bin, without branches
            histogram[index] += distances[i] != 0
    for cell in range(grid.size):
        for i in range(cell * CELL, min(cell * CELL + CELL, distances.size)):
            grid[cell] += distances[i] != 0
    return found, farthest


@njit(cache=True)
def _tally_special(a, b, masked, mask, reading, flags, histogram, column_counts, grid):
    """Count the differing elements of one run of any kind.

    Returns how many, the largest countable distance, how many are unrelated, and NaN against NaN of other bits.
    """
    found, farthest, unrelated, payloads = np.int64(0), np.int64(0), 0, 0
    for i in range(a.size):
        if a[i] == b[i] or (masked and not mask[i]):
            continue
        distance = _distance(a[i], b[i], reading, flags)
        if distance < -1:
            payloads += distance == -3
            continue
        histogram[_bin(distance)] += 1
        column_counts[i] += 1
        grid[i // CELL] += 1
        found += 1
        unrelated += distance < 0
        farthest = max(farthest, distance)
    return found, farthest, unrelated, payloads


@njit(cache=True, parallel=True)
def _scan(
    a,
    b,
    masked,
    mask,
    reading,
    flags,
    chunks,
    segments,
    histogram,
    row_counts,
    column_counts,
    grid,
    worst,
    largest,
    payloads,
):
    rows, columns = a.shape
    bands = (rows + CELL - 1) // CELL
    for task in prange(chunks * segments):
        chunk, segment = task // segments, task % segments
        first, last = segment * _SEGMENT, min((segment + 1) * _SEGMENT, columns)
        distances = np.empty(_RUN, np.int64)
        for row in range(bands * chunk // chunks * CELL, min(bands * (chunk + 1) // chunks * CELL, rows)):
            for start in range(first, last, _RUN):
                stop = min(start + _RUN, last)
                x, y = a[row, start:stop], b[row, start:stop]
                unequal = False
                for i in range(x.size):
                    unequal |= x[i] != y[i]
                if not unequal:
                    continue
                counts = column_counts[chunk, start:stop]
                cells = grid[row // CELL, start // CELL : (stop + CELL - 1) // CELL]
                plain, unrelated = distances[: stop - start], 0
                if not masked and not flags[0] and _ordinary(x, y, reading, flags, plain):
                    found, farthest = _tally(plain, histogram[task], counts, cells)
                else:
                    part = mask[row, start:stop] if masked else mask[0]
                    found, farthest, unrelated, nans = _tally_special(
                        x, y, masked, part, reading, flags, histogram[task], counts, cells
                    )
                    payloads[task] += nans
                row_counts[row, segment] += found
                largest[task] = max(largest[task], farthest)
                reach = _FAR if unrelated else np.uint32(min(farthest + np.int64(found > 0), 0xFFFFFFFE))
                worst[row, segment] = max(worst[row, segment], reach)
