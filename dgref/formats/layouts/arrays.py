"""The little that layouts need from NumPy and torch alike: raw views, zeros, and copies into a padded place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dgref.errors import FormatError, expected
from dgref.formats.native import is_torch, strided, to_numpy

Array = Any
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_REGISTERED = 2  # NumPy's `isbuiltin` of dtypes that other packages add, such as ml_dtypes


def movable(array: Array, subject: str) -> Array:
    """Return an array whose elements are numbers of 1, 2, 4 or 8 bytes; anything else is an error."""
    if is_torch(array):
        array = strided(array, subject)
        width, number = array.element_size(), not array.is_complex()
    else:
        array = to_numpy(array, subject)
        width, number = array.dtype.itemsize, array.dtype.kind in "biuf" or array.dtype.isbuiltin == _REGISTERED
    if not number or width not in _UNSIGNED:
        raise FormatError(expected(subject, dtype_name(array), "an array of numbers of 1, 2, 4 or 8 bytes"))
    return array


def dtype_name(array: Array) -> str:
    """Return `float32`, `uint8`, `float8_e8m0fnu`, … for either kind of array."""
    return str(array.dtype).removeprefix("torch.")


def raw(array: Array) -> tuple[Array, Callable[[Array], Array]]:
    """View an array as unsigned integers of its width; also return the way back to its own kind and dtype.

    A torch tensor on the CPU becomes a NumPy view. One on a device stays a tensor, as uint8 where torch cannot index
    its dtype.
    """
    if not is_torch(array):
        array = np.asarray(array)
        unsigned = _UNSIGNED[array.dtype.itemsize]
        return array.view(unsigned), lambda result: result.view(array.dtype)
    import torch

    signed = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[array.element_size()]
    bits = array.detach().view(signed)
    if array.device.type != "cpu":
        return bits, lambda result: result.view(array.dtype)
    numbers = bits.numpy()
    unsigned = numbers.view(_UNSIGNED[numbers.dtype.itemsize])
    return unsigned, lambda result: torch.from_numpy(result.view(numbers.dtype)).view(array.dtype)


def zeros(like: Array, shape: tuple[int, ...]) -> Array:
    """Return zeros of the same kind, dtype and device."""
    return like.new_zeros(shape) if is_torch(like) else np.zeros(shape, like.dtype)


def permuted(array: Array, axes: list[int]) -> Array:
    """Return a view with its axes in another order."""
    return array.permute(axes) if is_torch(array) else array.transpose(axes)


def padded(array: Array, rows: int, columns: int) -> Array:
    """Return the array with zeros after its last two axes, or itself where nothing is missing."""
    if tuple(array.shape[-2:]) == (rows, columns):
        return array
    shape = (*array.shape[:-2], rows, columns)
    result = array.new_empty(shape) if is_torch(array) else np.empty(shape, array.dtype)
    result[..., : array.shape[-2], : array.shape[-1]] = array
    result[..., array.shape[-2] :, :] = 0
    result[..., array.shape[-1] :] = 0
    return result


def owned(array: Array, origin: Array) -> Array:
    """Return the array in its own contiguous memory, so that writing to it leaves the origin alone."""
    if is_torch(array):
        shared = array.untyped_storage().data_ptr() == origin.untyped_storage().data_ptr()
        return array.contiguous().clone() if shared else array.contiguous()
    return np.array(array, order="C") if np.may_share_memory(array, origin) else np.ascontiguousarray(array)
