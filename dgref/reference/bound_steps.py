"""The inner loops of the bound of whole instructions: what steps take from a block of K, for a tile of columns.

A step of an instruction aligns its products once. Every step takes whole quads of 4 consecutive K, and none takes from
two blocks: so sums over quads are made once, and those of the steps of every kind of instruction from them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from dgref.reference.bound_engine import binade

BLOCK, QUAD = 64, 4
QUADS = BLOCK // QUAD
LOADED = (4, 8, 16)  # elements that a thread of Ada's mma may load at once; 16 of K are a step, and two an instruction
KINDS = 1 + len(LOADED)  # Hopper's wgmma takes 32 consecutive K in one step


def as_loaded(array, width):
    """Return [rows, K] in the order in which an instruction takes K whose threads load `width` elements at once.

    Four threads share 16 elements, 4 each (PTX ISA, fragments of mma.m16n8k32). What one has loaded feeds several such
    steps: K then stays within 4 * `width` elements. Zeros fill it up to whole instructions.
    """
    padded = np.pad(array, ((0, 0), (0, -array.shape[1] % BLOCK)))
    by_thread = padded.reshape(len(array), -1, 4, width // QUAD, QUAD)
    return np.ascontiguousarray(by_thread.swapaxes(2, 3)).reshape(len(array), -1)


def _steps():
    """Return the quads of each step in a block, its kind, and where the steps of each half of the block begin.

    A half begins with the step of 32, which is made of the two that follow it. Steps that take from both halves are in
    the first, so that a block of no more than half of K has no others.
    """
    numbers = np.repeat(np.arange(QUADS), QUAD)[None]
    kinds = [as_loaded(numbers, width)[0, ::QUAD].reshape(-1, 4) for width in LOADED]
    halves = [[(0, [0] * 4)], [(0, [0] * 4)]]
    for kind, steps in enumerate(kinds, 1):
        for step in steps.tolist():
            halves[min(step) >= QUADS // 2].append((kind, step))
    both = halves[0] + halves[1]
    return np.array([step for _, step in both]), np.array([kind for kind, _ in both]), len(halves[0])


_MEMBERS, KIND, HALF = _steps()
STEPS = len(KIND)
SIZE = np.where(KIND == 0, 32.0, 16.0)


@njit(cache=True)
def live_steps(width):
    """Return how many of a block's steps hold any of `width` elements."""
    return HALF if width <= BLOCK // 2 else STEPS


@njit(cache=True, error_model="numpy")
def quads_from(a, start):
    """Return how many quads the block that begins at `start` has."""
    return min(BLOCK, a.size - start) // QUAD


@njit(cache=True, error_model="numpy")
def note_least(a, b, start, least):
    """Lower `least` to the smallest product of a block that is not zero."""
    for k in range(start, start + QUAD * quads_from(a, start), 2):
        w, x = a[k], a[k + 1]
        for j in range(least.size):
            p, q = w * b[k, j], x * b[k + 1, j]
            p, q = (p if p != 0.0 else np.inf), (q if q != 0.0 else np.inf)
            p = p if p < q else q
            least[j] = p if p < least[j] else least[j]


@njit(cache=True, error_model="numpy")
def note_signs(a, b, start, highest, lowest):
    """Raise `highest` and lower `lowest` to the products of a block."""
    for k in range(start, start + QUAD * quads_from(a, start), 2):
        w, x = a[k], a[k + 1]
        for j in range(highest.size):
            p, q = w * b[k, j], x * b[k + 1, j]
            high, low = (p, q) if p > q else (q, p)
            highest[j] = high if high > highest[j] else highest[j]
            lowest[j] = low if low < lowest[j] else lowest[j]


@njit(cache=True, error_model="numpy")
def add_quads(a, b, start, quads):
    """Put the sum of each quad of products into `quads`: zero where K ends."""
    quads[:] = 0.0
    for quad in range(quads_from(a, start)):
        k, total = start + quad * QUAD, quads[quad]
        w, x, y, z = a[k], a[k + 1], a[k + 2], a[k + 3]
        for j in range(total.size):
            low = np.float64(w * b[k, j]) + np.float64(x * b[k + 1, j])
            total[j] = low + (np.float64(y * b[k + 2, j]) + np.float64(z * b[k + 3, j]))


@njit(cache=True, error_model="numpy")
def truncate(a, b, start, anchor, unit, quads):
    """Put the sum of each quad's products, truncated to the grid of an anchor, into `quads`, in units of the grid."""
    inverse = np.empty(anchor.size, a.dtype)
    for j in range(anchor.size):
        inverse[j] = 1.0 / (anchor[j] * unit)
    for quad in range(quads_from(a, start)):
        k, total = start + quad * QUAD, quads[quad]
        w, x, y, z = a[k], a[k + 1], a[k + 2], a[k + 3]
        for j in range(total.size):
            scale = inverse[j]
            low = np.trunc(w * b[k, j] * scale) + np.trunc(x * b[k + 1, j] * scale)
            total[j] = low + (np.trunc(y * b[k + 2, j] * scale) + np.trunc(z * b[k + 3, j] * scale))
    quads[quads_from(a, start) :] = 0.0


