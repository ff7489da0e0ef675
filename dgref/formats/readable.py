"""Codes to values and back, in full: the readable truth that every faster path is tested against."""

from __future__ import annotations

import numpy as np

from dgref.errors import FormatError, expected
from dgref.formats.conversion import Conversion
from dgref.formats.element import FORMATS, Format
from dgref.formats.philox import random_words
from dgref.formats.rounding import ROUNDINGS, Position, overflows_to_max


def decode_readable(format: Format, codes: np.ndarray) -> np.ndarray:
    """Return the float32 values of checked codes: the finite ones computed, then Inf and NaN put in."""
    with np.errstate(over="ignore"):  # the codes of Inf and NaN, which get their values below
        values = np.array(finite_values(format, codes), np.float32)
    for code, value in zip(format.infinity_codes, (np.inf, -np.inf), strict=False):
        values[codes == code] = value
    where = format.is_nan(codes)
    values.view(np.uint32)[where] = _nan_bits(format, codes[where])
    return values


def finite_values(format: Format, codes: np.ndarray) -> np.ndarray:
    """Return the float64 values of codes as if every one were finite."""
    magnitude = format.magnitude(codes).astype(np.int64)
    if format.power_of_two:
        return np.ldexp(1.0, magnitude - format.bias)
    exponent = magnitude >> format.mantissa_bits
    fraction = magnitude & ((1 << format.mantissa_bits) - 1)
    significand = fraction + np.where(exponent > 0, 1 << format.mantissa_bits, 0)
    values = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - format.bias - format.mantissa_bits)
    return np.where(_is_negative(format, codes), -values, values)


def _is_negative(format: Format, codes: np.ndarray) -> np.ndarray:
    return (codes & format.code_dtype.type(format.sign_mask)) != 0


def _nan_bits(format: Format, codes: np.ndarray) -> np.ndarray:
    """Return the float32 bits of NaN codes: sign and payload kept where the format has them."""
    payload = np.full(codes.shape, 1 << 22, np.uint32)
    if format.nan_style == "ieee":
        fraction = format.magnitude(codes).astype(np.uint32) & np.uint32((1 << format.mantissa_bits) - 1)
        payload = fraction << np.uint32(23 - format.mantissa_bits)
    signs = _is_negative(format, codes) & format.has_negative_zero
    return np.uint32(0x7F800000) | payload | (signs.astype(np.uint32) << np.uint32(31))


def encode_readable(format: Format, values: np.ndarray, conversion: Conversion) -> np.ndarray:
    """Return the codes of float64 values: the finite ones rounded onto the grid, then the special ones put in."""
    values = _prepared(format, values, conversion)
    negative = np.signbit(values) & format.signed
    codes = _finite_codes(format, values, negative, conversion)
    over = codes > format.max_code
    back = over & overflows_to_max(conversion.rounding, negative)
    codes = np.where(back, format.max_code, codes)
    codes |= np.where(_zero_signs(format, conversion, values, negative, codes), format.sign_mask, 0)
    over &= ~back
    if over.any():
        codes = np.where(over, _beyond(format, conversion, conversion.overflow, negative), codes)
    infinite = np.isinf(values)
    if infinite.any():
        rule = conversion.infinity or conversion.overflow
        codes = np.where(infinite, _beyond(format, conversion, rule, negative), codes)
    codes = np.where(_unrepresentable(format, conversion, values), _nan_codes(format, conversion, values), codes)
    return codes.astype(format.code_dtype)


def _prepared(format: Format, values: np.ndarray, conversion: Conversion) -> np.ndarray:
    """Return the values that are rounded: after an intermediate format, and after losing a sign nobody can hold."""
    if conversion.through is not None:
        middle = FORMATS[conversion.through]
        codes = encode_readable(middle, values, Conversion(overflow="inf"))
        values = decode_readable(middle, codes).astype(np.float64)
    refuse(format, values, conversion)  # after the intermediate format: what it cannot hold is an infinity there
    return np.abs(values) if not format.signed and conversion.negative == "magnitude" else values


