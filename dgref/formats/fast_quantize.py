"""Blocks of one row, quantised fast: amax and payload in parallel loops, scales by the readable rules in between.

The loops fuse division and encoding; the code of a quotient comes from the table that the codecs use, which is made by
the readable path. Whatever does not fit here (blocks of several rows, random draws, values that are not finite) goes
the readable way.
"""

from __future__ import annotations

import numba
import numpy as np

from dgref.formats.blockwise import over_grid, scale_and_factor
from dgref.formats.conversion import Conversion, conversion_of
from dgref.formats.element import Format
from dgref.formats.fast_codec import encode_table, has_table
from dgref.formats.payloads import PAYLOADS
from dgref.formats.scaling import Scaling

_RUN = 16
_MAGNITUDE = np.int32(0x7FFFFFFF)
_CHUNK = 1 << 22  # elements whose scales are worked out at once: their temporaries stay in the cache


def can_quantize(format: Format, scaling: Scaling) -> bool:
    """Return whether the fast path knows this scaling."""
    plain = scaling.block[0] == 1 and scaling.four_over_six == "no" and scaling.rounding == "nearest_even"
    if not plain or format.bits > 8 or PAYLOADS[scaling.payload].operation == "multiply_and_clamp":
        return False
    return has_table(format, payload_conversion(format, scaling))


def payload_conversion(format: Format, scaling: Scaling) -> Conversion:
    """Return how quotients become codes."""
    if scaling.convention is not None:
        return conversion_of(format, "nearest_even", None, None, scaling.convention, None)
    return conversion_of(format, scaling.rounding, "saturate", None, None, None)


def quantize_blocks(
    values: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what `blockwise.quantize_blocks` returns, or None where only that knows the answer."""
    grid = scaling.grid(values.shape)
    columns = scaling.extents(values.shape)[1]
    matrix = _as_matrix(values)
    amax = _block_amax(matrix, columns)
    with np.errstate(all="ignore"):
        beside = None if stored is None else over_grid(stored, amax.reshape(grid)).reshape(amax.shape)
        scale, factor = _by_chunks(amax, format, scaling, beside)
    operation = PAYLOADS[scaling.payload].operation
    if not np.isfinite(amax).all() or (operation == "divide" and not factor.all()):
        return None
    codes = np.empty(matrix.shape, format.code_dtype)
    table, shift = encode_table(format, payload_conversion(format, scaling))
    _encode(matrix, factor, columns, operation == "divide", table, shift, codes)
    return codes.reshape(values.shape), scale.reshape(grid)


def _by_chunks(
    amax: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (scales, factors) of all blocks, some rows at a time."""
    rows = max(_CHUNK // max(amax.shape[1] * 32, 1), 1)
    parts = [
        scale_and_factor(amax[i : i + rows], format, scaling, None if stored is None else stored[i : i + rows])
        for i in range(0, max(len(amax), 1), rows)
    ]
    scales, factors = zip(*parts, strict=True)
    return np.concatenate(scales), np.concatenate(factors)


def amax_of(values: np.ndarray) -> np.float32:
    """Return the largest magnitude of a whole tensor; NaN propagates."""
    return _block_amax(_as_matrix(values), _RUN).max(initial=0)


def _as_matrix(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1, values.shape[-1])


def _block_amax(matrix: np.ndarray, columns: int) -> np.ndarray:
    """Return each block's largest magnitude, [rows, blocks]: from runs of 16 where blocks are made of whole runs."""
    runs_a_block, rest = divmod(columns, _RUN)
    if rest:
        amax = np.empty((len(matrix), -(-matrix.shape[1] // columns)), np.float32)
        _amax_of_blocks(matrix.view(np.int32), columns, amax.view(np.int32))
        return amax
    runs = np.zeros((len(matrix), -(-matrix.shape[1] // columns) * runs_a_block), np.float32)
    _amax_of_runs(matrix.view(np.int32), runs.view(np.int32))
    while runs_a_block % 2 == 0:
        runs, runs_a_block = np.maximum(runs[:, ::2], runs[:, 1::2]), runs_a_block // 2
    return runs if runs_a_block == 1 else runs.reshape(len(runs), -1, runs_a_block).max(axis=-1)


# Magnitude bits compare as integers, and NaN lies above everything there, so that it propagates.


@numba.njit(parallel=True, cache=True)
def _amax_of_runs(bits, amax):  # pragma: no cover - compiled
    """Take the amax of every 16 columns: a constant count, so that a run is one vector register."""
    for row in numba.prange(bits.shape[0]):
        line = bits[row]
        whole = line.size // _RUN
        for run in range(whole):
            start = run * _RUN
            a = b = c = d = np.int32(0)
            for i in range(0, _RUN, 4):
                a = max(a, line[start + i] & _MAGNITUDE)
                b = max(b, line[start + i + 1] & _MAGNITUDE)
                c = max(c, line[start + i + 2] & _MAGNITUDE)
                d = max(d, line[start + i + 3] & _MAGNITUDE)
            amax[row, run] = max(max(a, b), max(c, d))
        for i in range(whole * _RUN, line.size):
            amax[row, whole] = max(amax[row, whole], line[i] & _MAGNITUDE)


@numba.njit(parallel=True, cache=True)
def _amax_of_blocks(bits, columns, amax):  # pragma: no cover - compiled
    for row in numba.prange(bits.shape[0]):
        for block in range(amax.shape[1]):
            largest = np.int32(0)
            for i in range(block * columns, min((block + 1) * columns, bits.shape[1])):
                largest = max(largest, bits[row, i] & _MAGNITUDE)
            amax[row, block] = largest


@numba.njit(parallel=True, cache=True)
def _encode(values, factor, columns, divide, table, shift, codes):  # pragma: no cover - compiled
    """Divide or multiply, round to float32, and look the code up by its key (see fast_codec)."""
    below = np.uint32((1 << shift) - 1)
    for row in numba.prange(values.shape[0]):
        quotients = np.empty(columns, np.float32)
        bits = quotients.view(np.uint32)
        for block in range(factor.shape[1]):
            start = block * columns
            count = min(columns, values.shape[1] - start)
            by = factor[row, block]
            if divide:
                for i in range(count):
                    quotients[i] = values[row, start + i] / by
            else:
                for i in range(count):
                    quotients[i] = values[row, start + i] * by
            for i in range(count):
                key = (bits[i] >> np.uint32(shift)) << np.uint32(1)
                codes[row, start + i] = table[key | np.uint32((bits[i] & below) != 0)]
