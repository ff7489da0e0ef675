"""From a case's logical operands to the bytes that a kernel reads, and back.

A buffer is one array in memory order. The payload of an operand is packed (two FP4 codes a byte) along its contiguous
axis; its scales lie as the case's layout says; a global scale is one more buffer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgref.errors import FormatError, InputError, ShapeError, expected
from dgref.formats import FORMATS, LAYOUTS, RECIPES, ScaledTensor, format_of
from dgref.formats.native import bits_of
from dgref.formats.packing import pack, unpack
from dgref.formats.tensor import in_numpy
from dgref.suite import Case, OperandChoice

LINEAR = "linear"


@dataclass(frozen=True)
class Buffer:
    """One array of raw bits and what it means."""

    name: str  # "a", "a.scale", "a.global_scale", "m_indices"
    array: np.ndarray
    format: str
    shape: tuple[int, ...]  # logical
    layout: str = LINEAR
    major: str = "k"

    def describe(self) -> dict[str, Any]:
        """Return everything but the bits, and their hash."""
        return {
            "format": self.format,
            "shape": list(self.shape),
            "layout": self.layout,
            "major": self.major,
            "stored": {"dtype": str(self.array.dtype), "shape": list(self.array.shape)},
            "sha256": sha256(self.array),
        }


def sha256(array: np.ndarray) -> str:
    """Return the hash of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def format_name(array: np.ndarray) -> str:
    """Return the format of a native array, or the dtype of an integer one."""
    return str(array.dtype) if array.dtype.kind in "iu" else format_of(array).name


def as_integers(array: np.ndarray) -> np.ndarray:
    """Return a native float array as unsigned integers, which any reader of files knows; integers stay as they are."""
    return array if array.dtype.kind in "iu" else bits_of(array)


def buffers_of(case: Case, inputs: Mapping[str, Any]) -> dict[str, Buffer]:
    """Return every buffer of a case's inputs by name."""
    found: dict[str, Buffer] = {}
    for name, value in ((name, in_numpy(value, name)) for name, value in inputs.items()):
        choice = case.operands.get(name)
        parts = (
            _tensor_buffers(name, value, choice) if isinstance(value, ScaledTensor) else [_index_buffer(name, value)]
        )
        found.update({part.name: part for part in parts})
    return found


def _index_buffer(name: str, value: Any) -> Buffer:
    array = np.asarray(value)
    return Buffer(name, array, str(array.dtype), array.shape)


def _tensor_buffers(name: str, tensor: ScaledTensor, choice: OperandChoice | None) -> list[Buffer]:
    major = choice.major if choice else "k"
    layout = (choice.layout if choice else None) or LINEAR
    codes = tensor.data if major == "k" else tensor.data.swapaxes(-1, -2)
    codes = np.ascontiguousarray(codes)
    stored = pack(codes, tensor.format) if FORMATS[tensor.format].bits < 8 else codes
    parts = [Buffer(name, stored, tensor.format, tensor.shape, LINEAR, major)]
    if tensor.scale is not None:
        stored = LAYOUTS[layout].pack(tensor.scale)
        parts.append(Buffer(f"{name}.scale", stored, tensor.scaling.scale_format, tuple(tensor.scale.shape), layout))
    if tensor.global_scale is not None:
        value = np.asarray(tensor.global_scale, np.float32)
        parts.append(Buffer(f"{name}.global_scale", value, "float32", value.shape))
    return parts


def tensor_of(
    name: str, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...], choice: OperandChoice
) -> ScaledTensor:
    """Return the logical tensor of an operand's buffers; the inverse of what `buffers_of` does to it."""
    recipe = RECIPES[choice.recipe]
    scaling = recipe.scaling
    data = _payload(name, arrays, shape, choice, recipe.format)
    if scaling is None:
        return ScaledTensor(data, recipe.format).validate(name)
    if f"{name}.scale" not in arrays:
        raise FormatError(
            expected(f"{name}.scale", "no such array", f"the scales of recipe {choice.recipe}", ", ".join(arrays))
        )
    grid = scaling.grid(shape)
    as_codes = {"codes": True} if scaling.scale_format == "float8_e8m0fnu" else {}
    scale = _unpacked(f"{name}.scale", arrays[f"{name}.scale"], grid, choice.layout or LINEAR, **as_codes)
    if FORMATS[scaling.scale_format].code_dtype.itemsize == scale.dtype.itemsize and scaling.scale_format != "float32":
        scale = scale.view(FORMATS[scaling.scale_format].code_dtype)
    return ScaledTensor(data, recipe.format, scale, scaling, arrays.get(f"{name}.global_scale")).validate(name)


def _unpacked(name: str, buffer: np.ndarray, grid: tuple[int, ...], layout: str, **as_codes: bool) -> np.ndarray:
    try:
        return LAYOUTS[layout].unpack(buffer, grid, **as_codes)
    except InputError as error:
        raise type(error)(f"{name} {error}") from None


def _payload(
    name: str, arrays: Mapping[str, np.ndarray], shape: tuple[int, ...], choice: OperandChoice, format: str
) -> np.ndarray:
    if name not in arrays:
        raise FormatError(expected(name, "no such array", "the operand's payload", ", ".join(arrays)))
    stored_shape = shape if choice.major == "k" else (*shape[:-2], shape[-1], shape[-2])
    array, need = arrays[name], FORMATS[format].code_dtype
    if array.dtype.kind == "f" if FORMATS[format].bits < 8 else array.itemsize != need.itemsize:
        raise FormatError(expected(name, array.dtype, f"{format}, or its bits as {need}"))
    bits = bits_of(array)
    if FORMATS[format].bits < 8:
        bits = unpack(bits.view(np.uint8), format, count=stored_shape[-1]) if bits.shape != stored_shape else bits
    if bits.shape != stored_shape:
        raise ShapeError(expected(name, f"shape {bits.shape}", f"{stored_shape} of {format}", f"major {choice.major}"))
    return bits if choice.major == "k" else bits.swapaxes(-1, -2)
