"""Scales as a dump has them: which buffer an array of some dtype, shape and strides stands for.

A kernel's author dumps what the kernel was given, and DeepGEMM gives an MN-major buffer as a tensor of rows x scales
with strides (1, rows). A file keeps its shape, and not always its strides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import numpy as np

from dgref.buffers import LINEAR
from dgref.errors import LayoutError, counted, expected
from dgref.formats import FORMATS, LAYOUTS, RECIPES
from dgref.formats.layouts import Layout
from dgref.suite import OperandChoice

Shape = tuple[int, ...]
_USUAL = (LINEAR, "mn_major", "mn_major_tma", "packed_ue8m0", "swizzle_128x4")
_SHOWN = 3  # recipes that a hint lists


def scale_buffer(name: str, array: np.ndarray, shape: Shape, choice: OperandChoice) -> np.ndarray:
    """Return an array of scales in the order of its layout's buffer; `shape` is the operand's.

    In one axis, or in the buffer's own shape, it is the buffer. As rows x scales (or words) of a layout by column it is
    the buffer's view. What may be both and is neither by its strides is an error, and so is every other shape.
    """
    scaling, layout = RECIPES[choice.recipe].scaling, LAYOUTS[choice.layout or LINEAR]
    if scaling is None or layout.parameters:
        return array
    grid = scaling.grid(shape)
    if len(grid) < 2 or grid[-2] % layout.divisor:
        return array  # which whoever unpacks it refuses, where it must be
    found = list(_readings(array, grid, layout))
    if not found:
        raise _misfit(name, array, shape, choice)
    if len(found) > 1 and not np.array_equal(found[0].reshape(-1), found[1].reshape(-1)):
        if _is_by_column(array):
            return found[1]
        got = f"shape {array.shape} by row, which both the buffer and its view of {grid[-2]} rows have"
        raise LayoutError(
            expected(name, got, "one axis if it is the buffer, strides by column if it is the view", layout.name)
        )
    return found[0]


def fits(array: np.ndarray, shape: Shape, choice: OperandChoice) -> bool:
    """Return whether an array is as long as the scales of an operand of this shape, by dtype and shape."""
    scaling, layout = RECIPES[choice.recipe].scaling, LAYOUTS[choice.layout or LINEAR]
    if scaling is None or layout.parameters or len(shape) < 2:
        return False
    grid = scaling.grid(shape)
    width = 4 if layout.elements.lanes > 1 else FORMATS[scaling.scale_format].code_dtype.itemsize
    if grid[-2] % layout.divisor:
        return False
    return layout.size(grid) * width == array.nbytes or (array.itemsize == width and any(_views(array, grid, layout)))


def _readings(array: np.ndarray, grid: Shape, layout: Layout) -> Iterator[np.ndarray]:
    """Yield the buffers that an array may stand for: as it lies, then as the view of one."""
    need = layout.buffer_shape(grid)
    if array.size == prod(need) and _lies_so(array.shape, need, len(grid)):
        yield array
    for shape in _views(array, grid, layout):
        columns = np.swapaxes(array.reshape(shape), -1, -2)
        missing = need[-1] - columns.shape[-1]
        yield np.ascontiguousarray(np.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, missing)]))


def _views(array: np.ndarray, grid: Shape, layout: Layout) -> list[Shape]:
    """Return the shape of the layout's view that an array has, if it has one."""
    return [view for view in layout.view_shapes(grid) if view == array.shape]


def _lies_so(shape: Shape, need: Shape, axes: int) -> bool:
    """Return whether elements of this shape are in the order of a buffer: axes may be joined, never exchanged."""
    one, other = ([extent for extent in axis if extent != 1] for axis in (shape, need))
    return len(one) < 2 or len(need) < axes or one[-1] == other[-1]


def _is_by_column(array: np.ndarray) -> bool:
    return array.strides[-2] == array.itemsize < array.strides[-1]


