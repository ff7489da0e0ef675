"""Packing: how codes of fewer than 8 bits share bytes, at the edge where libraries want them so."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np

from dgref.errors import FormatError, ShapeError, counted, expected, whole_number
from dgref.formats.codec import checked_codes
from dgref.formats.element import Array, Format, as_format
from dgref.formats.native import like, to_numpy
from dgref.registry import Registry


@dataclass(frozen=True)
class Packing:
    """A bijection between runs of codes and bytes, along one axis.

    The codes form a bit stream: from the low bit of the first byte up, or (`high_first`) from its high bit down.
    `group` codes at a time (0: as many as fill whole bytes) take `group_bytes`, the rest of which is zero.
    """

    name: str
    description: str
    source: str
    high_first: bool = False
    group: int = 0
    group_bytes: int = 0

    def pack(self, codes: Array, format: Format | str, axis: int = -1) -> Array:
        """Return codes packed into bytes along an axis; a last group that is not full is filled with zero codes."""
        format = as_format(format)
        source = _moved(checked_codes(format, codes), axis, "codes")
        group, group_bytes = self._extents(format)
        groups = -(-source.shape[-1] // group)
        runs = _padded(source, groups * group).reshape(*source.shape[:-1], groups, group)
        packed = np.zeros((*runs.shape[:-1], group_bytes), np.uint8)
        for code, byte, shift in self._pieces(format.bits, group):
            packed[..., byte] |= _shift_left(runs[..., code], shift)
        return like(np.moveaxis(packed.reshape(*source.shape[:-1], groups * group_bytes), -1, axis), codes)

    def unpack(self, packed: Array, format: Format | str, count: int | None = None, axis: int = -1) -> Array:
        """Return the codes that bytes hold along an axis: the first `count` of them, or all."""
        format = as_format(format)
        source = _moved(_as_bytes(packed), axis, "packed")
        group, group_bytes = self._extents(format)
        groups = self._groups(format, source.shape[-1], count)
        runs = source.reshape(*source.shape[:-1], groups, group_bytes)
        codes = np.zeros((*runs.shape[:-1], group), np.uint8)
        for code, byte, shift in self._pieces(format.bits, group):
            codes[..., code] |= _shift_left(runs[..., byte], -shift)
        codes &= np.uint8((1 << format.bits) - 1)
        codes = codes.reshape(*source.shape[:-1], groups * group)[..., :count]
        return like(np.moveaxis(codes, -1, axis), packed)

    def transpose(self, packed: Array, format: Format | str, count: int | None = None) -> Array:
        """Return the packed transpose of a matrix of `count` columns, both packed along their last axis."""
        codes = self.unpack(packed, format, count)
        if codes.ndim < 2:
            raise ShapeError(expected("packed", f"shape {tuple(packed.shape)}", "two axes to transpose"))
        return self.pack(codes.swapaxes(-1, -2), format)

    def size(self, count: int, format: Format | str) -> int:
        """Return how many bytes `count` codes take."""
        group, group_bytes = self._extents(as_format(format))
        return -(-whole_number("count", count) // group) * group_bytes

    def _extents(self, format: Format) -> tuple[int, int]:
        """Return (codes, bytes) of one group."""
        if format.storage_bits > 8:
            raise FormatError(expected("format", f"{format.name} of {format.bits} bits", "at most 8 bits", self.name))
        if self.group:
            return self.group, self.group_bytes
        return lcm(format.bits, 8) // format.bits, lcm(format.bits, 8) // 8

    def _groups(self, format: Format, size: int, count: int | None) -> int:
        group, group_bytes = self._extents(format)
        context = f"{format.name}, {self.name}"
        if size % group_bytes:
            raise ShapeError(expected("packed axis", counted(size, "byte"), f"a multiple of {group_bytes}", context))
        groups = size // group_bytes
        if count is None:
            return groups
        count = whole_number("count", count, error=ShapeError)
        if not (groups - 1) * group < count <= groups * group and (count, groups) != (0, 0):
            raise ShapeError(expected("count", count, f"codes that take {counted(size, 'byte')}", context))
        return groups

    def _pieces(self, bits: int, group: int) -> list[tuple[int, int, int]]:
        """Return (code, byte, left shift of the code within the byte) for every part of a code within one byte."""
        pieces = []
        for code in range(group):
            bit = code * bits
            for byte in range(bit // 8, (bit + bits - 1) // 8 + 1):
                shift = bit - 8 * byte
                pieces.append((code, byte, 8 - bits - shift if self.high_first else shift))
        return pieces


def _moved(array: np.ndarray, axis: int, subject: str) -> np.ndarray:
    if not array.ndim:
        raise ShapeError(expected(subject, "a scalar", "at least one axis to pack along"))
    return np.moveaxis(array, whole_number("axis", axis, -array.ndim, array.ndim - 1, ShapeError), -1)


def _padded(codes: np.ndarray, count: int) -> np.ndarray:
    if codes.shape[-1] == count:
        return codes
    return np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, count - codes.shape[-1])])


def _as_bytes(packed: Array) -> np.ndarray:
    source = to_numpy(packed, "packed")
    if source.dtype not in (np.uint8, np.int8):
        raise FormatError(expected("packed", source.dtype, "uint8, int8 or torch.float4_e2m1fn_x2"))
    return source.view(np.uint8)


def _shift_left(bytes_: np.ndarray, shift: int) -> np.ndarray:
    return bytes_ << np.uint8(shift) if shift >= 0 else bytes_ >> np.uint8(-shift)


PACKINGS: Registry[Packing] = Registry(
    "packing",
    [
        Packing("low_first", "the first code in the low bits", "DeepGEMM, ModelOpt, compressed-tensors, OCP MX v1.0"),
        Packing("high_first", "the first code in the high bits", "bytes read as a hexadecimal string", high_first=True),
        Packing("byte_padded", "one code a byte", "cuda_fp4.h, cuda_fp6.h: __nv_fp6_storage_t", group=1, group_bytes=1),
        Packing(
            "group16_padded",
            "16 codes, zeros up to 16 bytes",
            "PTX ISA: .b4x16_p64, .b6x16_p32",
            group=16,
            group_bytes=16,
        ),
    ],
    aliases={"little": "low_first", "big": "high_first"},
)


def pack(codes: Array, format: Format | str, packing: str = "low_first", axis: int = -1) -> Array:
    """Return codes packed into bytes along an axis (`axis=-2` pairs rows: transposed storage)."""
    return PACKINGS[packing].pack(codes, format, axis)


def unpack(
    packed: Array, format: Format | str, packing: str = "low_first", count: int | None = None, axis: int = -1
) -> Array:
    """Return the codes that bytes hold along an axis: the first `count` of them, or all."""
    return PACKINGS[packing].unpack(packed, format, count, axis)
