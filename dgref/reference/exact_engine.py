"""The integer machinery of the exact oracle: a superaccumulator, one rounding, and the filter that avoids both.

The filter evaluates a sum in float64 with a proven error, and rounds both ends of the interval that must hold the
exact value. Equal roundings settle an element; the superaccumulator, which has a bit for every power of two that a
product of two float64 numbers can have, computes the others. docs/bound.md proves both steps.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

LIMB_BITS = 32
LOWEST = -2 * 1074  # exponent of limb 0: the last bit of a product of two float64 subnormals
LIMBS = (2 * 1024 - LOWEST + 64) // LIMB_BITS + 4
_LOW = np.int64(0xFFFFFFFF)
_MANTISSA = np.int64((1 << 52) - 1)
_NARROW = np.int64((1 << 24) - 1)  # mantissas without these bits multiply inside one 64-bit integer
_HALF = np.int64((1 << 27) - 1)


# -- one rounding ---------------------------------------------------------------------------------------------------


@njit(cache=True)
def round_integer(magnitude, exponent, precision, emin, largest):
    """Round magnitude * 2^exponent (62 significant bits, the last one sticky) to nearest even."""
    shift = max(62 - precision, emin - precision + 1 - exponent)
    if shift > 62:
        return 0.0
    quotient = magnitude >> shift
    rest = magnitude & ((np.int64(1) << shift) - 1)
    half = np.int64(1) << (shift - 1)
    if rest > half or (rest == half and quotient & 1):
        quotient += 1
    rounded = math.ldexp(float(quotient), exponent + shift)
    return rounded if rounded <= largest else math.inf


@njit(cache=True)
def round_float(value, precision, emin, largest):
    """Round a float64 to nearest even, once, to fewer than 52 bits of precision."""
    magnitude = abs(value)
    if magnitude < 2.0**emin:
        anchor = 1.5 * 2.0 ** (emin - precision + 53)  # its last bit is the smallest subnormal
        rounded = (magnitude + anchor) - anchor
    else:
        bits = np.float64(magnitude).view(np.int64)
        drop = 53 - precision
        bits += (np.int64(1) << (drop - 1)) - 1 + ((bits >> drop) & 1)
        bits &= ~((np.int64(1) << drop) - 1)
        rounded = np.int64(bits).view(np.float64)
    return math.copysign(rounded if rounded <= largest else math.inf, value)


@njit(cache=True)
def round_pair(high, low, precision, emin, largest):
    """Round high + low once, where high is their float64 sum; an exact zero is +0."""
    if high == 0.0:
        return 0.0
    if precision == 53:
        return high
    if low != 0.0:  # round to odd: the last bit then says that something lies beyond
        bits = np.float64(high).view(np.int64)
        if bits & 1 == 0:
            high = np.int64(bits + 1 if (low > 0.0) == (high > 0.0) else bits - 1).view(np.float64)
    return round_float(high, precision, emin, largest)


@njit(cache=True)
def two_sum(x, y):
    """Return the float64 sum and what its rounding lost (Knuth)."""
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


# -- superaccumulator -----------------------------------------------------------------------------------------------


@njit(cache=True)
def _deposit(limbs, value, position):
    """Add value * 2^position, |value| < 2^62; a limb takes 2^30 deposits before it could overflow."""
    index, shift = position >> 5, position & 31
    low = (value & _LOW) << shift
    high = (value >> 32) << shift
    limbs[index] += low & _LOW
    limbs[index + 1] += (low >> 32) + (high & _LOW)
    limbs[index + 2] += high >> 32


@njit(cache=True)
def _split(bits):
    """Return the signed mantissa and the exponent of its last bit, of a finite float64 given as bits."""
    exponent = (bits >> 52) & 0x7FF
    mantissa = bits & _MANTISSA
    if exponent:
        mantissa |= np.int64(1) << 52
    else:
        exponent = 1
    return -mantissa if bits < 0 else mantissa, exponent - 1075


@njit(cache=True)
def add_product(limbs, x_bits, y_bits):
    """Add the exact product of two finite float64 numbers, given as bits."""
    x, x_exponent = _split(x_bits)
    y, y_exponent = _split(y_bits)
    if x == 0 or y == 0:
        return
    position = x_exponent + y_exponent - LOWEST
    if (x & _NARROW) == 0 and (y & _NARROW) == 0:
        _deposit(limbs, (x >> 24) * (y >> 24), position + 48)
        return
    x_low, x_high, y_low, y_high = x & _HALF, x >> 27, y & _HALF, y >> 27
    _deposit(limbs, x_low * y_low, position)
    _deposit(limbs, x_low * y_high + x_high * y_low, position + 27)
    _deposit(limbs, x_high * y_high, position + 54)


@njit(cache=True)
def settle_limbs(limbs, precision, emin, largest):
    """Carry, round once to nearest even, and clear the accumulator."""
    carry = np.int64(0)
    for i in range(LIMBS):
        total = limbs[i] + carry
        limbs[i] = total & _LOW
        carry = total >> 32
    sign = 1.0
    if carry < 0:
        sign, carry = -1.0, np.int64(1)
        for i in range(LIMBS):
            total = (limbs[i] ^ _LOW) + carry
            limbs[i] = total & _LOW
            carry = total >> 32
    top = LIMBS - 1
    while top > 2 and limbs[top] == 0:
        top -= 1
    rounded = _round_top(limbs, top, precision, emin, largest)
    limbs[:] = 0
    return sign * rounded


@njit(cache=True)
def _round_top(limbs, top, precision, emin, largest):
    """Gather 62 bits from the top three limbs, let the last one say whether anything lies below, and round."""
    width = math.frexp(float(limbs[top]))[1]
    rest = limbs[top - 1] << 30 | limbs[top - 2] >> 2
    sticky = (limbs[top - 2] & 3) != 0 or (rest & ((np.int64(1) << width) - 1)) != 0
    for i in range(top - 2):
        sticky = sticky or limbs[i] != 0
    magnitude = limbs[top] << (62 - width) | rest >> width | np.int64(sticky)
    return round_integer(magnitude, LOWEST + 32 * top + width - 62, precision, emin, largest)


@njit(cache=True, parallel=True)
def exact_dots(a, b, c, rows, columns, precision, emin, largest):
    """Return the sum over planes and k of a[p, row, k] * b[q, column, k], plus the terms c[i], rounded once."""
    a_bits, b_bits, c_bits = a.view(np.int64), b.view(np.int64), c.view(np.int64)
    one = np.float64(1.0).view(np.int64)
    results = np.empty(rows.size)
    chunks = min(64, rows.size)
    for chunk in prange(chunks):
        limbs = np.zeros(LIMBS, np.int64)
        for i in range(chunk, rows.size, chunks):
            row, column = rows[i], columns[i]
            for p in range(a.shape[0]):
                for q in range(b.shape[0]):
                    for k in range(a.shape[2]):
                        add_product(limbs, a_bits[p, row, k], b_bits[q, column, k])
            for j in range(c.shape[1]):
                add_product(limbs, c_bits[i, j], one)
            results[i] = settle_limbs(limbs, precision, emin, largest)
    return results


@njit(cache=True, parallel=True)
def exact_sums(terms, precision, emin, largest):
    """Return the sum of each row of terms, rounded once; a row with NaN or Inf follows IEEE addition."""
    bits = terms.view(np.int64)
    one = np.float64(1.0).view(np.int64)
    results = np.empty(terms.shape[0])
    chunks = min(64, terms.shape[0])
    for chunk in prange(chunks):
        limbs = np.zeros(LIMBS, np.int64)
        for i in range(chunk, terms.shape[0], chunks):
            plain = 0.0
            for j in range(terms.shape[1]):
                plain += 0.0 if math.isfinite(terms[i, j]) else terms[i, j]
            if plain != 0.0:  # NaN or Inf
                results[i] = plain
                continue
            for j in range(terms.shape[1]):
                add_product(limbs, bits[i, j], one)
            results[i] = settle_limbs(limbs, precision, emin, largest)
    return results


@njit(cache=True, parallel=True)
def plain_dots(a, b, c, rows, columns):
    """Return IEEE sums of products for listed pairs: for those with NaN or Inf, which no order can change."""
    results = np.empty(rows.size)
    for i in prange(rows.size):
        total = c[i]
        for k in range(a.shape[1]):
            total += a[rows[i], k] * b[columns[i], k]
        results[i] = total
    return results


# -- filter ---------------------------------------------------------------------------------------------------------


@njit(cache=True, parallel=True)
def measure(values):
    """Return each row's Euclidean norm rounded up, the exponent of its lowest set bit, and whether it is finite."""
    norms = np.zeros(values.shape[0])
    lowest = np.full(values.shape[0], 5000, np.int64)
    finite = np.ones(values.shape[0], np.bool_)
    bits = values.view(np.int64)
    for i in prange(values.shape[0]):
        largest = 0.0
        merged = np.int64(5000)
        for k in range(values.shape[1]):
            if not math.isfinite(values[i, k]):
                finite[i] = False
            elif values[i, k] != 0.0:
                largest = max(largest, abs(values[i, k]))
                mantissa, exponent = _split(bits[i, k])
                last = mantissa & -mantissa
                merged = min(merged, exponent + np.int64(math.frexp(float(last))[1]) - 1)
        lowest[i] = merged
        total = 0.0
        if largest > 0.0:
            for k in range(values.shape[1]):
                if math.isfinite(values[i, k]):
                    total += (values[i, k] / largest) ** 2
        norms[i] = math.sqrt(total) * largest * (1.0 + 2.0**-20)
    return norms, lowest, finite


