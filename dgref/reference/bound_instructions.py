"""What whole instructions of a narrow accumulator lose, in any order and any chains; derived in docs/bound.md.

The products of an instruction are known, so what truncation takes from them is known for each exponent that they may be
aligned by. The order decides only which exponent that is.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from dgref.reference.bound_engine import binade


def as_loaded(array, width):
    """Return [rows, K] in the order in which an instruction takes K whose threads load `width` elements at once.

    Four threads share 16 elements, 4 each (PTX ISA, fragments of mma.m16n8k32). What one has loaded feeds several such
    steps: K then stays within 4 * `width` elements. Zeros fill it up to whole instructions.
    """
    padded = np.pad(array, ((0, 0), (0, -array.shape[1] % 64)))
    by_thread = padded.reshape(len(array), -1, 4, width // 4, 4)
    return np.ascontiguousarray(by_thread.swapaxes(2, 3)).reshape(len(array), -1)


@njit(cache=True, parallel=True)
def whole_instructions(a, b, begin, size, step, unit, floor):
    """Return the least and the greatest error of instructions of `size` products, and what no partial sum exceeds.

    An instruction takes `step` products at a time, with C as one more term. `a` is a pair of [rows, K] and `b` one of
    [K, columns]: the values, and the powers of two that they align by.
    """
    low, high, reach = np.zeros(begin.shape), np.zeros(begin.shape), np.zeros(begin.shape)
    for i in prange(begin.shape[0]):
        above, below, inside, carried, signs = _sums(a[0][i], a[1][i], b[0], b[1], begin[i], size, step, floor)
        again = True
        while again:  # as long as every sum is below 2 * carried, no more than this is lost; so all of them are
            ends = _lost_by_all(a[0][i], a[1][i], b[0], b[1], step, unit, floor, carried, signs)
            again = False
            for j in range(begin.shape[1]):
                seeded = abs(begin[i, j]) * unit  # lost by a C of more bits than a result has
                low[i, j], high[i, j], reach[i, j] = ends[0, j] - seeded, ends[1, j] + seeded, 2.0 * carried[j]
                farthest = inside[j] + max(above[j] + ends[3, j], below[j] + ends[2, j]) + seeded
                if carried[j] != 0.0 and farthest >= 2.0 * carried[j]:
                    carried[j], again = 2.0 * carried[j], True
    return low, high, reach


@njit(cache=True)
def _sums(a, a_powers, b, b_powers, begin, size, step, floor):
    """Return how far whole instructions get up and down, and inside of one; its binade; whether each sign occurs."""
    above, below, inside, largest = np.maximum(begin, 0.0), np.maximum(-begin, 0.0), np.zeros(begin.size), begin * 0.0
    least, sum, highest, lowest = np.full(begin.size, np.inf), np.zeros(begin.size), begin.copy(), begin.copy()
    for k in range(a.size):
        if k % size == 0:
            sum[:] = 0.0
        elif k % step == 0:
            inside = np.maximum(inside, np.abs(sum))
        for j in range(begin.size):
            product, power = a[k] * b[k, j], a_powers[k] * b_powers[k, j]
            sum[j] += product
            highest[j], lowest[j] = max(highest[j], product), min(lowest[j], product)
            least[j] = min(least[j], max(power, floor) if power != 0.0 else np.inf)
        if (k + 1) % size == 0:
            above, below = above + np.maximum(sum, 0.0), below + np.maximum(-sum, 0.0)
    for j in range(begin.size):
        largest[j] = binade(inside[j] + max(above[j], below[j]))
        largest[j] = largest[j] if least[j] == np.inf else max(largest[j], least[j])
    return above, below, inside, largest, (highest > 0.0, lowest < 0.0)


@njit(cache=True)
def _lost_by_all(a, a_powers, b, b_powers, step, unit, floor, carried, signs):
    """Return the ends of the error of all steps, and how far that of any part of them goes down and up.

    Every sum is below 2 * `carried` in magnitude; none is above zero unless signs[0], or below zero unless signs[1].
    """
    ends = np.zeros((4, carried.size))
    for start in range(0, a.size, step):
        sum, top, lost = np.zeros(carried.size), np.zeros(carried.size), np.empty(carried.size)
        for k in range(start, start + step):
            for j in range(carried.size):
                sum[j] += a[k] * b[k, j]
                top[j] = max(top[j], a_powers[k] * b_powers[k, j])
        least, most, any = np.full(carried.size, np.inf), np.full(carried.size, -np.inf), top != 0.0
        if not np.any(any):
            continue
        top = np.maximum(top, floor)
        last = np.maximum(top, carried)
        anchor, final = np.min(top[any]), np.max(last[any])
        while anchor <= final:
            _truncated(a, b, start, start + step, anchor * unit, lost)
            for j in range(carried.size):
                if top[j] <= anchor <= last[j]:
                    rounding = _rounding(anchor, anchor == top[j], carried[j], abs(sum[j]), step, unit)
                    least[j] = min(least[j], -lost[j] - (rounding if signs[0][j] else 0.0))
                    most[j] = max(most[j], -lost[j] + (rounding if signs[1][j] else 0.0))
            anchor *= 2.0
        for j in range(carried.size):
            if any[j]:
                ends[0, j] += least[j]
                ends[1, j] += most[j]
                ends[2, j] += max(-least[j], 0.0)
                ends[3, j] += max(most[j], 0.0)
    return ends


@njit(cache=True)
def _rounding(anchor, first, carried, sum, step, unit):
    """Return what truncation takes from a sum on the grid of `anchor`, and from the C that it began with."""
    farthest = min(carried, binade(2.0 * anchor + sum + step * anchor * unit))
    of_sum = max(farthest - anchor, 0.0) * unit
    return of_sum + anchor * unit if first else of_sum  # C is on this grid, unless a product is larger


@njit(cache=True)
def _truncated(a, b, start, stop, grid, lost):
    """Put what truncating each product to a grid takes from their sums, which is exact, into `lost`."""
    lost[:] = 0.0
    inverse = 1.0 / grid
    for k in range(start, stop):
        for j in range(lost.size):
            product = a[k] * b[k, j]
            lost[j] += product - np.trunc(product * inverse) * grid
