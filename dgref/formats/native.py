"""Which dtype carries which format, and zero-copy views between native arrays, codes and torch tensors."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from dgref.errors import FormatError, InputError, expected
from dgref.formats.element import FORMATS, Array, Format, as_format
from dgref.formats.readable import decode_readable

_NUMPY_NATIVE = ("float16", "float32")


def native_dtype(format: Format) -> np.dtype | None:
    """Return the NumPy or ml_dtypes dtype whose elements are a format's codes, or None where there is none."""
    if format.name in _NUMPY_NATIVE:
        return np.dtype(format.name)
    return np.dtype(getattr(ml_dtypes, format.name)) if hasattr(ml_dtypes, format.name) else None


@cache
def formats_by_dtype() -> dict[np.dtype, Format]:
    """Return the format that each NumPy and ml_dtypes dtype names."""
    return {row.native_dtype: row for row in FORMATS.values() if row.native_dtype is not None}


def format_of(array: Any, subject: str = "dtype") -> Format:
    """Return the format that an array's dtype (or a dtype) names; integers have none by themselves."""
    dtype = array.__name__ if isinstance(array, type) else getattr(array, "dtype", array)
    name = str(dtype).removeprefix("torch.")
    for dtype, row in formats_by_dtype().items():
        if name == str(dtype):
            return row
    raise FormatError(expected(subject, name, f"one of {native_names()}"))


def native_names() -> str:
    """Return the dtypes that name a format, as a message lists them."""
    return ", ".join(map(str, formats_by_dtype()))


def is_torch(array: Any) -> bool:
    """Return whether this is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def to_numpy(array: Any, subject: str = "array") -> np.ndarray:
    """Return a NumPy array of the same elements; a torch CPU tensor is viewed, never copied."""
    if not is_torch(array):
        return _plain(array, subject)
    if array.device.type != "cpu":
        raise InputError(expected(subject, f"a tensor on {array.device}", "a CPU tensor: pass tensor.cpu()"))
    array = strided(array, subject)
    name = str(array.dtype).removeprefix("torch.")
    if is_packed(array):  # two codes a byte, so bytes
        return array.view(_torch_integer(np.dtype(np.uint8))).numpy()
    if name not in FORMATS or name in _NUMPY_NATIVE:
        return array.numpy()
    return array.view(_torch_integer(FORMATS[name].code_dtype)).numpy().view(FORMATS[name].native_dtype)


def _plain(array: Any, subject: str) -> np.ndarray:
    """Return a NumPy array of anything but torch; what has a mask or no one shape is an error."""
    if isinstance(array, np.ma.MaskedArray):
        raise InputError(expected(subject, "a masked array", "an array without a mask: pass array.filled(value)"))
    try:
        return np.asarray(array)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(expected(subject, f"a {type(array).__name__} without one shape", "an array")) from error


def on_cpu(array: Any, subject: str) -> Any:
    """Return an array as it is, or a torch tensor copied to this memory; a tensor that holds no values is an error."""
    if not is_torch(array):
        return array
    if array.device.type == "meta":
        raise InputError(expected(subject, "a tensor on meta", "a tensor that holds values"))
    return array.detach().cpu()


def strided(tensor: Any, subject: str) -> Any:
    """Return a torch tensor whose memory holds its values: detached, and no lazy sign or conjugate left."""
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        kind = tensor.dtype if tensor.is_quantized else tensor.layout
        raise InputError(expected(subject, f"a tensor of {kind}", "a dense tensor of numbers"))
    return tensor.detach().resolve_conj().resolve_neg()


def is_packed(array: Any) -> bool:
    """Return whether a dtype says that two codes share a byte, so that elements are not codes."""
    return is_torch(array) and str(array.dtype) == "torch.float4_e2m1fn_x2"


def refuse_packed(array: Any, subject: str) -> None:
    """Raise where elements would be taken for codes or values and are two codes each."""
    if is_packed(array):
        need = "one code an element: formats.unpack gives them"
        raise FormatError(expected(subject, "float4_e2m1fn_x2, two codes a byte", need))


def widened(source: np.ndarray) -> np.ndarray:
    """Return checked values as float64; ml_dtypes' own casts may drop a NaN's payload, so its dtypes are decoded."""
    row = formats_by_dtype().get(source.dtype)
    if row is None or source.dtype in (np.float32, np.float16):
        return source.astype(np.float64)
    return decode_readable(row, source.view(row.code_dtype)).astype(np.float64)


def like(result: np.ndarray, array: Any) -> Array:
    """Return a result as the kind of array that came in: torch for torch (sharing memory), NumPy otherwise."""
    if not is_torch(array):
        return result
    import torch

    result = np.ascontiguousarray(result).reshape(result.shape)
    if result.dtype not in formats_by_dtype() or str(result.dtype) in _NUMPY_NATIVE:
        return torch.from_numpy(result)
    row = formats_by_dtype()[result.dtype]
    codes = torch.from_numpy(result.view(row.code_dtype))
    return codes.view(getattr(torch, row.name)) if hasattr(torch, row.name) else codes


def as_codes(array: Array) -> Array:
    """Return the codes of a native array without copying; unsigned integers are codes already."""
    refuse_packed(array, "array")
    values = to_numpy(array)
    if values.dtype in (np.uint8, np.uint16, np.uint32):
        return array if is_torch(array) else values
    return like(values.view(format_of(values).code_dtype), array)


def bits_of(array: np.ndarray) -> np.ndarray:
    """Return the bits of a NumPy array's elements as unsigned integers of their width."""
    return np.ascontiguousarray(array).reshape(array.shape).view(f"u{array.dtype.itemsize}")


def as_native(codes: Array, format: Format | str) -> Array:
    """Return codes as an array whose dtype says the format, without copying."""
    row = as_format(format)
    values = to_numpy(codes, "codes")
    if row.native_dtype is None:
        raise FormatError(expected("native dtype", row.name, f"one of {native_names()}"))
    if values.dtype.kind not in "ui" or values.dtype.itemsize != row.native_dtype.itemsize:
        raise FormatError(expected("codes", values.dtype, row.code_dtype, row.name))
    if row.storage_bits < 8 and values.size and int(values.view(np.uint8).max()) >> row.storage_bits:
        need = f"codes below {1 << row.storage_bits:#x}: packed ones go through unpack first"
        raise FormatError(expected("codes", hex(int(values.view(np.uint8).max())), need, row.name))
    return like(values.view(row.native_dtype), codes)


def _torch_integer(dtype: np.dtype) -> Any:
    import torch

    return getattr(torch, dtype.name)
