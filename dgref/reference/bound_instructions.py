"""What whole instructions of a narrow accumulator lose, in any order and any chains; derived in docs/bound.md.

The products of an instruction are known, so what truncation takes from them is known for each exponent that they may be
aligned by. The order decides only which exponent that is.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from dgref.reference import bound_steps as block
from dgref.reference.bound_engine import binade
from dgref.reference.bound_steps import BLOCK, KIND, KINDS, QUAD, QUADS, SIZE, STEPS

_VECTOR, _TILE = 8, 40  # columns at once: whole vectors, and so few that what is known of a block stays in the cache


def whole_instructions(a, b, begin, unit, floor, meeting):
    """Return the least and the greatest error of instructions of 32 products, of every kind.

    `a` is a pair of [rows, K] and `b` one of [columns, K]: the values, and the powers of two that they align by. C is
    one more term of every step; `meeting` times what no partial sum exceeds is lost where chains meet.
    """
    dtype = np.float32 if all(map(_few_bits, (*a, *b))) else np.float64
    columns = begin.shape[1]
    width = _VECTOR * -(-columns // (_VECTOR * -(-columns // _TILE)))
    left = [_padded(array.astype(dtype), 1) for array in a]
    right = [_padded(array.astype(dtype), width) for array in b]
    right = [np.ascontiguousarray(array.reshape(-1, width, array.shape[1]).swapaxes(1, 2)) for array in right]
    seeds = np.pad(begin, ((0, 0), (0, -columns % width)))
    low, high = _ends_of_all(*left, *right, seeds, unit, floor, meeting)
    return low[:, :columns], high[:, :columns]


def _few_bits(array):
    """Return whether values have at most 12 bits each, far from the ends of float32: it holds their products then."""
    sizes = np.abs(array[array != 0.0])
    fractions = np.frexp(sizes)[0] * 2.0**12
    return bool(np.all((fractions == np.trunc(fractions)) & (sizes > 2.0**-40) & (sizes < 2.0**40)))


def _padded(array, height):
    """Return an array with zeros up to whole quads of K and a multiple of `height` rows."""
    return np.pad(array, ((0, -len(array) % height), (0, -array.shape[1] % QUAD)))


@njit(cache=True, parallel=True, error_model="numpy")
def _ends_of_all(a, a_powers, b, b_powers, begin, unit, floor, meeting):
    low, high = np.empty(begin.shape), np.empty(begin.shape)
    width = b.shape[2]
    for i in prange(begin.shape[0]):
        for tile in range(b.shape[0]):
            columns = slice(tile * width, (tile + 1) * width)
            seed = begin[i, columns]
            ends, carried = _ends(a[i], a_powers[i], b[tile], b_powers[tile], seed, unit, floor)
            _outermost(ends, carried, seed, unit, meeting, low[i, columns], high[i, columns])
    return low, high


@njit(cache=True, error_model="numpy")
def _outermost(ends, carried, seed, unit, meeting, low, high):
    """Put the lowest and the highest error of all kinds into `low` and `high`."""
    low[:], high[:] = np.inf, -np.inf
    for kind in range(KINDS):
        for j in range(low.size):
            seeded = abs(seed[j]) * unit  # lost by a C of more bits than a result has
            meets = meeting * (2.0 * carried[kind, j])
            low[j] = min(low[j], ends[0, kind, j] - seeded - meets)
            high[j] = max(high[j], ends[1, kind, j] + seeded + meets)


@njit(cache=True, error_model="numpy")
def _ends(a, a_powers, b, b_powers, seed, unit, floor):
    """Return the ends of the error of every kind, for one row by the columns of a tile, and half the largest sums."""
    above, below, inside, carried, signs = _sums(a, a_powers, b, b_powers, seed, floor)
    again = True
    while again:  # as long as every sum is below 2 * carried, no more than this is lost; so all of them are
        ends = _lost_by_all(a, a_powers, b, b_powers, unit, floor, carried, signs)
        again = False
        for kind in range(KINDS):
            for j in range(seed.size):
                up, down = above[kind, j] + ends[3, kind, j], below[kind, j] + ends[2, kind, j]
                farthest = inside[kind, j] + max(up, down) + abs(seed[j]) * unit
                if carried[kind, j] != 0.0 and farthest >= 2.0 * carried[kind, j]:
                    carried[kind, j], again = 2.0 * carried[kind, j], True
    return ends, carried


@njit(cache=True, error_model="numpy")
def _sums(a, a_powers, b, b_powers, seed, floor):
    """Return how far whole instructions get up and down, and inside of one; its binade; whether each sign occurs."""
    shape = KINDS, seed.size
    above, below, inside, carried = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    least, highest, lowest = np.full(seed.size, np.inf), seed.copy(), seed.copy()
    quads, steps = np.empty((QUADS, seed.size)), np.empty((STEPS, seed.size))
    for kind in range(KINDS):
        above[kind], below[kind] = np.maximum(seed, 0.0), np.maximum(-seed, 0.0)
    for start in range(0, a.size, BLOCK):
        totals = steps[: block.live_steps(a.size - start)]
        block.note_least(a_powers, b_powers, start, least)
        block.note_signs(a, b, start, highest, lowest)
        block.add_quads(a, b, start, quads)
        block.add_steps(quads, totals)
        step = 0
        while step < len(totals):
            kind = KIND[step]
            if kind != 0:
                _finish(totals[step], totals[step + 1], inside[kind])
                step += 1
            _reach(totals[step], above[kind], below[kind])
            step += 1
    for kind in range(KINDS):
        for j in range(seed.size):
            carried[kind, j] = binade(inside[kind, j] + max(above[kind, j], below[kind, j]))
            if least[j] != np.inf:
                carried[kind, j] = max(carried[kind, j], max(least[j], floor))
    return above, below, inside, carried, (highest > 0.0, lowest < 0.0)


@njit(cache=True, error_model="numpy")
def _finish(first, second, inside):
    """Add what an instruction's first step gave to its second, and note how far the first got."""
    for j in range(first.size):
        inside[j] = max(inside[j], abs(first[j]))
        second[j] += first[j]


