"""Compiled inner loops: strided copies at memory speed, and the exponents of power-of-two scales.

`tiled.py` holds the readable way (reshape, permute, reshape); the tests hold both equal. Every layout here is, once
its digits are merged, either runs of contiguous reads or a transposition: `outer` digits, then the digit that is
contiguous in the source, then the digits that are contiguous in the destination.
"""

from __future__ import annotations

from math import prod

import numba
import numpy as np

Modes = list[tuple[int, int]]  # (extent, step in the source), in the order of the destination

_TILE = 32  # elements each way: a tile of words stays in the first-level cache, and fills whole lines
_SPAN = 256  # destination elements of one task: fewer source rows than a translation buffer has entries


def strided_copy(source: np.ndarray, modes: Modes) -> np.ndarray:
    """Return a flat array whose digits, most significant first, step through the flat source as `modes` say.

    The source itself comes back where the modes change nothing.
    """
    narrow, modes = source.dtype, _merged(modes)
    if modes == [(source.size, 1)]:
        return source
    source, modes = _widened(source, modes)
    result = np.empty(prod(extent for extent, _ in modes), source.dtype)
    if result.size:
        _copy(source, result, modes)
    return result.view(narrow)


def _copy(source: np.ndarray, result: np.ndarray, modes: Modes) -> None:
    """Choose the loop that reads whole cache lines."""
    unit = [place for place, (_, step) in enumerate(modes) if step == 1]
    read = unit[0] if unit else len(modes) - 1
    outer, (reads, step), inner = _offsets(modes[:read]), modes[read], _offsets(modes[read + 1 :])
    if inner.size == 1:
        _runs(source, result, outer, reads, step)
    elif inner.size == 4 and source.itemsize == 1:
        _interleave(source, result.view(np.uint32), outer, reads, inner)
    elif source.itemsize == 1:
        _transpose_bytes(source, result, outer, reads, inner)
    else:
        _transpose(source, result, outer, reads, inner)


def _merged(modes: Modes) -> Modes:
    """Join neighbours that step as one, and drop extents of one."""
    result: Modes = []
    for extent, step in modes:
        if extent == 1:
            continue
        if result and result[-1][1] == step * extent:
            result[-1] = (result[-1][0] * extent, step)
        else:
            result.append((extent, step))
    return result or [(1, 1)]


