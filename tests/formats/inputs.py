"""Inputs that the format tests share: exhaustive where that is cheap, dense around every rounding boundary, seeded."""

from __future__ import annotations

from functools import cache

import numpy as np

from dgref.formats import FORMATS, Format

SMALL = [format for format in FORMATS.values() if format.storage_bits <= 8]
NARROW = [format for format in FORMATS.values() if format.storage_bits <= 16]


@cache
def all_float32_of(name: str) -> np.ndarray:
    """Return every value of a 16-bit format, NaNs included, as float32 made by NumPy alone."""
    codes = np.arange(1 << 16, dtype=np.uint16)
    if name == "float16":
        return codes.view(np.float16).astype(np.float32)
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)


@cache
def boundaries(format: Format) -> np.ndarray:
    """Return float32 values at, and up to four steps around, each value of a format and each midpoint between two."""
    codes = format.codes[: format.max_code + 1 : max(1, (format.max_code + 1) >> 12)]
    values = np.unique(np.abs(format.decode(codes).astype(np.float64)))
    last = values[-1] + (values[-1] - values[-2]) * np.array([0.5, 1.0, 1.5, 2.0, 4.0])
    with np.errstate(over="ignore"):
        points = np.concatenate([values, (values[1:] + values[:-1]) / 2, last]).astype(np.float32)
    bits = points.view(np.uint32)[:, None] + np.arange(-4, 5, dtype=np.int64).astype(np.uint32)
    near = bits.astype(np.uint32).reshape(-1).view(np.float32)
    return np.concatenate([near, -near])


@cache
def random_bits(count: int, seed: int = 0) -> np.ndarray:
    """Return float32 of uniformly random bits: every exponent, sign and kind of NaN."""
    return np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32).view(np.float32)


def float32_inputs(format: Format, count: int = 1 << 17) -> np.ndarray:
    """Return all of bfloat16 and float16, the boundaries of a format, and random bits."""
    parts = [all_float32_of("bfloat16"), all_float32_of("float16"), boundaries(format), random_bits(count)]
    return np.concatenate(parts)
