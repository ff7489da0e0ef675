"""Element formats: one row of data each; every other property is derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from dgref.registry import Registry

NanStyle = Literal["ieee", "all_ones", "negative_zero", "none"]


@dataclass(frozen=True)
class Format:
    """What the bits of one element mean.

    `nan_style` says which codes are NaN: `ieee` (largest exponent, nonzero mantissa), `all_ones` (every bit below
    the sign set), `negative_zero` (the code of -0) or `none`. `sign` is `signed`, or `ignored` for a format whose
    top bit exists and means nothing, or `absent`.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    nan_style: NanStyle
    infinity: bool = False
    sign: Literal["signed", "ignored", "absent"] = "signed"
    power_of_two: bool = False  # no zero, no mantissa, no subnormals: the code is the exponent
    storage_shift: int = 0  # unused low bits of the stored word (TF32 lives in the top of 32 bits)
    source: str = ""

    @cached_property
    def bits(self) -> int:
        """Bits that carry meaning or a sign position."""
        return self.exponent_bits + self.mantissa_bits + (self.sign != "absent")

    @cached_property
    def code_dtype(self) -> np.dtype:
        """The unsigned integer that holds one unpacked code."""
        width = self.bits + self.storage_shift
        return np.dtype(np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32)

    # decode, encode and everything derived (max, min_normal, min_subnormal, nan codes, ulp, …): see codec.py
