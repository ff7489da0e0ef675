"""The format that an exact result is rounded to, as the numbers that rounding needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgref.errors import FormatError, expected
from dgref.formats.element import FORMATS


@dataclass(frozen=True)
class Target:
    """An output format: its dtype, bits of significand, smallest normal exponent and largest value."""

    dtype: np.dtype
    precision: int
    emin: int
    largest: float

    @property
    def rounding(self) -> tuple[int, int, float]:
        """Return what the engine's rounding functions need."""
        return self.precision, self.emin, self.largest


def target(out: str) -> Target:
    """Return the rounding target of an output format's name."""
    if out == "float64":
        return Target(np.dtype(np.float64), 53, -1022, float(np.finfo(np.float64).max))
    row = FORMATS[out]
    if not row.infinity or row.native_dtype is None or row.bits <= 8:
        raise FormatError(expected("out", row.name, "bfloat16, float16, float32 or float64"))
    return Target(row.native_dtype, row.mantissa_bits + 1, row.emin, row.max)
