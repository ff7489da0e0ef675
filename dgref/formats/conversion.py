"""Conversion: the whole rule by which values become codes, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dgref.errors import FormatError, choice, expected
from dgref.formats.element import Format
from dgref.formats.philox import check_seed
from dgref.formats.rounding import check_rounding

Overflow = Literal["saturate", "inf", "nan"]
_OVERFLOWS = ("saturate", "inf", "nan")
_NANS = ("quiet", "sign", "positive", "negative")


@dataclass(frozen=True)
class Conversion:
    """How values become codes; a library's convention for one destination format is one of these.

    The defaults are IEEE 754's, with saturation. Everything below `nan_sign` exists because some library needs it:
    `zero_sign` is the sign of a result of zero (`inexact`: -0.0 loses it, -tiny keeps it; `exact`: +0.0 gains one),
    and `refuse` stands for a result that the library leaves to chance.
    """

    rounding: str = "nearest_even"
    overflow: Overflow = "saturate"
    infinity: Overflow | Literal["refuse"] | None = None  # of an infinite input, where finite overflow differs
    nan: int | Literal["quiet", "refuse"] = "quiet"  # the code of NaN; quiet keeps the leading payload bits
    nan_sign: bool = True  # whether a negative NaN flips the sign bit of that code
    zero_sign: Literal["keep", "never", "inexact", "exact"] = "keep"
    negative: Literal["nan", "magnitude"] = "nan"  # negative input, where the format has no sign
    zero: Literal["smallest", "nan", "nan_below"] = "smallest"  # zero (or far below), where the format has no zero
    lowest_code: int = 0  # smaller magnitudes get this code
    lowest_binade: str | None = None  # another rounding at and below the smallest normal exponent
    through: str | None = None  # a format that values are rounded to first (nearest even)
    seed: int | None = None  # of stochastic rounding


def conversion_of(
    format: Format, rounding: str, overflow: str | None, nan: str | int | None, convention: str | None, seed: int | None
) -> Conversion:
    """Return the conversion that the arguments of `Format.encode` describe."""
    if convention is not None:
        from dgref.formats.conventions import conversion

        rules = (rounding, overflow, nan, seed)
        if not isinstance(rounding, str) or rounding != "nearest_even" or any(rule is not None for rule in rules[1:]):
            given = f"rounding={rounding!r}, overflow={overflow!r}, nan={nan!r}, seed={seed!r}"
            raise FormatError(expected(f"convention {convention!r}", given, "no other rule beside a convention"))
        return conversion(convention, format)
    if overflow is None:
        overflow = "inf" if format.bits > 8 else "saturate"
    _check_overflow(format, overflow)
    _check_seed(check_rounding(rounding), seed)
    code, keeps_sign = _nan_rule(format, nan)
    return Conversion(rounding, overflow, nan=code, nan_sign=keeps_sign, seed=seed)


def _check_overflow(format: Format, overflow: str) -> None:
    choice("overflow", overflow, _OVERFLOWS)
    if overflow == "inf" and not format.infinity:
        need = "'saturate' or 'nan'" if format.has_nan else "'saturate'"
        raise FormatError(expected("overflow", "'inf'", need, f"{format.name} has no infinity"))
    if overflow == "nan" and not format.has_nan:
        raise FormatError(expected("overflow", "'nan'", "'saturate'", f"{format.name} has no NaN"))


def _check_seed(rounding: str, seed: int | None) -> None:
    if rounding == "stochastic" and seed is None:
        raise FormatError(expected("seed", None, "an integer: stochastic rounding is reproducible or an error"))
    if rounding != "stochastic" and seed is not None:
        raise FormatError(expected("seed", seed, "None", f"rounding {rounding!r} draws nothing"))
    if seed is not None:
        check_seed(seed)


def _nan_rule(format: Format, nan: str | int | None) -> tuple[int | Literal["quiet"], bool]:
    """Return what `Conversion.nan` and `.nan_sign` say for the `nan` argument of `Format.encode`."""
    if isinstance(nan, int | np.integer) and not isinstance(nan, bool):
        if not 0 <= nan < 1 << format.storage_bits:
            raise FormatError(expected("nan", hex(nan), f"a code below {1 << format.storage_bits:#x}", format.name))
        return int(nan), False
    if nan is None and not format.has_nan:
        return format.max_code, False  # PTX ISA, cvt to e2m1, e2m3, e3m2: NaN becomes the positive MAX_NORM
    nan = "quiet" if nan is None else nan
    choice("nan", nan, _NANS)
    if not format.has_nan:
        raise FormatError(
            expected("nan", repr(nan), "a code, or None for the largest value", f"{format.name} has none")
        )
    if nan == "negative":
        return format.nan_code | format.sign_mask, False
    return ("quiet", True) if nan == "quiet" else (format.nan_code, nan == "sign" and format.has_negative_zero)
