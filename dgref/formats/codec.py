"""Codes to values and back: the readable truth that every faster path is tested against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgref.errors import FormatError, expected, unknown_name
from dgref.formats.element import Array, Format
from dgref.formats.native import format_of, like, to_numpy
from dgref.formats.philox import random_words
from dgref.formats.rounding import overflows_to_max, rounding_function


@dataclass(frozen=True)
class Conversion:
    """How values become codes; a library's convention for one destination format is such a row.

    `nan` is the code that NaN gets, or None to keep the leading payload bits; `nan_sign` carries the sign over.
    `infinity` says what an infinite input becomes, None being the same as a finite overflow. `negative` and `zero`
    matter only where the format has no such values.
    """

    rounding: str = "nearest_even"
    overflow: str = "saturate"  # saturate | inf | nan
    infinity: str | None = None
    nan: int | None = None
    nan_sign: bool = True
    negative: str = "nan"  # nan | magnitude
    zero: str = "smallest"  # smallest | nan
    seed: int | None = None


def decode(format: Format, codes: Array) -> Array:
    """Return the float32 values of codes, exactly."""
    integers = checked_codes(format, codes)
    if format.name == "float32":
        return like(integers.view(np.float32), codes)
    with np.errstate(over="ignore"):  # the codes of Inf and NaN, which get their values below
        values = finite_values(format, integers).astype(np.float32)
    _set_infinity(format, integers, values)
    _set_nan(format, integers, values)
    return like(values, codes)


def checked_codes(format: Format, codes: Array) -> np.ndarray:
    """Return codes as the format's own unsigned integers; a code out of range is an error."""
    integers = to_numpy(codes, "codes")
    if integers.dtype == format.code_dtype and format.storage_bits in (8, 16, 32):
        return integers
    if integers.dtype.kind not in "ui" and integers.size:
        return _codes_of_native(format, integers)
    wrong = (integers < 0) | (integers >= 1 << format.storage_bits)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        hint = "; packed bytes go through unpack first" if format.bits < 8 else ""
        need = f"at most {(1 << format.storage_bits) - 1:#x}"
        raise FormatError(expected("codes", f"{int(integers[first]):#x} at {first}", need, format.name + hint))
    return integers.astype(format.code_dtype)


def _codes_of_native(format: Format, values: np.ndarray) -> np.ndarray:
    if values.dtype != format.native_dtype:
        raise FormatError(expected("codes", values.dtype, f"{format.code_dtype} or {format.native_dtype}", format.name))
    return values.view(format.code_dtype)


def finite_values(format: Format, codes: np.ndarray) -> np.ndarray:
    """Return the float64 values of codes as if every one were finite."""
    magnitude = format.magnitude(codes).astype(np.int64)
    if format.power_of_two:
        return np.ldexp(1.0, magnitude - format.bias)
    exponent = magnitude >> format.mantissa_bits
    fraction = magnitude & ((1 << format.mantissa_bits) - 1)
    significand = fraction + ((exponent > 0).astype(np.int64) << format.mantissa_bits)
    values = np.ldexp(significand.astype(np.float64), np.maximum(exponent, 1) - format.bias - format.mantissa_bits)
    return np.where(_negative_codes(format, codes), -values, values)


def _negative_codes(format: Format, codes: np.ndarray) -> np.ndarray:
    return (codes & format.code_dtype.type(format.sign_mask)) != 0


def _set_infinity(format: Format, codes: np.ndarray, values: np.ndarray) -> None:
    for code, value in zip(format.infinity_codes, (np.inf, -np.inf), strict=False):
        values[codes == code] = value


def _set_nan(format: Format, codes: np.ndarray, values: np.ndarray) -> None:
    where = format.is_nan(codes)
    if not where.any():
        return
    bits = np.full(codes.shape, 0x7FC00000, np.uint32)
    if format.nan_style == "ieee":
        payload = format.magnitude(codes).astype(np.uint32) & np.uint32((1 << format.mantissa_bits) - 1)
        bits = np.uint32(0x7F800000) | (payload << np.uint32(23 - format.mantissa_bits))
    if format.nan_style != "negative_zero":
        bits = bits | (_negative_codes(format, codes).astype(np.uint32) << np.uint32(31))
    values.view(np.uint32)[where] = bits[where]


def conversion_of(
    format: Format, rounding: str, overflow: str | None, nan: str | int | None, convention: str | None, seed: int | None
) -> Conversion:
    """Return the conversion that the arguments of `Format.encode` describe."""
    if convention is not None:
        from dgref.formats.conventions import conversion

        if (rounding, overflow, nan) != ("nearest_even", None, None):
            given = f"rounding={rounding!r}, overflow={overflow!r}, nan={nan!r}"
            raise FormatError(expected(f"convention {convention!r}", given, "no other rule beside a convention"))
        return conversion(convention, format)
    overflow = overflow or ("inf" if format.bits > 8 else "saturate")
    _check_policy(format, rounding, overflow, seed)
    code, keeps_sign = _nan_rule(format, nan)
    return Conversion(rounding, overflow, nan=code, nan_sign=keeps_sign, seed=seed)


def _check_policy(format: Format, rounding: str, overflow: str, seed: int | None) -> None:
    rounding_function(rounding)
    if overflow not in ("saturate", "inf", "nan"):
        raise unknown_name("overflow", overflow, ("saturate", "inf", "nan"))
    if overflow == "inf" and not format.infinity:
        raise FormatError(expected("overflow", "'inf'", "'saturate' or 'nan'", f"{format.name} has no infinity"))
    if overflow == "nan" and not format.has_nan:
        raise FormatError(expected("overflow", "'nan'", "'saturate'", f"{format.name} has no NaN"))
    if (rounding == "stochastic") != (seed is not None):
        raise FormatError(expected("seed", seed, "a seed with stochastic rounding, and none without", rounding))


