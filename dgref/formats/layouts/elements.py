"""What a layout accepts and what its buffer is made of: the step between scales and bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dgref.errors import FormatError, expected
from dgref.formats.layouts.arrays import Array, dtype_name, is_torch, zeros

_CODES = ("uint8", "float8_e8m0fnu")


@dataclass(frozen=True)
class Elements:
    """Scales to codes and back, and codes to words and back."""

    name: str
    accepts: tuple[str, ...]  # dtypes; empty means any
    produces: str
    lanes: int
    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]
    to_words: Callable[[Array], Array]
    from_words: Callable[[Array], Array]

    def check(self, scales: Array, layout: str) -> None:
        """Refuse a dtype that the buffer cannot hold."""
        if self.accepts and dtype_name(scales) not in self.accepts:
            raise FormatError(expected("scales", dtype_name(scales), " or ".join(self.accepts), layout))


def ue8m0_codes(scales: Array) -> Array:
    """Return the UE8M0 byte of each scale; a float32 that is not a positive power of two is an error."""
    if dtype_name(scales) in _CODES:
        return _view(scales, "uint8")
    from dgref.formats.layouts.fast import exponents

    bits = _view(scales.contiguous() if is_torch(scales) else np.ascontiguousarray(scales), "int32")
    codes = _torch_exponents(bits) if is_torch(bits) and bits.device.type != "cpu" else exponents(np.asarray(bits))
    if codes is None:
        raise FormatError(_first_offender(scales))
    return codes if is_torch(codes) or not is_torch(scales) else _to_torch(codes)


def ue8m0_values(codes: Array) -> Array:
    """Return the float32 value of each UE8M0 byte: byte 0 is the subnormal 2^-127, byte 255 is NaN."""
    if is_torch(codes):
        import torch

        bits = codes.to(torch.int32) << 23
        bits = bits.masked_fill(codes == 0, 0x00400000).masked_fill(codes == 255, 0x7FC00000)
        return bits.view(torch.float32)
    table = np.arange(256, dtype=np.uint32) << 23
    table[0], table[255] = 0x00400000, 0x7FC00000
    return table.view(np.float32)[codes]


def _torch_exponents(bits: Array) -> Array | None:
    """Do on a device what `fast.exponents` does on the CPU."""
    import torch

    subnormal = bits == 0x00400000
    normal = ((bits & 0x007FFFFF) == 0) & (bits > 0) & (bits < 0x7F800000)
    return (bits >> 23).to(torch.uint8) if bool((subnormal | normal).all()) else None


def _first_offender(scales: Array) -> str:
    """Say which scale is not a positive power of two."""
    values = np.asarray(scales.detach().cpu() if is_torch(scales) else scales)
    bits = values.view(np.uint32)
    good = ((bits & 0x807FFFFF) == 0) & (bits != 0) & (bits != 0x7F800000) | (bits == 0x00400000)
    place = tuple(int(i) for i in np.argwhere(~good)[0])
    count = int((~good).sum())
    got = f"{float(values[place])!r} at {place}" + (f", and {count - 1} more" if count > 1 else "")
    return expected("scales", got, "positive powers of two (UE8M0 has no mantissa)")


def _to_torch(codes: np.ndarray) -> Array:
    import torch

    return torch.from_numpy(codes)


def _view(array: Array, dtype: str) -> Array:
    """Reinterpret the bits; the last axis changes length where the widths differ."""
    if is_torch(array):
        import torch

        return array.view(getattr(torch, dtype))
    return array.view(np.dtype(dtype))


def _same(array: Array) -> Array:
    return array


def _words(codes: Array) -> Array:
    if 0 in codes.shape:  # an empty view keeps odd strides, which a change of width would then refuse
        codes = zeros(codes, tuple(codes.shape))
    return _view(codes, "int32").reshape(tuple(codes.shape[:-1]))


def _bytes(words: Array) -> Array:
    contiguous = words.contiguous() if is_torch(words) else np.ascontiguousarray(words)
    return _view(contiguous.reshape((*words.shape, 1)), "uint8")


ANY = Elements("any", (), "the same dtype", 1, _same, _same, _same, _same)
FLOAT32 = Elements("float32", ("float32",), "float32", 1, _same, _same, _same, _same)
UE8M0_WORDS = Elements("ue8m0_words", ("float32", *_CODES), "int32", 4, ue8m0_codes, ue8m0_values, _words, _bytes)
