"""What transposes and recipes mean for kernels: found out when a launch is planned, not at every call that repeats it.

A reading takes a, its scales, b and its scales, and returns them as kernels take them, the block of b's scales, and
whether b is packed. Plans are looked up by it, so equal arguments give the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from dgref.deep_gemm.operands import BYTES_ARE_CODES, blocks, checked_recipes, no_kernel
from dgref.errors import ShapeError, counted, expected

Axes = tuple[int, int] | None  # the two that come swapped
Reading = Callable[[Any, Any, Any, Any], tuple]
_BLOCKS = ((128, 128), (1, 128), (1, 32))  # of b's scales


def scaled_readings(
    turn_a: Axes = None, turn_b: Axes = None, axes: tuple[int, int] = (2, 2)
) -> Callable[[Any, Any, Any], Reading]:
    """Return what gives the reading for a recipe, or one for each of a and b: None, or any sequence of integers."""

    @lru_cache(maxsize=1024)
    def said(recipe: Any, recipe_a: Any, recipe_b: Any) -> Reading:
        def read(a: Any, a_scale: Any, b: Any, b_scale: Any) -> tuple:
            _check_axes(a, b, axes)
            a, a_scale = turned(a, turn_a), turned(a_scale, turn_a)
            b, b_scale = turned(b, turn_b), turned(b_scale, turn_b)
            block_a, block_b = blocks(recipe, recipe_a, recipe_b, b_scale.dtype is torch.int32)
            return a, a_scale, b, b_scale, block_b, _is_packed(a, b, block_a, block_b)

        return read

    default = said(None, None, None)

    def reading(recipe: Any, recipe_a: Any, recipe_b: Any) -> Reading:
        if recipe is None and recipe_a is None and recipe_b is None:
            return default
        return said(*checked_recipes(recipe, recipe_a, recipe_b))  # 1.0 equals 1, and would otherwise be taken for it

    return reading


def plain_reading(turn_a: Axes = None, turn_b: Axes = None, axes: tuple[int, int] = (2, 2)) -> Reading:
    """Return the reading of operands without scales."""

    def read(a: Any, a_scale: Any, b: Any, b_scale: Any) -> tuple:
        _check_axes(a, b, axes)
        return turned(a, turn_a), a_scale, turned(b, turn_b), b_scale, (128, 128), False

    return read


def turned(tensor: Any, axes: Axes) -> Any:
    """Return an operand with two axes swapped, or as it is."""
    return tensor if axes is None else tensor.transpose(*axes)


def _check_axes(a: Any, b: Any, axes: tuple[int, int]) -> None:
    for name, operand, count in (("a", a, axes[0]), ("b", b, axes[1])):
        if operand.dim() != count:
            raise ShapeError(expected(f"{name} shape", list(operand.shape), counted(count, "axis")))


def _is_packed(a: Any, b: Any, block_a: Any, block_b: Any) -> bool:
    """Say whether b is packed FP4; raise unless a is FP8 and there are kernels for scales of these blocks."""
    packed = b.dtype is not torch.float8_e4m3fn
    if a.dtype is not torch.float8_e4m3fn:  # which a kernel would take bytes for
        raise no_kernel(f"a in torch.float8_e4m3fn, not {a.dtype}{_hint(a)}")
    if block_a != (1, 128) or block_b not in _BLOCKS or (packed and block_b[0] != 1):
        need = "scales of 1x128 by 128x128 (b in FP8), 1x128 or 1x32"
        raise no_kernel(f"{need}, not {block_a} by {block_b} with b in {b.dtype}{_hint(b)}")
    return packed


def _hint(tensor: Any) -> str:
    return f"; {BYTES_ARE_CODES}" if tensor.dtype in (torch.uint8, torch.int8) else ""