@njit(cache=True, error_model="numpy")
def add_steps(quads, steps):
    """Put the sum of the quads of each step into `steps`."""
    for first in range(0, len(steps), HALF):
        for step in range(first + 1, min(first + HALF, len(steps))):
            of_step, total = _MEMBERS[step], steps[step]
            p, q, r, s = quads[of_step[0]], quads[of_step[1]], quads[of_step[2]], quads[of_step[3]]
            for j in range(total.size):
                total[j] = (p[j] + q[j]) + (r[j] + s[j])
        p, q, total = steps[first + 1], steps[first + 2], steps[first]
        for j in range(total.size):
            total[j] = p[j] + q[j]


@njit(cache=True, error_model="numpy")
def top_of_steps(a, b, start, floor, quads, steps):
    """Put the power of two that each step's products align by into `steps`: Inf where all of them are zero."""
    quads[:] = 0.0
    for quad in range(quads_from(a, start)):
        k, top = start + quad * QUAD, quads[quad]
        w, x, y, z = a[k], a[k + 1], a[k + 2], a[k + 3]
        for j in range(top.size):
            p, q, r, s = w * b[k, j], x * b[k + 1, j], y * b[k + 2, j], z * b[k + 3, j]
            p, r = (p if p > q else q), (r if r > s else s)
            top[j] = p if p > r else r
    for first in range(0, len(steps), HALF):
        for step in range(first + 1, min(first + HALF, len(steps))):
            of_step, top = _MEMBERS[step], steps[step]
            p, q, r, s = quads[of_step[0]], quads[of_step[1]], quads[of_step[2]], quads[of_step[3]]
            for j in range(top.size):
                low, high = (p[j] if p[j] > q[j] else q[j]), (r[j] if r[j] > s[j] else s[j])
                top[j] = low if low > high else high
        p, q, top = steps[first + 1], steps[first + 2], steps[first]
        for j in range(top.size):
            top[j] = p[j] if p[j] > q[j] else q[j]
    for step in range(len(steps)):
        top = steps[step]
        for j in range(top.size):
            raised = top[j] if top[j] > floor else floor
            top[j] = raised if top[j] != 0.0 else np.inf


@njit(cache=True, error_model="numpy")
def anchors(tops, limit, last, anchor):
    """Put the last power of two that each step may align by into `last`, and the first of any into `anchor`.

    Return how many there are at most from there on.
    """
    first, farthest, span = np.full(tops.shape[1], np.inf), np.zeros(tops.shape[1]), 0.0
    for step in range(len(tops)):
        top, most, end = tops[step], limit[step], last[step]
        for j in range(first.size):
            first[j] = top[j] if top[j] < first[j] else first[j]
        for j in range(first.size):
            larger = top[j] if top[j] > most[j] else most[j]
            end[j] = larger if top[j] < np.inf else 0.0
        for j in range(first.size):
            farthest[j] = end[j] if end[j] > farthest[j] else farthest[j]
    for j in range(first.size):
        first[j] = first[j] if first[j] < np.inf else 1.0
        span = max(span, farthest[j] / first[j])
    for step in range(len(anchor)):
        anchor[step] = first
    count = 0
    while span >= 1.0:
        span, count = span * 0.5, count + 1
    return count


@njit(cache=True, error_model="numpy")
def lose(kept, sums, anchor, tops, last, unit, lost):
    """Put what truncation to the grid of an anchor adds to each step's sum into `lost`: NaN where it has none such."""
    for j in range(lost.size):
        error = np.float64(kept[j]) * (anchor[j] * unit) - sums[j]
        lost[j] = error if (tops[j] <= anchor[j]) & (anchor[j] <= last[j]) else np.nan


@njit(cache=True, error_model="numpy")
def round_down(sums, anchor, tops, limit, spread, rounding):
    """Put what truncation takes from a result, and from the C that it began with, into `rounding`; in units."""
    for j in range(rounding.size):
        result = binade(2.0 * anchor[j] + abs(sums[j]) + spread[j] * anchor[j])
        farthest = limit[j] if limit[j] < result else result
        beyond = farthest - anchor[j] if farthest > anchor[j] else 0.0
        seed = anchor[j] if anchor[j] == tops[j] else 0.0  # else no product is as large, and C is on this grid
        rounding[j] = beyond + seed


@njit(cache=True, error_model="numpy")
def extend(lost, rounding, up, down, least, most):
    """Lower `least` and raise `most` to what is lost with one anchor; `up` and `down` are a unit or zero."""
    for j in range(lost.size):
        low = lost[j] - rounding[j] * up[j]
        least[j] = low if low < least[j] else least[j]
    for j in range(lost.size):
        high = lost[j] + rounding[j] * down[j]
        most[j] = high if high > most[j] else most[j]


@njit(cache=True, error_model="numpy")
def add_ends(least, most, ends):
    """Add the ends of each step's error to those of its kind."""
    for step in range(len(least)):
        kind = KIND[step]
        low, high, down, up = ends[0, kind], ends[1, kind], ends[2, kind], ends[3, kind]
        lowest, highest = least[step], most[step]
        for j in range(low.size):
            error = lowest[j] if lowest[j] < np.inf else 0.0  # Inf where all products of the step are zero
            low[j] += error
            down[j] += -error if error < 0.0 else 0.0
        for j in range(low.size):
            error = highest[j] if highest[j] > -np.inf else 0.0
            high[j] += error
            up[j] += error if error > 0.0 else 0.0