def _widened(source: np.ndarray, modes: Modes) -> tuple[np.ndarray, Modes]:
    """Copy several neighbouring elements as one wider word, where all steps allow it."""
    extent, step = modes[-1]
    for width in (8, 4, 2):
        factor = width // source.itemsize
        fits = factor > 1 and step == 1 and len(modes) > 1 and extent % factor == 0 and extent * source.itemsize <= 8
        if fits and all(s % factor == 0 for _, s in modes[:-1]) and source.size % factor == 0:
            wide = _merged([*((e, s // factor) for e, s in modes[:-1]), (extent // factor, 1)])
            return source.view(f"u{width}"), wide
    return source, modes


def _offsets(modes: Modes) -> np.ndarray:
    """Return the sum of digit x step for every combination of digits."""
    result = np.zeros(1, np.int64)
    for extent, step in modes:
        result = (result[:, None] + np.arange(extent, dtype=np.int64) * step).reshape(-1)
    return result


@numba.njit(cache=True, parallel=True)
def _runs(source, result, outer, reads, step):
    for run in numba.prange(outer.size):
        if step == 1:
            result[run * reads : (run + 1) * reads] = source[outer[run] : outer[run] + reads]
        else:
            for i in range(reads):
                result[run * reads + i] = source[outer[run] + i * step]


@numba.njit(cache=True, inline="always")
def _join(words, first, second, third, fourth):
    """Join a byte from each of four rows into a little-endian word; slices, so that it vectorises along the rows."""
    for r in range(words.size):
        low = np.uint32(first[r]) | np.uint32(second[r]) << np.uint32(8)
        high = np.uint32(third[r]) | np.uint32(fourth[r]) << np.uint32(8)
        words[r] = low | high << np.uint32(16)


@numba.njit(cache=True, parallel=True)
def _interleave(source, words, outer, reads, inner):
    """Four rows of bytes become one row of words."""
    parts = (reads + 4095) // 4096
    for task in numba.prange(outer.size * parts):
        group, start = task // parts, task % parts * 4096
        stop = min(reads, start + 4096)
        _join(
            words[group * reads + start : group * reads + stop],
            source[outer[group] + inner[0] + start : outer[group] + inner[0] + stop],
            source[outer[group] + inner[1] + start : outer[group] + inner[1] + stop],
            source[outer[group] + inner[2] + start : outer[group] + inner[2] + stop],
            source[outer[group] + inner[3] + start : outer[group] + inner[3] + stop],
        )


@numba.njit(cache=True, parallel=True)
def _transpose(source, result, outer, reads, inner):
    """Go through a small tile, so that reads and writes each touch whole cache lines once."""
    writes = inner.size
    parts = (writes + _SPAN - 1) // _SPAN
    for task in numba.prange(outer.size * parts):
        origin, target = outer[task // parts], (task // parts) * reads * writes
        first = (task % parts) * _SPAN
        last = min(writes, first + _SPAN)
        tile = np.empty((_TILE, _TILE), source.dtype)
        for r0 in range(0, reads, _TILE):
            rows = min(_TILE, reads - r0)
            for w0 in range(first, last, _TILE):
                columns = min(_TILE, last - w0)
                for w in range(columns):
                    start = origin + inner[w0 + w] + r0
                    tile[:rows, w] = source[start : start + rows]
                for r in range(rows):
                    start = target + (r0 + r) * writes + w0
                    result[start : start + columns] = tile[r, :columns]


@numba.njit(cache=True, parallel=True)
def _transpose_bytes(source, result, outer, reads, inner):
    """Join four rows of bytes into words, transpose the words, and write them out as bytes."""
    writes = inner.size
    parts = (writes + _SPAN - 1) // _SPAN
    for task in numba.prange(outer.size * parts):
        origin, target = outer[task // parts], (task // parts) * reads * writes
        first = (task % parts) * _SPAN
        last = min(writes, first + _SPAN)
        tile = np.empty((_SPAN // 4, 64), np.uint32)
        line = np.empty(_SPAN // 4, np.uint32)
        octets = line.view(np.uint8)
        for r0 in range(0, reads, 64):
            rows = min(64, reads - r0)
            for w in range(first, last, 4):
                a = origin + r0 + inner[w]
                b = origin + r0 + inner[min(w + 1, last - 1)]
                c = origin + r0 + inner[min(w + 2, last - 1)]
                d = origin + r0 + inner[min(w + 3, last - 1)]
                words = tile[(w - first) // 4, :rows]
                _join(words, source[a : a + rows], source[b : b + rows], source[c : c + rows], source[d : d + rows])
            for r in range(rows):
                line[:] = tile[:, r]
                start = target + (r0 + r) * writes + first
                result[start : start + last - first] = octets[: last - first]


def exponents(bits: np.ndarray) -> np.ndarray | None:
    """Return the UE8M0 byte of float32 bits; None where any is not a positive power of two."""
    codes = np.empty(bits.shape, np.uint8)
    flat = np.ascontiguousarray(bits).reshape(-1).view(np.uint32)
    return None if flat.size and _exponents(flat, codes.reshape(-1)) else codes


@numba.njit(cache=True, parallel=True)
def _exponents(bits, codes):
    parts = (bits.size + 16383) // 16384
    bad = np.zeros(parts, np.uint32)
    for part in numba.prange(parts):
        bad[part] = _exponents_of(bits[part * 16384 : (part + 1) * 16384], codes[part * 16384 : (part + 1) * 16384])
    return bad.any()


_LEAST = np.uint32(0x00800000)  # 2^-126, the least normal
_GREATEST = np.uint32(0x7F000000 - 0x00800000)  # 2^127, counted from the least


@numba.njit(cache=True)
def _exponents_of(bits, codes):
    """A power of two has no sign, no mantissa and an exponent of 1 to 254, or is the subnormal 2^-127."""
    wrong = np.uint32(0)
    for i in range(bits.size):
        word = bits[i]
        codes[i] = np.uint8(word >> np.uint32(23))
        outside = np.uint32(np.uint32(word - _LEAST) > _GREATEST)
        wrong |= ((word & np.uint32(0x807FFFFF)) | outside) * np.uint32(word != np.uint32(0x00400000))
    return wrong
