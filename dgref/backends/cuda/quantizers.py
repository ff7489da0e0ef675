"""Quantisers on the GPU, bit-equal to `dgref.formats.quantize`: a recipe's fields become template constants.

NaN is the one difference: every NaN code is the positive one, whatever sign the CPU's NaN carried.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from dgref.backends.cuda.jit import Kernel, compile_kernel, on_device
from dgref.errors import FormatError, LayoutError, ShapeError, UnsupportedError, expected
from dgref.formats.element import FORMATS
from dgref.formats.payloads import PAYLOADS
from dgref.formats.recipes import RECIPES, Recipe
from dgref.formats.rules import RULES
from dgref.formats.scaling import FULL, Scaling

if TYPE_CHECKING:
    import torch

SOURCE = "common/quantize.cu"
_THREADS, _TILE = 256, 128
_INPUTS = {"float32": "Float32", "bfloat16": "Bfloat16"}
_FORMATS = {"float8_e4m3fn": "E4m3", "float8_e5m2": "E5m2", "float4_e2m1fn": "E2m1"}
_RULES = {
    "amax_over_max": "AmaxOverMax",
    "ceil_quotient": "CeilQuotient",
    "floor_amax": "FloorAmax",
    "ceil_amax": "CeilAmax",
    "amax_over_max_times_global": "AmaxOverMaxTimesGlobal",
}
_SCALES = {"float32": "Float32Scale", "float8_e8m0fnu": "E8m0Scale", "float8_e4m3fn": "E4m3Scale"}
_PAYLOADS = {
    "divide": "Divide",
    "multiply_reciprocal": "MultiplyReciprocal",
    "divide_by_scale_times_global": "DivideByScaleTimesGlobal",
}
_DESCRIBED = {"block", "scale_format", "rule", "amax_floor", "global_scale", "payload", "scale_max"}
_PROBLEM = struct.Struct("=8Q2if4x")  # the fields of quantize::Problem, in order


@dataclass(frozen=True)
class Quantized:
    """A payload as kernels take it (torch's float8, or two FP4 a byte) beside its logical grid of scales."""

    data: torch.Tensor
    scale: torch.Tensor
    recipe: Recipe
    global_scale: torch.Tensor | None = None


def unsupported(recipe: str | Recipe) -> str | None:
    """Say why no kernel quantises to a recipe; None where one does."""
    row = RECIPES[recipe] if isinstance(recipe, str) else recipe
    if row.scaling is None:
        return "a payload without scales: torch converts it"
    if row.format not in _FORMATS:
        return f"payload {row.format}: there are kernels for " + ", ".join(_FORMATS)
    scaling = row.scaling
    for name, value, known in (
        ("rule", RULES[scaling.rule].name, _RULES),
        ("payload", PAYLOADS[scaling.payload].name, _PAYLOADS),
        ("scale_format", scaling.scale_format, _SCALES),
        ("global_scale", scaling.global_scale, ("none", "multiply")),
    ):
        if value not in known:
            return f"{name} {value}: there are kernels for " + ", ".join(known)
    special = [f.name for f in fields(scaling) if f.name not in _DESCRIBED and getattr(scaling, f.name) != f.default]
    if special:
        return f"{special[0]} {getattr(scaling, special[0])}: no kernel knows it"
    return None if _entry(scaling) else f"blocks of {scaling.block}: no kernel has that shape"


def quantize(
    x: torch.Tensor,
    recipe: str | Recipe,
    *,
    global_scale: torch.Tensor | None = None,
    scale_layout: str = "linear",
) -> Quantized:
    """Return x [..., rows, K] (float32 or bfloat16, on a GPU) under a recipe.

    `scale_layout="mn_major_tma"` writes FP32 scales straight into the layout that TMA reads: the grid that is returned
    is then a view of that buffer. A recipe with a global scale computes it from x, unless one float is given.
    """
    plan = _plan(recipe, x.dtype, x.shape, x.stride(), x.device, x.data_ptr() % 16 == 0, scale_layout)
    with on_device(x):
        stored = _global_scale(x, plan.recipe, global_scale)
        data, scale = _empty_payload(plan, x.device), _empty_scale(plan, x.device)
        if plan.joined:
            _launch(plan, x, data, scale, stored)
        else:
            for parts in zip(*(tensor.flatten(0, -3) for tensor in (x, data, scale)), strict=True):
                _launch(plan, *parts, stored)
    return Quantized(data, scale, plan.recipe, stored)


def empty_quantized(x: torch.Tensor, recipe: str, scale_layout: str = "linear") -> tuple[torch.Tensor, torch.Tensor]:
    """Return room for the payload and the scales of x, for tracing: nothing is compiled or written."""
    row = RECIPES[recipe]
    _check(row, x.dtype, x.shape, x.stride(), x.device, scale_layout)
    shapes = _Shapes.of(row, tuple(x.shape), scale_layout)
    return _empty_payload(shapes, x.device), _empty_scale(shapes, x.device)


@dataclass(frozen=True, kw_only=True)
class _Shapes:
    """What the results look like."""

    recipe: Recipe
    payload: tuple[int, ...]
    payload_dtype: torch.dtype
    scale: tuple[int, ...]
    scale_dtype: torch.dtype
    scale_rows: int  # where the scales lie column by column: their number, and `scale` has it padded to 4; else 0

    @classmethod
    def of(cls, recipe: Recipe, shape: tuple[int, ...], layout: str) -> _Shapes:
        import torch

        scaling, four_bits = recipe.scaling, FORMATS[recipe.format].bits == 4
        *lead, rows, columns = scaling.grid(shape)
        transposed = (*lead, columns, -(-rows // 4) * 4)
        return cls(
            recipe=recipe,
            payload=(*shape[:-1], -(-shape[-1] // 2)) if four_bits else shape,
            payload_dtype=torch.uint8 if four_bits else getattr(torch, recipe.format),
            scale=transposed if layout == "mn_major_tma" else (*lead, rows, columns),
            scale_dtype=torch.float32 if scaling.scale_format == "float32" else torch.uint8,
            scale_rows=rows if layout == "mn_major_tma" else 0,
        )


@dataclass(frozen=True, kw_only=True)
class _Plan(_Shapes):
    """What does not depend on the data: the results' shapes, the kernel, and the matrices that it runs on."""

    kernel: Kernel
    grid: tuple[int, ...]
    threads: int
    joined: bool  # the leading axes are rows of one matrix
    rows: int
    columns: int


@lru_cache(maxsize=4096)
def _plan(recipe, dtype, shape, strides, device, aligned: bool, scale_layout: str) -> _Plan:
    row = RECIPES[recipe] if isinstance(recipe, str) else recipe
    _check(row, dtype, shape, strides, device, scale_layout)
    scaling, (rows, columns) = row.scaling, shape[-2:]
    dense = all(strides[i] == strides[i + 1] * shape[i + 1] for i in range(len(shape) - 1))
    joined = len(shape) == 2 or (dense and scaling.block[0] == 1 and scale_layout == "linear")
    rows = prod(shape[:-1]) if joined else rows
    run = 64 // FORMATS[row.format].bits
    vector = aligned and columns % run == 0 and all(stride % 8 == 0 for stride in strides[:-1])
    flat = vector and dense and joined and scale_layout == "linear" and _has_whole_blocks(rows, columns, scaling)
    rows, columns = (1, rows * columns) if flat else (rows, columns)
    threads = _threads(_entry(scaling), columns)
    entry, arguments = constants(row, _name(dtype), vector, flat, threads)
    return _Plan(
        **vars(_Shapes.of(row, tuple(shape), scale_layout)),
        kernel=compile_kernel(SOURCE, entry, arguments),
        grid=_grid(rows, columns, scaling, FORMATS[row.format].bits),
        threads=threads,
        joined=joined,
        rows=rows,
        columns=columns,
    )


def _has_whole_blocks(rows: int, columns: int, scaling: Scaling) -> bool:
    """Say whether rows can be joined end to end: no block straddles two of them, and an int counts the elements."""
    height, width = scaling.block
    return height == 1 and width != FULL and columns % width == 0 and rows * columns < 1 << 31


def constants(
    recipe: Recipe, dtype: str, vector: bool, flat: bool = False, threads: int = _THREADS
) -> tuple[str, dict[str, Any]]:
    """Return (entry, template arguments) of the kernel for a recipe."""
    scaling = recipe.scaling
    entry, width = _entry(scaling), scaling.block[1]
    payload = _PAYLOADS[PAYLOADS[scaling.payload].name]
    if scaling.scale_format == "float8_e8m0fnu":
        payload = "MultiplyReciprocal"  # as exact as a division: float32 has every power of two that E8M0 has
    arguments = {
        "input": f"numbers::{_INPUTS[dtype]}",
        "format": f"numbers::{_FORMATS[recipe.format]}",
        "rule": f"quantize::{_RULES[RULES[scaling.rule].name]}",
        "scale": f"quantize::{_SCALES[scaling.scale_format]}",
        "payload": f"quantize::{payload}",
    }
    shape = {
        "quantize_row": {"threads": threads, "vector": vector},
        "quantize_tiles": {"columns": width, "vector": vector},
        "quantize_blocks": {"block": width, "vector": vector, "flat": flat},
    }
    return entry, arguments | shape[entry]


def _entry(scaling: Scaling) -> str | None:
    """Return the name of the kernel for a block shape."""
    rows, columns = scaling.block
    if (rows, columns) == (1, FULL):
        return "quantize_row"
    if rows == 1 and columns in (16, 32, 64, 128, 256):
        return "quantize_blocks"
    return "quantize_tiles" if rows == _TILE and columns in (1, _TILE) else None


def _threads(entry: str, columns: int) -> int:
    """Return the block size: a row's block keeps the row in registers, 32 elements a thread, up to 1024 threads."""
    if entry != "quantize_row":
        return _THREADS
    return next((threads for threads in (128, 256, 512) if threads * 32 >= columns), 1024)


def _launch(plan: _Plan, x, codes, scale, stored) -> None:
    if not plan.rows or not plan.columns:
        return
    pointer = 0 if stored is None else stored.data_ptr()
    problem = _PROBLEM.pack(
        *(x.data_ptr(), codes.data_ptr(), scale.data_ptr(), pointer),
        *(x.stride(-2), codes.stride(-2), scale.stride(-2), scale.stride(-1)),
        *(plan.rows, plan.columns, plan.recipe.scaling.amax_floor),
    )
    plan.kernel.launch(plan.grid, (plan.threads,), (problem,))


def _grid(rows: int, columns: int, scaling: Scaling, bits: int) -> tuple[int, ...]:
    height, width = scaling.block
    if height == _TILE:
        return -(-columns // _TILE), -(-rows // _TILE)
    if width == FULL:
        return (rows,)
    elements = rows * -(-columns // width) * width
    if elements // 8 >= 1 << 31:
        raise ShapeError(expected("x", f"{rows} x {columns}", "fewer than 2^34 elements"))
    in_flight = bits // 2  # runs of eight elements of a thread, as in quantize_blocks
    return (-(-elements // (_THREADS * in_flight * 8)),)


def _empty_payload(shapes: _Shapes, device) -> torch.Tensor:
    import torch

    return torch.empty(shapes.payload, dtype=shapes.payload_dtype, device=device)


def _empty_scale(shapes: _Shapes, device) -> torch.Tensor:
    import torch

    buffer = torch.empty(shapes.scale, dtype=shapes.scale_dtype, device=device)
    if not shapes.scale_rows:
        return buffer
    padding = shapes.scale[-1] - shapes.scale_rows
    if padding:
        buffer.narrow(-1, shapes.scale_rows, padding).zero_()
    return buffer.mT.narrow(-2, 0, shapes.scale_rows)


def _global_scale(x, recipe: Recipe, given) -> torch.Tensor | None:
    """Return the stored global scale, amax / (max * scale max), computed where x is; 1 for a tensor of zeros."""
    import torch

    if recipe.scaling.global_scale == "none":
        if given is not None:
            raise FormatError(expected("global_scale", "one", "None", f"{recipe.name} has no global scale"))
        return None
    if given is not None:
        return given.to(device=x.device, dtype=torch.float32).reshape(1)
    from dgref.formats.tensor import global_range

    amax = torch.linalg.vector_norm(x, torch.inf, dtype=torch.float32).reshape(1)
    span = torch.full_like(amax, global_range(recipe.scaling, recipe.format))  # a tensor: a true division
    stored = amax / span
    return torch.where(stored > 0, stored, torch.ones_like(stored))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check(recipe: Recipe, dtype, shape, strides, device, layout: str) -> None:
    reason = unsupported(recipe)
    if reason:
        raise UnsupportedError(expected("CUDA quantiser", f"recipe {recipe.name}", reason))
    if _name(dtype) not in _INPUTS:
        raise FormatError(expected("x", dtype, " or ".join(_INPUTS)))
    if len(shape) < 2 or device.type != "cuda" or strides[-1] != 1:
        got = f"shape {tuple(shape)}, strides {strides}, on {device}"
        raise ShapeError(expected("x", got, "[..., rows, K] on a GPU with K contiguous"))
    if layout not in ("linear", "mn_major_tma"):
        raise LayoutError(expected("scale_layout", layout, "linear or mn_major_tma"))
    if layout == "mn_major_tma" and recipe.scaling.scale_format != "float32":
        raise LayoutError(expected("scale_layout", layout, "linear: the scales are bytes", recipe.name))
