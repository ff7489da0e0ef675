"""What the operations accept, made uniform: arrays of any kind become ScaledTensors of NumPy codes, and back.

The arithmetic below never asks where an operand came from; errors name the operand, what it is and what is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import wraps
from typing import Any

import numpy as np

from dgref.errors import FormatError, InputError, ShapeError, counted, expected
from dgref.formats.element import FORMATS
from dgref.formats.native import as_codes, format_of, is_torch, like, to_numpy
from dgref.formats.scaling import FULL
from dgref.formats.tensor import ScaledTensor, in_numpy

_INT64 = np.iinfo(np.int64)


def scaled(operand: Any, name: str) -> ScaledTensor:
    """Return an operand as a ScaledTensor whose parts fit one another; the dtype of a plain array says its format."""
    operand = in_numpy(operand, name)
    if isinstance(operand, ScaledTensor):
        return fitting(operand, name)
    if not hasattr(operand, "dtype"):
        need = "an array whose dtype says its format, or a ScaledTensor, which says what its scales mean"
        raise FormatError(expected(name, _kind(operand), need))
    array = np.asarray(operand)
    if array.dtype.kind in "iu":
        need = "a ScaledTensor: integers do not say what format their bits are in"
        raise FormatError(expected(name, f"an array of {array.dtype}", need))
    format = _format(array, name)
    return ScaledTensor(as_codes(array), format)


def fitting(tensor: ScaledTensor, name: str) -> ScaledTensor:
    """Return the tensor, or raise unless its parts fit; fp32 scales may have any sign, as kernels multiply by any."""
    signed = tensor.scaling is not None and tensor.scaling.scale_format == "float32" and tensor.scale is not None
    unsigned = replace(tensor, scale=np.abs(to_numpy(tensor.scale, f"{name}.scale"))) if signed else tensor
    unsigned.validate(name)
    return tensor


def _format(array: np.ndarray, name: str) -> str:
    try:
        return format_of(array).name
    except FormatError as error:
        raise FormatError(f"{name} {error}") from None


def _kind(value: Any) -> str:
    """Return what a value is, in words."""
    return "nothing" if value is None else f"a {type(value).__name__}"


def values(operand: Any, name: str) -> np.ndarray:
    """Return a plain operand's values as float32; the conversion is exact."""
    tensor = scaled(operand, name)
    if tensor.scale is not None:
        raise FormatError(expected(name, "a tensor with scales", "a plain array"))
    return FORMATS[tensor.format].decode(tensor.data)


def integers(operand: Any, name: str, low: int | None = None, high: int | None = None) -> np.ndarray:
    """Return an index operand as int64, checked to lie in [low, high]."""
    array = _index_array(operand, name)
    low, high = (_INT64.min if low is None else low), (_INT64.max if high is None else high)
    for bad, need in ((array < low, f">= {low}"), (array > high, f"<= {high}")):
        if np.any(bad):
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InputError(expected(f"{name}{list(at)}", int(array[at]), need))
    return array.astype(np.int64)


def line_of_integers(operand: Any, name: str, low: int | None = None, high: int | None = None) -> np.ndarray:
    """Return an index operand of one axis, checked as `integers` does."""
    array = integers(operand, name, low, high)
    if array.ndim != 1:
        raise ShapeError(expected(f"{name} shape", list(array.shape), "one axis"))
    return array