def _nan_rule(format: Format, nan: str | int | None) -> tuple[int | None, bool]:
    """Return (the code of NaN or None for quiet, whether the sign is carried over)."""
    if nan is None:
        # PTX cvt.satfinite to a type without NaN: "NaN results are converted to positive MAX_NORM"
        return (None, True) if format.has_nan else (format.max_code, False)
    if isinstance(nan, int | np.integer):
        checked_codes(format, [int(nan)])
        return int(nan), False
    if nan not in ("quiet", "sign", "positive", "negative"):
        raise unknown_name("nan", nan, ("quiet", "sign", "positive", "negative"))
    if not format.has_nan:
        raise FormatError(
            expected("nan", repr(nan), "a code, or None for the largest value", f"{format.name} has no NaN")
        )
    if nan == "negative":
        return format.nan_code | format.sign_mask, False
    return (None, True) if nan == "quiet" else (format.nan_code, nan == "sign")


def encode(format: Format, values: Array, conversion: Conversion) -> Array:
    """Return the codes of values under a conversion; exact for every input of 64 bits or fewer."""
    source = to_numpy(values, "values")
    return like(encode_readable(format, _widened(source), conversion), values)


def _widened(source: np.ndarray) -> np.ndarray:
    """Return values as float64, which holds every accepted input exactly."""
    if source.dtype.kind in "iub":
        return _exact_integers(source)
    if source.dtype != np.float64:
        format_of(source)  # an unknown dtype is an error here
    with np.errstate(invalid="ignore"):  # a signalling NaN turns quiet
        return source.astype(np.float64)


def _exact_integers(source: np.ndarray) -> np.ndarray:
    wide = source.astype(np.float64)
    if source.size and np.abs(wide).max() > 2.0**53:
        raise FormatError(expected("values", f"{source.dtype} up to {np.abs(wide).max():g}", "integers within 2**53"))
    return wide


def encode_readable(format: Format, values: np.ndarray, conversion: Conversion) -> np.ndarray:
    """Return the codes of float64 values: the finite ones rounded onto the grid, then the special ones put in."""
    if not format.signed and conversion.negative == "magnitude":
        values = np.abs(values)
    negative = np.signbit(values)
    codes = _finite_codes(format, values, negative, conversion)
    over = codes > format.max_code
    back = over & overflows_to_max(conversion.rounding, negative)
    codes = np.where(back, format.max_code, codes) | np.where(negative, format.sign_mask, 0)
    if format.nan_style == "negative_zero":
        codes = np.where(codes == format.sign_mask, 0, codes)
    codes = np.where(over & ~back, _beyond(format, conversion, conversion.overflow, negative), codes)
    infinity = conversion.infinity or conversion.overflow
    codes = np.where(np.isinf(values), _beyond(format, conversion, infinity, negative), codes)
    codes = np.where(_unrepresentable(format, conversion, values), _nan_codes(format, conversion, values), codes)
    return codes.astype(format.code_dtype)


def _finite_codes(format: Format, values: np.ndarray, negative: np.ndarray, conversion: Conversion) -> np.ndarray:
    """Return codes without sign; a grid index that runs past its binade carries into the exponent by itself."""
    magnitude = np.where(np.isfinite(values), np.abs(values), 0.0)
    exponent = np.where(magnitude == 0, format.emin, np.frexp(magnitude)[1].astype(np.int64) - 1)
    binade = np.maximum(exponent, format.emin)
    q = np.ldexp(magnitude, format.mantissa_bits - binade)
    words = random_words(conversion.seed, values.shape) if conversion.rounding == "stochastic" else None
    index = rounding_function(conversion.rounding)(q, negative, words).astype(np.int64)
    codes = ((binade - format.emin) << format.mantissa_bits) + index
    if format.power_of_two:  # code 0 is the smallest value, where others have zero
        codes = np.maximum(codes - 1, 0)
    return codes << format.storage_shift


def _beyond(format: Format, conversion: Conversion, rule: str, negative: np.ndarray) -> np.ndarray:
    """Return the codes of what lies beyond the largest finite value."""
    if rule == "nan":
        return _nan_codes(format, conversion, np.copysign(np.nan, np.where(negative, -1.0, 1.0)))
    code = format.max_code if rule == "saturate" else format.infinity_code
    return code | np.where(negative, format.sign_mask, 0)


def _unrepresentable(format: Format, conversion: Conversion, values: np.ndarray) -> np.ndarray:
    wrong = np.isnan(values)
    if not format.signed:
        wrong |= values < 0
    if not format.has_zero and conversion.zero == "nan":
        wrong |= values == 0
    return wrong


def _nan_codes(format: Format, conversion: Conversion, values: np.ndarray) -> np.ndarray:
    """Return the codes that NaN values get; only IEEE formats have a payload to keep."""
    bits = np.ascontiguousarray(values).view(np.uint64).reshape(values.shape)
    codes = np.full(values.shape, format.nan_code if conversion.nan is None else conversion.nan, np.int64)
    if conversion.nan is None and format.nan_style == "ieee":
        payload = (bits >> np.uint64(52 - format.mantissa_bits)).astype(np.int64) & ((1 << format.mantissa_bits) - 1)
        codes |= np.where(np.isnan(values), payload << format.storage_shift, 0)
    signs = np.where(bits >> np.uint64(63) != 0, format.sign_mask, 0)
    return codes | signs if conversion.nan_sign else codes
