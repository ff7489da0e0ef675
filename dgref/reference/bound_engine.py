"""The inner loops of the derived bound: powers of two that dominate magnitudes, and one alignment's error."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

OVERFLOW = 2.0**128 * (1 - 2.0**-25)  # from here on fp32 rounds to Inf, and no limit holds
_EXPONENT = np.int64(0x7FF0000000000000)


@njit(cache=True)
def _binade(value):
    """Return the power of two at or below a positive normal float64; 0 for 0."""
    return np.int64(np.float64(value).view(np.int64) & _EXPONENT).view(np.float64)


@njit(cache=True, parallel=True)
def anchors(values, emin):
    """Return the power of two that each value is aligned by: its own binade, or 2^emin below; 0 for zero."""
    result = np.zeros(values.shape)
    low = 2.0**emin
    for i in prange(values.shape[0]):
        for k in range(values.shape[1]):
            if values[i, k] != 0.0:
                result[i, k] = max(_binade(abs(values[i, k])), low)
    return result


@njit(cache=True, parallel=True)
def ulps(magnitudes, mantissa_bits):
    """Return the spacing of an fp32-like format at given magnitudes."""
    result = np.empty(magnitudes.shape)
    scale = 2.0**-mantissa_bits
    for i in prange(magnitudes.shape[0]):
        for j in range(magnitudes.shape[1]):
            inside = magnitudes[i, j] < OVERFLOW
            result[i, j] = max(_binade(magnitudes[i, j]), 2.0**-126) * scale if inside else np.inf
    return result


@njit(cache=True, parallel=True)
def _align(total, error, step, before, after, ordered, a_tops, b_tops, terms, unit, mantissa_bits, floor, aligned):
    scale = 2.0**-mantissa_bits
    for i in prange(total.shape[0]):
        for j in range(total.shape[1]):
            top = a_tops[i] * b_tops[j]
            total[i, j] += step[i, j]
            if top == 0.0:
                continue  # nothing is added: C passes unchanged
            carried = (abs(total[i, j] - step[i, j]) if ordered else before[i, j]) + error[i, j]
            result = (abs(total[i, j]) if ordered else after[i, j]) + error[i, j]
            anchor = max(top, floor, _binade(carried) if aligned else 0.0)
            lost = terms * anchor * unit
            instruction = result if aligned else abs(step[i, j]) + lost
            lost += max(_binade(instruction + lost), 2.0**-126) * scale
            if not aligned:  # C is added in fp32 afterwards, to nearest
                lost += 0.5 * max(_binade(result + lost), 2.0**-126) * 2.0**-23
            error[i, j] += lost if result + lost < OVERFLOW else np.inf


def align(total, error, step, magnitudes, a_tops, b_tops, terms, unit, mantissa_bits, floor, aligned):
    """Add one alignment's exact sum to `total` and what it may lose to `error`, in place.

    `magnitudes` holds sums of |products| that no partial sum exceeds in whatever order, or None when K is ascending.
    """
    ordered = magnitudes is None
    reach = total if ordered else magnitudes
    _align(total, error, step, reach, reach, ordered, a_tops, b_tops, terms, unit, mantissa_bits, floor, aligned)