def _index_array(operand: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(operand)
    except ValueError:
        raise InputError(expected(name, "rows of unequal length", "an array of integers")) from None
    if array.dtype.kind not in "iu" and (array.size or array.dtype.kind != "f"):
        got = _kind(operand) if array.dtype.kind in "OU" else f"dtype {array.dtype}"
        raise InputError(expected(name, got, "an integer dtype"))
    return array if array.size else array.astype(np.int64)


def bind(operands: Mapping[str, tuple[str, Any]]) -> dict[str, int]:
    """Match the shapes of operands to axis names and return the extents; one axis has one extent everywhere.

    `operands` maps a name to (axes, array); None for an array leaves it out.
    """
    extents: dict[str, tuple[int, str]] = {}
    for name, (axes, array) in operands.items():
        if array is None:
            continue
        shape = getattr(array, "shape", None)
        shape = shape if isinstance(shape, tuple) else _index_array(array, name).shape
        if len(shape) != len(axes.split()):
            raise ShapeError(expected(f"{name} shape", list(shape), f"{counted(len(axes.split()), 'axis')} [{axes}]"))
        for axis, extent in zip(axes.split(), shape, strict=True):
            known, source = extents.setdefault(axis, (extent, name))
            if known != extent:
                raise ShapeError(expected(f"{name} shape", list(shape), f"{axis} = {known}, as in {source}", axes))
    return {axis: extent for axis, (extent, _) in extents.items()}


def take(tensor: ScaledTensor, index: int | slice | np.ndarray) -> ScaledTensor:
    """Return one element of the first, leading axis (a group, a batch entry, an expert), or several."""
    shared = np.ndim(tensor.global_scale) == 0
    return replace(
        tensor,
        data=tensor.data[index],
        scale=None if tensor.scale is None else tensor.scale[index],
        global_scale=tensor.global_scale if shared else tensor.global_scale[index],
    )


def take_rows(tensor: ScaledTensor, rows: Any) -> ScaledTensor:
    """Return some rows of a [..., rows, k] tensor, in any order, each with the scales that governed it."""
    if tensor.scale is None:
        return replace(tensor, data=tensor.data[..., rows, :])
    height, width = tensor.scaling.block
    numbers = np.arange(tensor.shape[-2])[rows]
    lines = np.zeros_like(numbers) if height == FULL else numbers // height
    return replace(
        tensor,
        data=tensor.data[..., rows, :],
        scale=tensor.scale[..., lines, :],
        scaling=replace(tensor.scaling, block=(1, width)),
    )


def take_columns(tensor: ScaledTensor, columns: slice, scale_columns: slice) -> ScaledTensor:
    """Return a range of K of a tensor, with a range of its scale columns."""
    scale = None if tensor.scale is None else tensor.scale[..., scale_columns]
    return replace(tensor, data=tensor.data[..., columns], scale=scale)


def permute(tensor: ScaledTensor, axes: tuple[int, ...]) -> ScaledTensor:
    """Return a tensor with its axes, and those of its blocks, in another order; blocks must stay on the last two."""
    data = np.transpose(tensor.data, axes)
    if tensor.scale is None:
        return replace(tensor, data=data)
    extents = [*[1] * (data.ndim - 2), *tensor.scaling.block]
    moved = [extents[axis] for axis in axes]
    if any(extent != 1 for extent in moved[:-2]):
        raise ShapeError(
            expected("axes", axes, f"an order that keeps blocks of {tensor.scaling.block} on the last two")
        )
    scaling = replace(tensor.scaling, block=(moved[-2], moved[-1]))
    return replace(tensor, data=data, scale=np.transpose(tensor.scale, axes), scaling=scaling)


def as_rows(tensor: ScaledTensor) -> ScaledTensor:
    """Return a tensor [..., k] as [rows, k]; its blocks must be one row high."""
    if tensor.scale is None:
        return replace(tensor, data=_two_axes(tensor.data))
    if tensor.scaling.block[0] != 1 and len(tensor.shape) > 2:
        raise ShapeError(expected("scale block", tensor.scaling.block, "one row high, for rows to be joined"))
    return replace(tensor, data=_two_axes(tensor.data), scale=_two_axes(tensor.scale))


def _two_axes(array: np.ndarray) -> np.ndarray:
    return array.reshape(int(np.prod(array.shape[:-1], dtype=np.int64)), array.shape[-1])


def operation(function: Callable) -> Callable:
    """Let a function written for NumPy take torch tensors, and then return torch tensors on the same device."""

    @wraps(function)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        found: list[Any] = []
        arguments = tuple(_inward(value, found) for value in arguments)
        options = {key: _inward(value, found) for key, value in options.items()}
        result = function(*arguments, **options)
        return _outward(result, found[0]) if found else result

    return wrapped


def _inward(value: Any, found: list[Any]) -> Any:
    if is_torch(value):
        found.append(value)
        return _from_torch(value)
    if isinstance(value, ScaledTensor):
        parts = {f.name: _inward(getattr(value, f.name), found) for f in fields(value) if f.init}
        return replace(value, **parts)
    return value


def _from_torch(tensor: Any) -> np.ndarray:
    """Return a torch tensor of any device as NumPy; one without strided memory holds nothing to read."""
    if tensor.is_meta or str(tensor.layout) != "torch.strided":
        got = "a tensor without data (meta)" if tensor.is_meta else f"a tensor of layout {tensor.layout}"
        raise InputError(expected("operand", got, "a dense tensor"))
    return to_numpy(tensor.detach().cpu())


def _outward(result: Any, witness: Any) -> Any:
    if isinstance(result, np.ndarray):
        return like(result, witness).to(witness.device)
    if isinstance(result, ScaledTensor) or (is_dataclass(result) and not isinstance(result, type)):
        parts = {f.name: _outward(getattr(result, f.name), witness) for f in fields(result) if f.init}
        return replace(result, **parts)
    if isinstance(result, dict):
        return {key: _outward(value, witness) for key, value in result.items()}
    if isinstance(result, tuple):
        return tuple(_outward(value, witness) for value in result)
    return result
