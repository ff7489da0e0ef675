"""Quantise and dequantise: the readable truth; fast paths are tested equal to it."""

from __future__ import annotations

import numpy as np

from dgref.errors import FormatError, InputError, ShapeError, expected
from dgref.formats.blocks import beside_blocks, block_amax, from_blocks, to_blocks
from dgref.formats.element import FORMATS, Array, Format
from dgref.formats.native import format_of, like, to_numpy
from dgref.formats.payloads import PAYLOADS
from dgref.formats.recipes import RECIPES, Recipe
from dgref.formats.rules import RULES
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor, expand, global_range


def quantize(
    x: Array,
    recipe: str | Recipe,
    *,
    global_scale: Array | float | None = None,
    axis: int = -1,
    seed: int | None = None,
    name: str = "x",
) -> ScaledTensor:
    """Return x under a recipe; NumPy in, NumPy out, torch in, torch out.

    Blocks lie along `axis` (-1, or -2 for the transposed scaling). A NaN makes its whole block NaN, as far as the
    scale format can say so. `global_scale` is in the convention that the recipe stores; without it, it comes from x.
    """
    row = RECIPES[recipe] if isinstance(recipe, str) else recipe
    source = to_numpy(x, name)
    scaling = row.along(axis, source.ndim, name)
    if scaling is None:
        return ScaledTensor(like(row.encode(source, seed), x), row.format)
    values = _as_float32(source, name)
    stored = _global_scale(values, row.format, scaling, global_scale, name)
    data, scale = quantize_blocks(values, FORMATS[row.format], scaling, stored, seed)
    beside = None if stored is None else like(np.asarray(stored), x)
    return ScaledTensor(like(data, x), row.format, like(scale, x), scaling, beside)


def quantize_blocks(
    values: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray | None, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (codes, scales as stored) of float32 values: amax, rule, rounding of the scale, division, encoding."""
    with np.errstate(all="ignore"):
        blocks = to_blocks(values, scaling)
        amax = block_amax(blocks, scaling.grid(values.shape))
        beside = None if stored is None else over_grid(stored, amax)
        scale = store_scale(find_scale(amax, format, scaling, beside), scaling)
        quotient = divided(blocks, scale_values(scale, scaling), scaling, beside)
    return encode_payload(from_blocks(quotient, values.shape), format, scaling, seed), scale


def find_scale(amax: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray | None) -> np.ndarray:
    """Return the wanted scales of blocks, before they are rounded to the scale format."""
    floored = np.where(amax < np.float32(scaling.amax_floor), np.float32(scaling.amax_floor), amax)
    wanted = RULES[scaling.rule].find(floored, format, stored)
    if scaling.zero_quotient:
        wanted = np.where(wanted == 0, wanted.dtype.type(scaling.zero_quotient), wanted)
    return wanted if scaling.scale_range is None else np.clip(wanted, *map(wanted.dtype.type, scaling.scale_range))


def store_scale(wanted: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Return scales as a ScaledTensor holds them: float32 values, or codes of the scale format."""
    if scaling.scale_format == "float32":
        return wanted.astype(np.float32)
    format = FORMATS[scaling.scale_format]
    codes = format.encode(wanted)
    if scaling.zero_scale:
        codes = np.where(codes == 0, format.encode(np.float32(scaling.zero_scale)), codes)
    return codes


def scale_values(scale: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Return stored scales as float32."""
    return scale if scaling.scale_format == "float32" else FORMATS[scaling.scale_format].decode(scale)


def divided(blocks: np.ndarray, scale: np.ndarray, scaling: Scaling, stored: np.ndarray | None) -> np.ndarray:
    """Return blocks divided by their scales, as the scaling's payload arithmetic does it."""
    beside = None if stored is None else beside_blocks(stored)
    return PAYLOADS[scaling.payload].apply(blocks, beside_blocks(scale), beside)


def encode_payload(quotient: np.ndarray, format: Format, scaling: Scaling, seed: int | None) -> np.ndarray:
    """Return the codes of quotients under the scaling's rounding or convention."""
    if (scaling.rounding == "stochastic") != (seed is not None or scaling.rounding == "stochastic"):
        raise InputError(expected("seed", seed, "none", f"{scaling.rounding} rounding draws no random numbers"))
    if scaling.convention is not None:
        return format.encode(quotient, convention=scaling.convention)
    return format.encode(quotient, scaling.rounding, overflow="saturate", seed=seed)


def over_grid(stored: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return a global scale (scalar, or one per leading index) broadcast to the scale grid."""
    shape = stored.shape + (1,) * (grid.ndim - stored.ndim) if stored.ndim else ()
    return np.broadcast_to(stored.reshape(shape), grid.shape)


def _as_float32(source: np.ndarray, name: str) -> np.ndarray:
    """Return bfloat16, float16 or float32 input as float32; anything that would be rounded is an error."""
    if source.dtype == np.float32:
        return source
    need = "float32, bfloat16 or float16"
    if source.dtype.kind not in "fV" or source.dtype == np.float64 or format_of(source).bits < 16:
        raise FormatError(
            expected(name, source.dtype, need, "scales are computed in float32")
        )
    return source.astype(np.float32)


def _global_scale(
    values: np.ndarray, format: str, scaling: Scaling, given: Array | float | None, name: str
) -> np.ndarray | None:
    if not scaling.has_global:
        if given is not None:
            raise FormatError(expected("global_scale", given, "None", "this recipe has no global scale"))
        return None
    if given is None:
        return _global_scale_of(values, format, scaling, name)
    stored = np.asarray(to_numpy(given, "global_scale"), np.float32)
    if stored.ndim and stored.shape != values.shape[:-2]:
        need = f"a scalar or one per leading index {values.shape[:-2]}"
        raise ShapeError(expected("global_scale", f"shape {stored.shape}", need))
    if not (np.isfinite(stored).all() and (stored >= 0).all()):
        raise FormatError(expected("global_scale", stored, "finite, not negative"))
    return stored


def _global_scale_of(values: np.ndarray, format: str, scaling: Scaling, name: str) -> np.ndarray:
    """Return the global scale of x itself; a tensor of zeros gets 1 (or the amax 0 where the amax is stored)."""
    amax = np.float32(np.abs(values).max() if values.size else 0)
    if not np.isfinite(amax):
        raise FormatError(expected(name, f"an amax of {amax}", "finite values, or an explicit global_scale"))
    span = np.float32(global_range(scaling, format))
    with np.errstate(divide="ignore", over="ignore"):
        stored = {"multiply": amax / span, "divide": span / amax, "amax": amax}[scaling.global_scale]
    usable = scaling.global_scale == "amax" or (0 < stored < np.inf)
    return np.asarray(stored if usable else 1, np.float32)


def dequantize(t: ScaledTensor) -> Array:
    """Return payload * scale * global scale as float32: the exact product, rounded once."""
    wide = np.asarray(to_numpy(t.values()), np.float64)
    with np.errstate(all="ignore"):
        if t.scale is not None:
            # at most 11 + 24 + 24 significant bits meet here only for FP16 payloads; every recipe stays within 53
            wide = wide * expand(np.asarray(to_numpy(t.scale_values()), np.float64), t.scaling, t.shape)
        factor = t.global_factor()
        if factor is not None:
            wide = wide * factor.reshape(factor.shape + (1,) * (wide.ndim - factor.ndim) if factor.ndim else ())
        return like(wide.astype(np.float32), t.data)
