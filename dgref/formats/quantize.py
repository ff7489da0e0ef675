"""Quantise to a recipe and back: what comes in, what is refused, and the global scale of a whole tensor."""

from __future__ import annotations

import numpy as np

from dgref.errors import FormatError, ShapeError, expected
from dgref.formats.blockwise import quantize_blocks
from dgref.formats.conventions import CONVENTIONS
from dgref.formats.element import FORMATS, Array, Format
from dgref.formats.hadamard import rotate
from dgref.formats.native import formats_by_dtype, like, native_names, refuse_packed, to_numpy
from dgref.formats.payloads import PAYLOADS
from dgref.formats.recipes import RECIPES, Recipe
from dgref.formats.rules import RULES
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor, expand, global_range

_FAST_FROM = 1 << 15  # elements; below, importing the compiled loops costs more than they save
_CACHED = 1 << 18  # elements whose temporaries stay in the cache


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

    Blocks lie along `axis`: the last one, or the one before for the transposed scaling. A NaN makes its whole block
    NaN wherever the scale format can say so. `global_scale` is in the convention that the recipe stores, a scalar or
    one per leading index; without it, it comes from x, which must then be finite. `seed` belongs to recipes that draw.
    """
    row = recipe if isinstance(recipe, Recipe) else RECIPES[recipe]
    refuse_packed(x, name)
    source = _checked(to_numpy(x, name), row, name)
    scaling = row.along(axis, source.ndim, name)
    _check_seed(row, seed)
    _check_global(scaling, global_scale)
    if scaling is None:
        return ScaledTensor(like(FORMATS[row.format].encode(source), x), row.format)
    values = source.astype(np.float32, copy=False)
    if scaling.hadamard != "no":
        values = _rotated(values, scaling, axis, seed)
    stored = _stored_global(values, row.format, scaling, global_scale, name)
    drawn = seed if scaling.rounding == "stochastic" else None
    data, scale = _quantize_blocks(values, FORMATS[row.format], scaling, stored, drawn)
    beside = None if stored is None else like(stored, x)
    return ScaledTensor(like(data, x), row.format, like(scale, x), scaling, beside)


def _quantize_blocks(
    values: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray | None, seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    if values.size >= _FAST_FROM:
        from dgref.formats import fast_quantize

        if fast_quantize.can_quantize(format, scaling):
            fast = fast_quantize.quantize_blocks(values, format, scaling, stored)
            if fast is not None:
                return fast
        if seed is None and values.ndim > 1:  # words of stochastic rounding count through the whole tensor
            return _by_rows(values, format, scaling, stored)
    return quantize_blocks(values, format, scaling, stored, seed)


def _by_rows(
    values: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Quantise some rows of blocks at a time, so that what lies between the steps stays in the cache."""
    height, rows = values.shape[-2], scaling.extents(values.shape)[0]
    step = max(_CACHED // (values.size // height * rows), 1) * rows
    parts = [
        quantize_blocks(values[..., start : start + step, :], format, scaling, stored)
        for start in range(0, height, step)
    ]
    codes, scales = zip(*parts, strict=True)
    return np.concatenate(codes, axis=-2), np.concatenate(scales, axis=-2)


def dequantize(t: ScaledTensor) -> Array:
    """Return payload * scale * global scale as float32: the exact product, rounded once.

    A rotated tensor stays rotated; `hadamard.rotate_back` undoes that.
    """
    # without a global scale one float32 product is the exact one rounded once; with it, E2M1 * E4M3 * float32 has at
    # most 30 significant bits, which float64 holds
    if not isinstance(t, ScaledTensor):
        raise FormatError(expected("t", type(t).__name__, "a ScaledTensor, as quantize returns"))
    t.validate("t")
    width = np.float32 if t.global_scale is None else np.float64
    wide = np.asarray(to_numpy(t.values()), width)
    with np.errstate(all="ignore"):
        if t.scale is not None:
            wide = wide * expand(to_numpy(t.scale_values()), t.scaling, t.shape).astype(width, copy=False)
        if t.global_scale is not None:
            numerator, denominator = t.global_fraction()
            wide = wide * _beside(numerator, wide) / _beside(denominator, wide)
        return like(wide.astype(np.float32, copy=False), t.data)


def _beside(factor: np.ndarray, wide: np.ndarray) -> np.ndarray:
    return factor.reshape(factor.shape + (1,) * (wide.ndim - factor.ndim)) if factor.ndim else factor


def _check_seed(row: Recipe, seed: int | None) -> None:
    draws = row.scaling is not None and row.scaling.draws
    if draws != (seed is not None):
        need = "an integer: what it draws is reproducible or an error" if draws else "None: it draws nothing"
        raise FormatError(expected("seed", seed, need, f"recipe {row.name}"))


def _checked(source: np.ndarray, row: Recipe, name: str) -> np.ndarray:
    """Return values that a recipe takes as they are; integers are codes to everyone else, so they are refused."""
    format = formats_by_dtype().get(source.dtype)
    if row.scaling is None:
        if format is None and source.dtype != np.float64:
            raise FormatError(expected(name, source.dtype, f"float64 or one of {native_names()}", "values, not codes"))
        return source
    if format is None or format.bits < 16:
        need = "float32, bfloat16 or float16"
        raise FormatError(expected(name, source.dtype, need, "scales are computed in float32"))
    _check_rules(row)
    _check_nan(source, row, name)
    return source


def _check_rules(row: Recipe) -> None:
    """Refuse a scaling whose steps disagree about a global scale: dequantising would not undo it."""
    scaling = row.scaling
    for kind, step in (("rule", RULES[scaling.rule]), ("payload", PAYLOADS[scaling.payload])):
        if step.uses_global != scaling.has_global:
            need = f"one {'under' if scaling.has_global else 'without'} a global scale"
            raise FormatError(expected(f"{kind} of recipe {row.name}", step.name, need, scaling.global_scale))


def _check_nan(source: np.ndarray, row: Recipe, name: str) -> None:
    """Refuse NaN where the recipe's convention leaves its code to chance."""
    convention = row.scaling.convention
    if convention is None or CONVENTIONS[convention].conversion(FORMATS[row.format]).nan != "refuse":
        return
    where = np.isnan(source)
    if where.any():
        first = tuple(int(i) for i in np.argwhere(where)[0])
        raise FormatError(expected(name, f"NaN at {first}", "none", f"recipe {row.name} leaves its code to chance"))


def _rotated(values: np.ndarray, scaling: Scaling, axis: int, seed: int | None) -> np.ndarray:
    drawn = seed if scaling.hadamard == "seeded" else None
    last = np.ascontiguousarray(np.moveaxis(values, axis, -1))
    return np.moveaxis(rotate(last, scaling.hadamard, drawn), -1, axis)


def _check_global(scaling: Scaling | None, given: Array | float | None) -> None:
    if given is not None and (scaling is None or not scaling.has_global):
        raise FormatError(expected("global_scale", given, "None", "this recipe has no global scale"))


def _stored_global(
    values: np.ndarray, format: str, scaling: Scaling, given: Array | float | None, name: str
) -> np.ndarray | None:
    if not scaling.has_global:
        return None
    if given is None:
        return _global_of(values, format, scaling, name)
    stored = to_numpy(given, "global_scale")
    if stored.dtype.kind not in "fiu":
        raise FormatError(expected("global_scale", stored.dtype, "float32, a float or one per leading index"))
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        stored = np.asarray(stored, np.float32)
    if stored.ndim and stored.shape != values.shape[:-2]:
        need = f"a scalar or one per leading index {values.shape[:-2]}"
        raise ShapeError(expected("global_scale", f"shape {stored.shape}", need))
    lowest = stored >= 0 if scaling.global_scale == "amax" else stored > 0
    if not (np.isfinite(stored) & lowest).all():
        raise FormatError(expected("global_scale", given, "finite and positive as float32"))
    return stored


def _global_of(values: np.ndarray, format: str, scaling: Scaling, name: str) -> np.ndarray:
    """Return the global scale of a whole tensor: 1 where amax is zero or so small that the scale overflows."""
    amax = _amax(values)
    if not np.isfinite(amax):
        raise FormatError(expected(name, f"an amax of {amax}", "finite values, or an explicit global_scale"))
    with np.errstate(all="ignore"):
        stored = _global_from(amax, np.float32(global_range(scaling, format)), scaling)
    usable = scaling.global_scale == "amax" or 0 < stored < np.inf
    return np.asarray(stored if usable else 1, np.float32)


def _amax(values: np.ndarray) -> np.float32:
    if values.size < _FAST_FROM:
        return np.float32(np.abs(values).max(initial=0))
    from dgref.formats.fast_quantize import amax_of

    return amax_of(values)


def _global_from(amax: np.float32, span: np.float32, scaling: Scaling) -> np.ndarray:
    """Return a global scale in the form it is stored, each step rounded to the scaling's `global_format`."""
    step = FORMATS[scaling.global_format]

    def rounded(value: np.float32) -> np.ndarray:
        return step.decode(step.encode(np.asarray(value)))

    if scaling.global_scale == "amax":
        return amax
    if scaling.global_scale == "multiply":
        return rounded(amax / span)
    return rounded(span * rounded(np.float32(1) / amax)) if scaling.global_rule == "product" else rounded(span / amax)