def _misfit(name: str, array: np.ndarray, shape: Shape, choice: OperandChoice) -> Exception:
    """Return the error for scales that fit nowhere, with what they would fit."""
    layout = LAYOUTS[choice.layout or LINEAR]
    grid = RECIPES[choice.recipe].scaling.grid(shape)
    need = layout.buffer_shape(grid)
    views = [view for view in layout.view_shapes(grid) if view != need]
    wanted = " or ".join([f"{prod(need):,} as {need}", *(f"its view {view}" for view in views)])
    got = f"{counted(array.size, 'element')} of shape {array.shape}"
    hint = next(_hints(array, shape, choice), "")
    return LayoutError(expected(f"{name} buffer", got, wanted + hint, f"{layout.name}, scales {grid}"))


def _hints(array: np.ndarray, shape: Shape, choice: OperandChoice) -> Iterator[str]:
    """Yield what is likely meant, likeliest first."""
    recipe, layout = RECIPES[choice.recipe], LAYOUTS[choice.layout or LINEAR]
    grid = recipe.scaling.grid(shape)
    if array.itemsize == 1 and layout.elements.lanes > 1 and _four_a_word(array, grid, layout):
        yield f"; words of four bytes are int32, and these are {array.dtype}: view them as int32"
    for other in _USUAL:
        if other != layout.name and _would_fit(array, shape, OperandChoice(recipe.name, other)):
            yield f"; these fit {recipe.name}:{other}"
    if array.dtype.kind in "iu" and array.itemsize in (2, 8):
        yield f"; {array.dtype} is no dtype of scales: bytes are uint8, words of four int32"
    yield from _blocks(array, shape, choice, same_dtype=True)
    if array.dtype == np.int32:
        yield from _blocks(array, shape, replace(choice, layout="packed_ue8m0"), same_dtype=True)
    else:
        yield from _blocks(array, shape, choice, same_dtype=False)


def _blocks(array: np.ndarray, shape: Shape, choice: OperandChoice, same_dtype: bool) -> Iterator[str]:
    """Yield the blocks that as many scales would be for, and recipes that have such."""
    layout = "" if choice.layout is None else f":{choice.layout}"
    rows = [row for row in RECIPES.values() if row.format == RECIPES[choice.recipe].format]
    rows = [r for r in rows if _would_fit(array, shape, OperandChoice(r.name, choice.layout), same_dtype)]
    for first in sorted(rows, key=lambda row: not row.name.startswith(choice.recipe))[:1]:
        alike = [row.name for row in rows if row is not first and row.scaling.block == first.scaling.block]
        names = ", ".join(f"{name}{layout}" for name in [first.name, *alike][:_SHOWN])
        block = "x".join(str(extent or "all") for extent in first.scaling.block)
        of = "" if same_dtype else f", whose scales are {first.scaling.scale_format} and these {array.dtype}"
        yield f"; these fit {block} blocks ({names}{of})"


def _four_a_word(array: np.ndarray, grid: Shape, layout: Layout) -> bool:
    whole = array.ndim > 0 and array.shape[-1] % 4 == 0
    return whole and any(True for _ in _readings(array[..., ::4], grid, layout))


def _would_fit(array: np.ndarray, shape: Shape, choice: OperandChoice, same_dtype: bool = True) -> bool:
    """Return whether an array's shape, and its dtype, are those of scales of a recipe in a layout."""
    scaling, layout = RECIPES[choice.recipe].scaling, LAYOUTS[choice.layout or LINEAR]
    if scaling is None or layout.parameters or scaling.grid(shape)[-2] % layout.divisor:
        return False
    words, floats = layout.elements.lanes > 1, scaling.scale_format == "float32"
    if (words and scaling.scale_format != "float8_e8m0fnu") or (layout.elements.produces == "float32" and not floats):
        return False
    dtypes = ("int32",) if words else ("float32",) if floats else ("uint8", "int8", scaling.scale_format)
    fitting = array.dtype.name in dtypes or not same_dtype
    return fitting and any(True for _ in _readings(array, scaling.grid(shape), layout))
