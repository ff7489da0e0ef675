"""The fast engine: a tensor core's model as floating-point loops that the compiler turns into SIMD.

A product of two operands is exact in the working type, multiplying by a power of two is exact, and truncating
a * b * 2^(F - top) is one instruction. So the alignment needs no integers: the power of two of the largest exponent
is a running maximum over products of powers of two. The truncated terms are integers, and the working type holds
their sum exactly: float32 for F = 13 (32 terms below 2^15), float64 for every other row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads, types, vectorize
from numba.extending import intrinsic

from dgref.reference.engine_operand import Operand, Part, seeded
from dgref.reference.tensor_core import OUTPUT_MANTISSA, TensorCore

_ROWS = 8  # rows that pass over one slice of B while the cache holds it
_EXPONENT = np.int32(0x7F800000)
_SUBNORMAL = np.int32(0x00800000)  # the bits of 2^-126, the exponent that a subnormal keeps
_SMALLEST = np.float32(2.0**-126)
_WORTH_THREADS = 1 << 21  # multiply-accumulates below which a second thread does not pay
_SINGLE_FLOOR = 2.0**-100  # lowest alignment of the float32 path; FP8 products stay above 2^-33


def chain(core: TensorCore, a: Operand, b: Operand, span: tuple[int, int], seed: np.ndarray | None) -> np.ndarray:
    """Return the accumulator [rows, columns] after the instruction has run over a range of K, from C = seed or zero."""
    accumulator = seeded(a, b, seed)
    left, right = a.part(*span), b.part(*span)
    with threads_for(accumulator.size * (span[1] - span[0])):
        if core.group > 1:
            _chain_grouped(core, left, right, accumulator)
        else:
            _chain_products(core, left, right, accumulator, seed is not None)
    return accumulator


@contextmanager
def threads_for(work: int) -> Iterator[None]:
    """Keep small work on one thread: waking another costs more, and far more on a busy machine."""
    before = get_num_threads()
    set_num_threads(before if work >= _WORTH_THREADS else 1)
    try:
        yield
    finally:
        set_num_threads(before)


def _chain_products(core: TensorCore, a: Part, b: Part, accumulator: np.ndarray, any_seed: bool) -> None:
    single = core.output == "e8m13" and not (any_seed or core.scale_block) and core.c == "aligned"
    dtype = np.float32 if single else np.float64
    arrays = (a.values(dtype), a.powers(dtype), _transposed(b.values(dtype)), _transposed(b.powers(dtype)))
    if single:
        _chain_single(*arrays, accumulator, core.step, dtype(2.0**core.fraction_bits), dtype(_SINGLE_FLOOR))
    else:
        _chain_double(*arrays, accumulator, core.step, *_constants(core), core.c == "aligned")


def _chain_grouped(core: TensorCore, a: Part, b: Part, accumulator: np.ndarray) -> None:
    """The block-scaled FP4 form: a group's payload dot is exact and becomes one term times the two scales."""
    arrays = [a.payload(core.group), *a.group_scales(core.group)]
    arrays += [_transposed(x) for x in (b.payload(core.group), *b.group_scales(core.group))]
    _chain_groups(*arrays, accumulator, core.group, core.step // core.group, *_constants(core))


def _constants(core: TensorCore) -> tuple[float, float, np.int64, float]:
    """Return 2^F, the alignment floor, the mask of float64 bits that the output keeps, and 1 / its subnormal step."""
    kept = OUTPUT_MANTISSA[core.output]
    return 2.0**core.fraction_bits, 2.0**core.floor, np.int64(-(1 << (52 - kept))), 2.0 ** (126 + kept)


def _transposed(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.T)


@intrinsic
def fused_multiply_add(typing_context, a, b, c):
    """Compute a * b + c in float32 with a single rounding."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@vectorize(["float32(float32, float32, float32)"], cache=True)
def fma(a, b, c):
    """Compute a * b + c in float32 with a single rounding; a ufunc, so operands broadcast."""
    return fused_multiply_add(a, b, c)


def fused_scale_add(total: np.ndarray, chain: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """Do total = fma(fp32(row scale * column scale), chain, total), element by element, in place."""
    with threads_for(8 * total.size):
        _fused_scale_add(total, chain, rows, columns)


@njit(cache=True, parallel=True, error_model="numpy")
def _fused_scale_add(total, chain, rows, columns):
    for m in prange(total.shape[0]):
        for n in range(total.shape[1]):
            total[m, n] = fused_multiply_add(rows[m] * columns[n], chain[m, n], total[m, n])


@njit(inline="always", error_model="numpy")
def _raise_to_largest(top, left, right, m, start, stop):
    """Raise every column's `top` to the largest product of powers among K = start .. stop."""
    whole = start + (stop - start) // 4 * 4
    for k in range(start, whole, 4):
        w, x, y, z = left[m, k], left[m, k + 1], left[m, k + 2], left[m, k + 3]
        for n in range(top.size):
            p, q = w * right[k, n], x * right[k + 1, n]
            r, s = y * right[k + 2, n], z * right[k + 3, n]
            p, r = (p if p > q else q), (r if r > s else s)
            p = p if p > r else r
            top[n] = p if p > top[n] else top[n]
    for k in range(whole, stop):
        for n in range(top.size):
            p = left[m, k] * right[k, n]
            top[n] = p if p > top[n] else top[n]


@njit(inline="always", error_model="numpy")
def _add_truncated(total, scale, left, right, m, start, stop):
    """Add every product of K = start .. stop to its column's total, truncated to an integer after scaling."""
    whole = start + (stop - start) // 4 * 4
    for k in range(start, whole, 4):
        w, x, y, z = left[m, k], left[m, k + 1], left[m, k + 2], left[m, k + 3]
        for n in range(total.size):
            s = scale[n]
            low = np.trunc(w * right[k, n] * s) + np.trunc(x * right[k + 1, n] * s)
            high = np.trunc(y * right[k + 2, n] * s) + np.trunc(z * right[k + 3, n] * s)
            total[n] += low + high
    for k in range(whole, stop):
        for n in range(total.size):
            total[n] += np.trunc(left[m, k] * right[k, n] * scale[n])


@njit(inline="always", error_model="numpy")
def _powers_of(bits, power):
    """Write the bits of each accumulator's power of two: 0 for zero and Inf, which align nothing."""
    for n in range(bits.size):
        magnitude = bits[n] & np.int32(0x7FFFFFFF)
        exponent = magnitude & _EXPONENT
        exponent = np.int32(0) if exponent == _EXPONENT else exponent
        power[n] = _SUBNORMAL if exponent == 0 and magnitude != 0 else exponent


@njit(cache=True, parallel=True, error_model="numpy")
def _chain_single(av, ap, bv, bp, accumulator, step, unit, floor):
    rows, columns = accumulator.shape
    for block in prange((rows + _ROWS - 1) // _ROWS):
        top, total = np.empty(columns, np.float32), np.empty(columns, np.float32)
        power = np.empty(columns, np.int32)
        for start in range(0, av.shape[1], step):
            stop = min(start + step, av.shape[1])
            for m in range(block * _ROWS, min(rows, (block + 1) * _ROWS)):
                c = accumulator[m]
                bits = c.view(np.int32)
                _powers_of(bits, power)
                values = power.view(np.float32)
                for n in range(columns):
                    top[n] = max(values[n], floor)
                _raise_to_largest(top, ap, bp, m, start, stop)
                for n in range(columns):
                    top[n] = unit / top[n]
                    total[n] = np.trunc(c[n] * top[n])
                _add_truncated(total, top, av, bv, m, start, stop)
                for n in range(columns):
                    c[n] = total[n] / top[n]
                for n in range(columns):
                    bits[n] &= np.int32(-1024)  # the low 10 of 23 mantissa bits: e8m13 keeps 13


@njit(inline="always", error_model="numpy")
def _round_toward_zero(total, scale, mask, tiny):
    """Truncate total / scale in place to the bits of `mask`, and to steps of 1 / tiny below 2^-126."""
    bits = total.view(np.int64)
    for n in range(total.size):
        total[n] /= scale[n]
        scale[n] = np.trunc(total[n] * tiny) / tiny
    for n in range(total.size):
        bits[n] &= mask
    for n in range(total.size):
        total[n] = scale[n] if np.abs(total[n]) < _SMALLEST else total[n]


@njit(cache=True, parallel=True, error_model="numpy")
def _chain_double(av, ap, bv, bp, accumulator, step, unit, floor, mask, tiny, aligned):
    rows, columns = accumulator.shape
    for block in prange((rows + _ROWS - 1) // _ROWS):
        top, total = np.empty(columns, np.float64), np.empty(columns, np.float64)
        power = np.empty(columns, np.int32)
        for start in range(0, av.shape[1], step):
            stop = min(start + step, av.shape[1])
            for m in range(block * _ROWS, min(rows, (block + 1) * _ROWS)):
                c = accumulator[m]
                _align_accumulator(c, power, top, floor, aligned)
                _raise_to_largest(top, ap, bp, m, start, stop)
                for n in range(columns):
                    top[n] = unit / top[n]
                    total[n] = np.trunc(c[n] * top[n]) if aligned else 0.0
                _add_truncated(total, top, av, bv, m, start, stop)
                _round_toward_zero(total, top, mask, tiny)
                for n in range(columns):
                    c[n] = np.float32(total[n]) if aligned else c[n] + np.float32(total[n])


@njit(inline="always", error_model="numpy")
def _align_accumulator(c, power, top, floor, aligned):
    """Start every column's `top` at its accumulator's power of two, or at the floor."""
    _powers_of(c.view(np.int32), power)
    values = power.view(np.float32)
    for n in range(top.size):
        top[n] = max(np.float64(values[n]), floor) if aligned else floor


@njit(cache=True, parallel=True, error_model="numpy")
def _chain_groups(av, a_scale, a_power, bv, b_scale, b_power, accumulator, group, groups, unit, floor, mask, tiny):
    rows, columns = accumulator.shape
    count = a_scale.shape[1]
    for block in prange((rows + _ROWS - 1) // _ROWS):
        top, total = np.empty(columns, np.float64), np.empty(columns, np.float64)
        power = np.empty(columns, np.int32)
        dots = np.empty((groups, columns), np.float32)
        for start in range(0, count, groups):
            stop = min(start + groups, count)
            for m in range(block * _ROWS, min(rows, (block + 1) * _ROWS)):
                c = accumulator[m]
                _align_accumulator(c, power, top, floor, True)
                for g in range(start, stop):
                    _exact_dot(dots[g - start], av, bv, m, g * group, group)
                    for n in range(columns):
                        p = a_power[m, g] * b_power[g, n] if dots[g - start, n] != 0 else 0.0
                        top[n] = p if p > top[n] else top[n]
                for n in range(columns):
                    top[n] = unit / top[n]
                    total[n] = np.trunc(c[n] * top[n])
                for g in range(start, stop):
                    for n in range(columns):
                        total[n] += np.trunc(dots[g - start, n] * (a_scale[m, g] * b_scale[g, n]) * top[n])
                _round_toward_zero(total, top, mask, tiny)
                for n in range(columns):
                    c[n] = np.float32(total[n])


@njit(inline="always", error_model="numpy")
def _exact_dot(dot, left, right, m, start, group):
    """Sum one group of FP4 products, each a multiple of 1/4 below 36: exact in float32."""
    dot[:] = 0
    for k in range(start, start + group, 4):
        w, x, y, z = left[m, k], left[m, k + 1], left[m, k + 2], left[m, k + 3]
        for n in range(dot.size):
            low = w * right[k, n] + x * right[k + 1, n]
            dot[n] += low + (y * right[k + 2, n] + z * right[k + 3, n])
