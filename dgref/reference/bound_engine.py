"""The inner loops of the derived bound: powers of two that dominate magnitudes, and one alignment's error."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

_EXPONENT = np.int64(0x7FF0000000000000)


@njit(cache=True)
def binade(value):
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
                result[i, k] = max(binade(abs(values[i, k])), low)
    return result


@njit(cache=True, parallel=True)
def ulps(magnitudes, mantissa_bits):
    """Return the spacing of an fp32-like format at given magnitudes."""
    result = np.empty(magnitudes.shape)
    scale = 2.0**-mantissa_bits
    for i in prange(magnitudes.shape[0]):
        for j in range(magnitudes.shape[1]):
            result[i, j] = max(binade(magnitudes[i, j]), 2.0**-126) * scale
    return result


@njit(cache=True)
def _lost(top, carried, step, result, terms, unit, mantissa_bits, floor, aligned):
    """Return what one alignment loses at most: truncation of its terms, then of its sum, then the addition of C.

    `carried` limits the incoming sum, `step` the new products' sum, `result` the outgoing sum.
    """
    anchor = max(top, floor, binade(carried) if aligned else 0.0)
    lost = terms * anchor * unit
    instruction = result if aligned else step + lost
    lost += max(binade(instruction + lost), 2.0**-126) * 2.0**-mantissa_bits
    if not aligned:  # C is added in fp32 afterwards, to nearest
        lost += 0.5 * max(binade(result + lost), 2.0**-126) * 2.0**-23
    return lost


@njit(cache=True, parallel=True)
def align(total, error, step, a_tops, b_tops, terms, unit, mantissa_bits, floor, aligned):
    """Add one alignment's exact sum to `total` and what it may lose to `error`, in place."""
    for i in prange(total.shape[0]):
        for j in range(total.shape[1]):
            top = a_tops[i] * b_tops[j]
            carried = abs(total[i, j]) + error[i, j]
            total[i, j] += step[i, j]
            if top != 0.0:  # else nothing is added, and C passes unchanged
                result = abs(total[i, j]) + error[i, j]
                error[i, j] += _lost(top, carried, abs(step[i, j]), result, terms, unit, mantissa_bits, floor, aligned)


@njit(cache=True, parallel=True)
def align_in_any_order(error, reach, steps, a_tops, b_tops, terms, unit, mantissa_bits, floor, aligned):
    """Add to `error` what a number of alignments may lose in any order, where no partial sum exceeds `reach`.

    Alignments are taken in batches; a batch is charged by the error at its own end, which is found from below.
    """
    batches = int(np.ceil(16 * steps * (terms * unit + 2.0**-mantissa_bits))) + 8
    for i in prange(error.shape[0]):
        for j in range(error.shape[1]):
            top, size = a_tops[i] * b_tops[j], reach[i, j]
            if top == 0.0:
                continue
            before = error[i, j]
            first = _lost(top, size + before, size, size + before, terms, unit, mantissa_bits, floor, aligned)
            after = before + steps * first
            if first == _lost(top, size + after, size, size + after, terms, unit, mantissa_bits, floor, aligned):
                error[i, j] = after  # an alignment loses as much at the last as at the first, so in every batch
                continue
            for batch in range(batches):
                count = steps * (batch + 1) // batches - steps * batch // batches
                before, after = error[i, j], -1.0
                while error[i, j] != after and count:
                    after = error[i, j]
                    far = size + after
                    error[i, j] = before + count * _lost(
                        top, far, size, far, terms, unit, mantissa_bits, floor, aligned
                    )
