"""Compiled inner loops: strided copies at memory speed, and the exponents of power-of-two scales.

`tiled.py` holds the readable way (reshape, permute, reshape); the tests hold both equal.
"""

from __future__ import annotations

from math import prod

import numba
import numpy as np

Modes = list[tuple[int, int]]  # (extent, step in the source), in the order of the destination

_LINE = 64  # bytes of a cache line: how far a block of reads goes
_PAGES = 256  # rows that a block of writes spans: fewer than the entries of a translation buffer


def strided_copy(source: np.ndarray, modes: Modes) -> np.ndarray:
    """Return a flat array whose digits, most significant first, step through the flat source as `modes` say."""
    narrow = source.dtype
    modes = _merged(modes)
    source, modes, itemsize = _widened(source, modes)
    result = np.empty(prod(extent for extent, _ in modes), source.dtype)
    if not result.size:
        return result.view(narrow)
    unit = [place for place, (_, step) in enumerate(modes) if step == 1]
    steps = _destination_steps(modes)
    if not unit:
        _gather(source, result, _offsets([s for _, s in modes[:-1]], modes[:-1]), *modes[-1])
    elif unit[0] == len(modes) - 1:
        _runs(source, result, _offsets([s for _, s in modes[:-1]], modes[:-1]), modes[-1][0])
    else:
        read = unit[0]
        _transpose(
            source,
            result,
            *_pair(modes[:read], steps[:read]),
            *_pair(modes[read + 1 : -1], steps[read + 1 : -1]),
            np.array([modes[read][0], steps[read], modes[-1][0], modes[-1][1]]),
            max(1, _LINE // itemsize),
        )
    return result.view(narrow)


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


def _widened(source: np.ndarray, modes: Modes) -> tuple[np.ndarray, Modes, int]:
    """Copy several neighbouring elements as one wider word, where all steps allow it."""
    extent, step = modes[-1]
    for width in (8, 4, 2):
        factor = width // source.itemsize
        fits = factor > 1 and step == 1 and len(modes) > 1 and extent % factor == 0
        if fits and extent <= 8 and all(s % factor == 0 for _, s in modes[:-1]) and source.size % factor == 0:
            wide = _merged([*((e, s // factor) for e, s in modes[:-1]), (extent // factor, 1)])
            return source.view(f"u{width}"), wide, width
    return source, modes, source.itemsize


def _destination_steps(modes: Modes) -> list[int]:
    steps = [1]
    for extent, _ in reversed(modes[1:]):
        steps.insert(0, steps[0] * extent)
    return steps


def _offsets(steps: list[int], modes: Modes) -> np.ndarray:
    """Return the sum of digit x step for every combination of digits."""
    result = np.zeros(1, np.int64)
    for (extent, _), step in zip(modes, steps, strict=True):
        result = (result[:, None] + np.arange(extent, dtype=np.int64) * step).reshape(-1)
    return result


def _pair(modes: Modes, steps: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return _offsets([step for _, step in modes], modes), _offsets(steps, modes)


@numba.njit(cache=True, parallel=True)
def _gather(source, result, offsets, extent, step):
    for run in numba.prange(offsets.size):
        for i in range(extent):
            result[run * extent + i] = source[offsets[run] + i * step]


@numba.njit(cache=True, parallel=True)
def _runs(source, result, offsets, extent):
    for run in numba.prange(offsets.size):
        result[run * extent : (run + 1) * extent] = source[offsets[run] : offsets[run] + extent]


@numba.njit(cache=True, parallel=True)
def _transpose(source, result, outer_from, outer_to, inner_from, inner_to, geometry, line):
    """Copy blocks of a cache line of reads by a page-limited run of writes, so that both sides stay in cache."""
    reads, read_to, writes, write_from = geometry
    parts = (writes + _PAGES - 1) // _PAGES
    for task in numba.prange(outer_from.size * parts):
        outer, part = task // parts, task % parts
        first, last = part * _PAGES, min(writes, (part + 1) * _PAGES)
        for start in range(0, reads, line):
            stop = min(reads, start + line)
            for inner in range(inner_from.size):
                origin = outer_from[outer] + inner_from[inner]
                target = outer_to[outer] + inner_to[inner]
                for w in range(first, last):
                    for r in range(start, stop):
                        result[target + w + r * read_to] = source[origin + r + w * write_from]


def exponents(bits: np.ndarray) -> np.ndarray | None:
    """Return the UE8M0 byte of float32 bits; None where any is not a positive power of two."""
    codes = np.empty(bits.shape, np.uint8)
    bad = _exponents(np.ascontiguousarray(bits).reshape(-1), codes.reshape(-1))
    return None if bad else codes


@numba.njit(cache=True, parallel=True)
def _exponents(bits, codes):
    bad = 0
    for i in numba.prange(bits.size):
        word = bits[i]
        codes[i] = word >> 23
        subnormal = word == 0x00400000
        normal = ((word & 0x007FFFFF) == 0) & (word > 0) & (word < 0x7F800000)
        bad += not (subnormal | normal)
    return bad
