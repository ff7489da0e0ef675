"""Conversions as operations: cast to a format under a convention, and quantise under a recipe."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgref.errors import instance
from dgref.formats import FORMATS, quantize
from dgref.reference.operands import operation, values


@operation
def cast(x: Any, *, out: str, convention: str | None = None, rounding: str = "nearest_even") -> np.ndarray:
    """Return the codes of `x` in a format, rounded once; a convention brings a library's NaN, overflow and ties."""
    named = instance("convention", convention, str | None, "a convention's name, or None")
    options = {"convention": named} if named else {"rounding": rounding}
    return FORMATS[out].encode(values(x, "x"), **options)


@operation
def quantise(x: Any, *, recipe: str) -> dict[str, np.ndarray]:
    """Return payload codes, scales and (where the recipe has one) the global scale of `x` under a recipe."""
    tensor = quantize(values(x, "x"), recipe)
    parts = {"data": tensor.data, "scale": tensor.scale, "global_scale": tensor.global_scale}
    return {name: np.asarray(part) for name, part in parts.items() if part is not None}