def refuse(format: Format, values: np.ndarray, conversion: Conversion) -> None:
    """Raise where a value has no defined result under a conversion."""
    for rule, what, test in ((conversion.nan, "NaN", np.isnan), (conversion.infinity, "an infinity", np.isinf)):
        if rule == "refuse" and test(values).any():
            first = tuple(int(i) for i in np.argwhere(test(values))[0])
            raise FormatError(expected("values", f"{what} at {first}", "none", f"{format.name} under this convention"))


def _finite_codes(format: Format, values: np.ndarray, negative: np.ndarray, conversion: Conversion) -> np.ndarray:
    """Return codes without sign; a grid index that runs past its binade carries into the exponent by itself."""
    magnitude = np.where(np.isfinite(values), np.abs(values), 0.0)
    exponent = np.where(magnitude == 0, format.emin, np.frexp(magnitude)[1].astype(np.int64) - 1)
    binade = np.maximum(exponent, format.emin)
    q = np.ldexp(magnitude, format.mantissa_bits - binade)
    below = np.floor(q)
    # Code 0 is the smallest power of two where there is no zero, and zero where there is.
    base = ((binade - format.emin) << format.mantissa_bits) + below.astype(np.int64) - format.power_of_two
    words = random_words(conversion.seed, values.shape) if conversion.rounding == "stochastic" else None
    position = Position(q, below, (base & 1) != 0, negative, words)
    away = ROUNDINGS[conversion.rounding](position)
    if conversion.lowest_binade is not None:
        away = np.where(binade == format.emin, ROUNDINGS[conversion.lowest_binade](position), away)
    return np.maximum(base + away, conversion.lowest_code) << format.storage_shift


def _zero_signs(
    format: Format, conversion: Conversion, values: np.ndarray, negative: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Return which codes get the sign bit; conventions differ only where the magnitude is zero."""
    if not format.has_negative_zero:
        return negative & (codes != 0)
    kept = {
        "keep": negative,
        "never": np.zeros_like(negative),
        "inexact": negative & (values != 0),
        "exact": negative | (values == 0),
    }[conversion.zero_sign]
    return np.where(codes == 0, kept, negative)


def _beyond(format: Format, conversion: Conversion, rule: str, negative: np.ndarray) -> np.ndarray:
    """Return the codes of what lies beyond the largest finite value; the sign is kept wherever there is one."""
    code = {"saturate": format.max_code, "inf": format.infinity_code, "nan": _nan_code(format, conversion)}[rule]
    return code | np.where(negative, format.sign_mask, 0)


def _unrepresentable(format: Format, conversion: Conversion, values: np.ndarray) -> np.ndarray:
    wrong = np.isnan(values)
    if not format.signed:  # a rule for infinities covers the negative one too
        wrong |= (values < 0) & ~(np.isinf(values) & (conversion.infinity is not None))
    if not format.has_zero and conversion.zero == "nan":
        wrong |= values == 0
    if not format.has_zero and conversion.zero == "nan_below":
        wrong |= np.abs(values) < 0.75 * format.min_subnormal
    return wrong


def _nan_code(format: Format, conversion: Conversion) -> int | None:
    return conversion.nan if isinstance(conversion.nan, int) else format.nan_code


def _nan_codes(format: Format, conversion: Conversion, values: np.ndarray) -> np.ndarray:
    """Return the codes that NaN values get; only IEEE formats have a payload to keep."""
    bits = np.array(values, np.float64).view(np.uint64)
    codes = np.full(values.shape, _nan_code(format, conversion) or 0, np.int64)
    if conversion.nan == "quiet" and format.nan_style == "ieee":
        payload = (bits >> np.uint64(52 - format.mantissa_bits)).astype(np.int64) & ((1 << format.mantissa_bits) - 1)
        codes |= np.where(np.isnan(values), payload << format.storage_shift, 0)
    if not conversion.nan_sign or not format.has_negative_zero:
        return codes
    return codes ^ np.where(bits >> np.uint64(63) != 0, format.sign_mask, 0)
