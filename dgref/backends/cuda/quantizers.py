"""Quantisers on the GPU, bit-equal to `dgref.formats.quantize`: a recipe's fields become template constants.

NaN is the one difference: every NaN code is the positive one, whatever sign the CPU's NaN carried.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dgref.backends.cuda.jit import Kernel, compile_kernel
from dgref.errors import FormatError, LayoutError, ShapeError, UnsupportedError, expected
from dgref.formats.element import FORMATS
from dgref.formats.payloads import PAYLOADS
from dgref.formats.recipes import RECIPES, Recipe
from dgref.formats.rules import RULES
from dgref.formats.scaling import FULL, Scaling

if TYPE_CHECKING:
    import torch

SOURCE = "common/quantize.cu"
_THREADS, _CHUNKS, _TILE = 256, 4, 128
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
    return None if _shape_of(scaling) else f"blocks of {scaling.block}"


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
    row = RECIPES[recipe] if isinstance(recipe, str) else recipe
    _check(x, row, scale_layout)
    import torch

    with torch.cuda.device(x.device):
        stored = _global_scale(x, row, global_scale)
        data = _empty_payload(x, row.format)
        scale = _empty_scale(x, row.scaling, scale_layout)
        for matrix, codes, grid in _matrices(x, data, scale, row.scaling):
            _launch(_kernel_of(row, matrix), matrix, codes, grid, stored, row.scaling)
    return Quantized(data, scale, row, stored)


def _matrices(x, data, scale, scaling: Scaling):
    """Yield (x, codes, scales) as matrices: one, where rows of leading axes can be joined."""
    if x.ndim == 2 or (scaling.block[0] == 1 and scale[..., 0].is_contiguous()):
        yield tuple(tensor.reshape(-1, tensor.shape[-1]) for tensor in (x, data, scale))
        return
    flat = [tensor.reshape(-1, *tensor.shape[-2:]) for tensor in (x, data, scale)]
    yield from zip(*flat, strict=True)


def constants(recipe: Recipe, dtype: str, vector: bool) -> tuple[str, dict[str, Any]]:
    """Return (entry, template arguments) of the kernel for a recipe."""
    scaling = recipe.scaling
    entry, extent = _shape_of(scaling)
    payload = (
        "DividePowerOfTwo" if scaling.scale_format == "float8_e8m0fnu" else _PAYLOADS[PAYLOADS[scaling.payload].name]
    )
    arguments = {
        "input": f"numbers::{_INPUTS[dtype]}",
        "format": f"numbers::{_FORMATS[recipe.format]}",
        "rule": f"quantize::{_RULES[RULES[scaling.rule].name]}",
        "scale": f"quantize::{_SCALES[scaling.scale_format]}",
        "payload": f"quantize::{payload}",
    }
    return entry, {**arguments, **({"extent": extent} if extent else {}), "vector": vector}


def _shape_of(scaling: Scaling) -> tuple[str, int] | None:
    """Return (entry, extent) of the kernel for a block shape."""
    rows, columns = scaling.block
    if (rows, columns) == (1, FULL):
        return "quantize_row", 0
    if rows == 1 and columns in (16, 32, 64, 128, 256):
        return "quantize_blocks", columns
    return ("quantize_tiles", columns) if rows == _TILE and columns in (1, _TILE) else None


def _kernel_of(recipe: Recipe, matrix: torch.Tensor) -> Kernel:
    vector = matrix.shape[1] % 8 == 0 and matrix.stride(0) % 8 == 0 and matrix.data_ptr() % 16 == 0
    return _compiled(recipe, str(matrix.dtype).removeprefix("torch."), vector)


@lru_cache(maxsize=256)
def _compiled(recipe: Recipe, dtype: str, vector: bool) -> Kernel:
    entry, arguments = constants(recipe, dtype, vector)
    return compile_kernel(SOURCE, entry, arguments)


def _launch(kernel: Kernel, x, codes, scale, stored, scaling: Scaling) -> None:
    rows, columns = x.shape
    if not rows or not columns:
        return
    problem = _PROBLEM.pack(
        *(x.data_ptr(), codes.data_ptr(), scale.data_ptr(), 0 if stored is None else stored.data_ptr()),
        *(x.stride(0), codes.stride(0), scale.stride(0), scale.stride(1)),
        *(rows, columns, scaling.amax_floor),
    )
    kernel.launch(_grid(rows, columns, scaling), (_THREADS,), (problem,))


def _grid(rows: int, columns: int, scaling: Scaling) -> tuple[int, ...]:
    height, width = scaling.block
    if height == _TILE:
        return -(-columns // _TILE), -(-rows // _TILE)
    if width == FULL:
        return (rows,)
    chunks = rows * (-(-columns // width) * (width // 8))
    if chunks >= 1 << 31:
        raise ShapeError(expected("x", f"{rows} x {columns}", "fewer than 2^34 elements"))
    return (-(-chunks // (_THREADS * _CHUNKS)),)


def _empty_payload(x, format: str) -> torch.Tensor:
    import torch

    if FORMATS[format].bits == 4:
        return torch.empty(*x.shape[:-1], -(-x.shape[-1] // 2), dtype=torch.uint8, device=x.device)
    return torch.empty(x.shape, dtype=getattr(torch, format), device=x.device)


def _empty_scale(x, scaling: Scaling, layout: str) -> torch.Tensor:
    import torch

    grid = scaling.grid(tuple(x.shape))
    dtype = torch.float32 if scaling.scale_format == "float32" else torch.uint8
    if layout == "linear":
        return torch.empty(grid, dtype=dtype, device=x.device)
    *lead, rows, columns = grid
    return torch.zeros(*lead, columns, -(-rows // 4) * 4, dtype=dtype, device=x.device).mT[..., :rows, :]


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


def _check(x, recipe: Recipe, layout: str) -> None:
    reason = unsupported(recipe)
    if reason:
        raise UnsupportedError(expected("CUDA quantiser", f"recipe {recipe.name}", reason))
    if str(x.dtype).removeprefix("torch.") not in _INPUTS:
        raise FormatError(expected("x", x.dtype, " or ".join(_INPUTS)))
    if x.ndim < 2 or not x.is_cuda or x.stride(-1) != 1:
        got = f"shape {tuple(x.shape)}, strides {x.stride()}, on {x.device}"
        raise ShapeError(expected("x", got, "[..., rows, K] on a GPU with K contiguous"))
    if layout not in ("linear", "mn_major_tma"):
        raise LayoutError(expected("scale_layout", layout, "linear or mn_major_tma"))
    if layout == "mn_major_tma" and recipe.scaling.scale_format != "float32":
        raise LayoutError(expected("scale_layout", layout, "linear: the scales are bytes", recipe.name))
