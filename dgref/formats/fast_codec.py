"""The same codecs by table lookup: one table for each conversion, made by the readable path.

Which code a float32 gets depends on its sign, its exponent, as many fraction bits as decide a tie, and on whether any
bit below those is set. That key is 14 bits for E4M3, so the whole conversion is a table that fits the L1 cache and
equals the readable path by construction. Formats too wide for a table take the processor's own rounding.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numba
import numpy as np

from dgref.formats.conversion import Conversion
from dgref.formats.element import FORMATS, Format
from dgref.formats.native import format_of, widened
from dgref.formats.readable import decode_readable, encode_readable, refuse

_FLOAT32_FRACTION = 23
_MAX_FRACTION = 9  # bfloat16's; beyond that a table outgrows the caches
_LOOKS_FURTHER = ("stochastic", "half_added_in_float32")  # roundings that see bits below the tie


# ---- codes to values ----------------------------------------------------------------------------------------------


def decode(format: Format, codes: np.ndarray) -> np.ndarray:
    """Return the float32 values of checked codes."""
    if format.storage_bits == 32:  # float32 itself, or its leading bits
        unused = (1 << format.storage_shift) - 1
        return (codes & np.uint32(0xFFFFFFFF - unused)).view(np.float32)
    values = np.empty(codes.shape, np.float32)
    _look_up(np.ascontiguousarray(codes).reshape(-1), decode_table(format), values.reshape(-1))
    return values


@lru_cache
def decode_table(format: Format) -> np.ndarray:
    """Return the float32 value of every stored word of a format of 16 bits or fewer."""
    return decode_readable(format, np.arange(1 << format.storage_bits).astype(format.code_dtype))


@numba.njit(cache=True, nogil=True)
def _look_up(codes, table, values):  # pragma: no cover - compiled
    for i in range(codes.size):
        values[i] = table[codes[i]]


# ---- values to codes ----------------------------------------------------------------------------------------------


def encode(format: Format, values: np.ndarray, conversion: Conversion) -> np.ndarray | None:
    """Return the codes of values, or None where only the readable path knows them."""
    if values.dtype.kind in "iub":
        return None
    if not has_table(format, conversion):
        return _encode_wide(format, values, conversion)
    narrow = _as_float32(values, conversion)
    refuse(format, narrow, conversion)
    table, shift = encode_table(format, conversion)
    codes = np.empty(values.shape, format.code_dtype)
    _look_up_keys(narrow.view(np.uint32).reshape(-1), table, shift, codes.reshape(-1))
    return codes


def has_table(format: Format, conversion: Conversion) -> bool:
    """Return whether a float32's key decides the code: a format narrow enough, and a rounding of nearby bits."""
    roundings = {conversion.rounding, conversion.lowest_binade}
    return _fraction_bits(format, conversion) <= _MAX_FRACTION and roundings.isdisjoint(_LOOKS_FURTHER)


def _fraction_bits(format: Format, conversion: Conversion) -> int:
    """Return how many fraction bits of a float32 decide the code: those kept, and those of the nearest threshold."""
    kept = format.mantissa_bits + (3 if format.power_of_two else 1)  # 0.375 * 2**-126 is a threshold of E8M0
    if conversion.through in (None, "float32"):
        return kept
    return max(kept, FORMATS[conversion.through].mantissa_bits + 1)


@lru_cache
def encode_table(format: Format, conversion: Conversion) -> tuple[np.ndarray, int]:
    """Return the codes by key, and the shift s: a float32's key is `bits >> s << 1 | (any bit below s)`."""
    fraction_bits = _fraction_bits(format, conversion)
    shift = _FLOAT32_FRACTION - fraction_bits
    exact = np.arange(1 << (9 + fraction_bits), dtype=np.uint32) << np.uint32(shift)
    bits = np.stack([exact, exact | np.uint32(1)], axis=-1).reshape(-1)
    with np.errstate(invalid="ignore"):  # signalling NaNs among the keys
        values = bits.view(np.float32).astype(np.float64)
    if conversion.nan == "refuse":  # the caller has refused them: any code does
        conversion = replace(conversion, nan=0)
    if conversion.infinity == "refuse":
        conversion = replace(conversion, infinity=None)
    return encode_readable(format, values, conversion), shift


@numba.njit(cache=True, nogil=True)
def _look_up_keys(bits, table, shift, codes):  # pragma: no cover - compiled
    below = np.uint32((1 << shift) - 1)
    for i in range(bits.size):
        key = (bits[i] >> np.uint32(shift)) << np.uint32(1)
        codes[i] = table[key | np.uint32((bits[i] & below) != 0)]


def _as_float32(values: np.ndarray, conversion: Conversion) -> np.ndarray:
    """Return contiguous float32 that round as the values do."""
    values = np.ascontiguousarray(values)
    if values.dtype == np.float32:
        return values
    if values.dtype != np.float64:
        source = format_of(values)
        return decode(source, values.view(source.code_dtype))
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = values.astype(np.float32)
    return narrow if conversion.through == "float32" else _to_odd(values, narrow)


def _to_odd(values: np.ndarray, narrow: np.ndarray) -> np.ndarray:
    """Return float64 rounded to float32 toward zero, its last bit set where inexact: a later rounding stays single.

    Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 2008.
    """
    bits = narrow.view(np.uint32)
    bits = bits - (np.abs(narrow) > np.abs(values)).astype(np.uint32)
    inexact = (narrow != values) & ~np.isnan(narrow)
    return (bits | inexact.astype(np.uint32)).view(np.float32)


def _encode_wide(format: Format, values: np.ndarray, conversion: Conversion) -> np.ndarray | None:
    """Return the codes of float16, tfloat32 and float32 under plain IEEE rounding; None for any other rule."""
    plain = Conversion(overflow="inf", nan=conversion.nan, nan_sign=conversion.nan_sign, through=conversion.through)
    if conversion != plain or conversion.through not in (None, "float32"):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if format.native_dtype is None:
            codes = _drop_fraction(format, _as_float32(values, conversion).view(np.uint32))
        else:
            source = values if conversion.through is None else _as_float32(values, conversion)
            codes = source.astype(format.native_dtype).view(format.code_dtype)
        nan = np.isnan(values)
        if nan.any():
            codes[nan] = encode_readable(format, widened(values[nan]), conversion)
    return codes


def _drop_fraction(format: Format, bits: np.ndarray) -> np.ndarray:
    """Return float32 bits rounded to nearest even at a format's last fraction bit; a carry runs into the exponent."""
    shift = np.uint32(_FLOAT32_FRACTION - format.mantissa_bits)
    odd = (bits >> shift) & np.uint32(1)
    rounded = bits + odd + np.uint32((1 << (int(shift) - 1)) - 1)
    return (rounded >> shift) << np.uint32(format.storage_shift)
