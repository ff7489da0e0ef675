"""What `Format.decode` and `Format.encode` do: check what came in, then take the fast path or the readable one."""

from __future__ import annotations

import numpy as np

from dgref.errors import FormatError, expected
from dgref.formats.conversion import Conversion
from dgref.formats.element import Array, Format
from dgref.formats.native import formats_by_dtype, like, native_names, refuse_packed, to_numpy, widened
from dgref.formats.readable import decode_readable, encode_readable

_FAST_FROM = 1 << 15  # elements; below, the fast path's tables and its import cost more than they save


def decode(format: Format, codes: Array) -> Array:
    """Return the float32 values of codes, exactly."""
    integers = checked_codes(format, codes)
    if integers.size < _FAST_FROM:
        return like(decode_readable(format, integers), codes)
    from dgref.formats import fast_codec

    return like(fast_codec.decode(format, integers), codes)


def encode(format: Format, values: Array, conversion: Conversion) -> Array:
    """Return the codes of values under a conversion."""
    source = checked_values(values)
    codes = None
    if source.size >= _FAST_FROM:
        from dgref.formats import fast_codec

        codes = fast_codec.encode(format, source, conversion)
    if codes is None:
        with np.errstate(invalid="ignore"):  # a signalling NaN turns quiet
            codes = encode_readable(format, widened(source), conversion)
    return like(codes, values)


def checked_values(values: Array) -> np.ndarray:
    """Return values as an array of a float format or of integers that float64 holds exactly."""
    refuse_packed(values, "values")
    source = to_numpy(values, "values")
    if source.dtype.kind in "iu":
        if source.size and (int(source.max()) > 1 << 53 or int(source.min()) < -(1 << 53)):
            raise FormatError(expected("values", f"{source.dtype} beyond 2**53", "integers within 2**53"))
    elif source.dtype not in (np.float64, np.bool_) and source.dtype not in formats_by_dtype():
        raise FormatError(expected("values", source.dtype, f"float64, integers or one of {native_names()}"))
    return source


def checked_codes(format: Format, codes: Array) -> np.ndarray:
    """Return codes as the format's own unsigned integers; a code out of range is an error."""
    refuse_packed(codes, "codes")
    integers = to_numpy(codes, "codes")
    every_code_fits = format.storage_bits == 8 * format.code_dtype.itemsize
    if integers.dtype == format.code_dtype and (every_code_fits or _largest(integers) < 1 << format.storage_bits):
        return integers
    if integers.dtype == format.native_dtype:
        return integers.view(format.code_dtype)
    if integers.dtype.kind not in "ui" and integers.size:
        raise FormatError(
            expected("codes", integers.dtype, f"{format.code_dtype} or {format.native_dtype}", format.name)
        )
    wrong = (integers < 0) | (integers >= 1 << format.storage_bits)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        hint = "; packed codes go through unpack first" if format.bits < 8 else ""
        need = f"at most {(1 << format.storage_bits) - 1:#x}"
        raise FormatError(expected("codes", f"{int(integers[first]):#x} at {first}", need, format.name + hint))
    return integers.astype(format.code_dtype)


def _largest(integers: np.ndarray) -> int:
    return int(integers.max(initial=0))