@njit(cache=True, error_model="numpy")
def _reach(total, above, below):
    for j in range(total.size):
        above[j] += total[j] if total[j] > 0.0 else 0.0
        below[j] += -total[j] if total[j] < 0.0 else 0.0


@njit(cache=True, error_model="numpy")
def _lost_by_all(a, a_powers, b, b_powers, unit, floor, carried, signs):
    """Return the ends of the error of all steps of each kind, and how far that of any part of them goes down and up.

    Every sum is below 2 * `carried` in magnitude; none is above zero unless signs[0], or below zero unless signs[1].
    """
    columns = carried.shape[1]
    limit, spread, up, down = _of_steps(columns), _of_steps(columns), _of_steps(columns), _of_steps(columns)
    for step in range(STEPS):
        limit[step], spread[step] = carried[KIND[step]], SIZE[step] * unit
        up[step], down[step] = signs[0] * unit, signs[1] * unit
    ends = np.zeros((4, KINDS, columns))
    _lost_by_blocks(a, a_powers, b, b_powers, unit, floor, limit, spread, up, down, ends)
    return ends


@njit(cache=True)
def _of_steps(columns):
    return np.empty((STEPS, columns))


@njit(cache=True, error_model="numpy")
def _lost_by_blocks(a, a_powers, b, b_powers, unit, floor, limit, spread, up, down, ends):
    """Add what is lost in each block of K to `ends`; what is known of one lies in flat arrays that all blocks share."""
    columns = limit.shape[1]
    quads, few = np.empty((QUADS, columns)), np.empty((QUADS, columns), a.dtype)
    sums, tops, last, anchor = _of_steps(columns), _of_steps(columns), _of_steps(columns), _of_steps(columns)
    least, most, lost, rounding = _of_steps(columns), _of_steps(columns), _of_steps(columns), _of_steps(columns)
    kept = np.empty((STEPS, columns), a.dtype)
    for start in range(0, a.size, BLOCK):
        live = block.live_steps(a.size - start)
        block.top_of_steps(a_powers, b_powers, start, floor, few, tops[:live])
        block.add_quads(a, b, start, quads)
        block.add_steps(quads, sums[:live])
        least[:], most[:] = np.inf, -np.inf
        exact, top, end, most_carried = _flat(sums, live), _flat(tops, live), _flat(last, live), _flat(limit, live)
        at, slack, positive, negative = _flat(anchor, live), _flat(spread, live), _flat(up, live), _flat(down, live)
        error, rest, low, high = _flat(lost, live), _flat(rounding, live), _flat(least, live), _flat(most, live)
        truncated = _flat(kept, live)
        for _ in range(block.anchors(tops[:live], limit[:live], last[:live], anchor[:live])):
            block.truncate(a, b, start, anchor[0], unit, few)
            block.add_steps(few, kept[:live])
            block.lose(truncated, exact, at, top, end, unit, error)
            block.round_down(exact, at, top, most_carried, slack, rest)
            block.extend(error, rest, positive, negative, low, high)
            _double(at)
        block.add_ends(least[:live], most[:live], ends)


@njit(cache=True)
def _flat(array, steps):
    return array[:steps].reshape(-1)


@njit(cache=True, error_model="numpy")
def _double(anchor):
    for j in range(anchor.size):
        anchor[j] *= 2.0
