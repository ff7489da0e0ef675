"""Plain arguments checked: numbers, shapes that broadcast and choices of rows, each refused in a sentence."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from dgref.errors import FormatError, InputError, ShapeError, counted, expected, shown
from dgref.formats.element import FORMATS


def real(value: Any, name: str) -> float:
    """Return a number as a float; NaN and infinities are numbers."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(expected(name, repr(value), "a number"))
    return float(value)


def held(values: Any, format: str, name: str) -> np.ndarray:
    """Return numbers as float32, each finite one a value of the format; TF32 hardware ignores what its words add."""
    try:
        numbers = np.asarray(values)
        if numbers.dtype.kind == "c":
            raise TypeError
        numbers = numbers.astype(np.float32)
    except (TypeError, ValueError, RuntimeError):  # torch tensors that are not in this memory raise the last
        raise FormatError(expected(name, shown(values), "real numbers")) from None
    row = FORMATS[format]
    lost = np.isfinite(numbers) & (row.decode(row.encode(numbers, overflow="saturate")) != numbers)
    if format != "tfloat32" and lost.any():
        raise FormatError(expected(name, numbers[lost][0], f"values of {format}"))
    return numbers


def check_broadcast(a: tuple[int, ...], b: tuple[int, ...], name: str) -> None:
    """Raise unless two shapes broadcast."""
    try:
        np.broadcast_shapes(a, b)
    except ValueError:
        raise ShapeError(expected(f"{name} shape", list(b), f"one that broadcasts with {list(a)}")) from None


def own_index(batch: tuple[int, ...], leading: tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of a broadcast batch in an operand that may lack axes or have extents of 1."""
    own = batch[len(batch) - len(leading) :]
    return tuple(0 if extent == 1 else i for i, extent in zip(own, leading, strict=True))


def selection(chosen: Any, extent: int, name: str) -> np.ndarray:
    """Return the indices that a slice, a mask or a vector of indices chooses among `extent`; None chooses all."""
    if chosen is None:
        return np.arange(extent)
    try:
        indices = np.arange(extent)[chosen] if isinstance(chosen, slice) else np.asarray(chosen)
    except (TypeError, ValueError):
        raise InputError(expected(name, chosen, "a slice, or a vector of indices or bools")) from None
    if indices.ndim != 1:
        raise ShapeError(expected(name, counted(indices.ndim, "axis"), "a slice or a vector of indices"))
    if indices.dtype == np.bool_:
        return _marked(indices, extent, name)
    if indices.size and indices.dtype.kind not in "iu":
        raise InputError(expected(name, f"dtype {indices.dtype}", "an integer dtype, or bools"))
    outside = indices[(indices < 0) | (indices >= extent)]
    if outside.size:
        raise InputError(expected(name, outside[0], f"indices from 0 to {extent - 1}"))
    return indices.astype(np.int64)


def _marked(mask: np.ndarray, extent: int, name: str) -> np.ndarray:
    if mask.size != extent:
        raise ShapeError(expected(name, f"a mask of {mask.size}", f"one bool for each of {extent}"))
    return np.flatnonzero(mask)