@njit(cache=True, parallel=True)
def settle(sums, c, a_norms, a_lowest, b_norms, b_lowest, slack, precision, emin, largest, open_elements):
    """Round sums + c in place where the filter can tell, mark in `open_elements` where it cannot.

    `slack` bounds the relative error of a float64 sum against the product of norms; below 0 means that the sums are
    never exact. A sum whose terms are multiples of 2^lowest and add up to less than 2^(lowest + 53) is exact.
    """
    for i in prange(sums.shape[0]):
        for j in range(sums.shape[1]):
            scale = a_norms[i] * b_norms[j]
            error = abs(slack) * scale + 1e-290
            lowest = a_lowest[i] + b_lowest[j]
            if slack > 0.0 and (scale == 0.0 or (lowest > -1022 and scale < 2.0 ** min(lowest + 53, 1000))):
                error = 0.0
            high, low = two_sum(sums[i, j], c[i, j])
            if error == 0.0:
                sums[i, j] = round_pair(high, low, precision, emin, largest)
                continue
            error *= 1.0 + 2.0**-50
            below, below_rest = two_sum(high, (low - error) - 2.0**-50 * abs(low))
            above, above_rest = two_sum(high, (low + error) + 2.0**-50 * abs(low))
            lower = round_pair(below, below_rest, precision, emin, largest)
            upper = round_pair(above, above_rest, precision, emin, largest)
            open_elements[i, j] = lower != upper or math.copysign(1.0, lower) != math.copysign(1.0, upper)
            sums[i, j] = lower
