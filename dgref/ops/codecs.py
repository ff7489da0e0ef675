"""Rows of conversions: what every payload and every scale goes through before a product sees it."""

from __future__ import annotations

from dgref.formats import FORMATS, RECIPES
from dgref.ops.op import Op
from dgref.ops.problem import Constraint, Operand, Param, Problem
from dgref.reference.codecs import cast, quantise

PLAIN = ("float32", "bfloat16", "float16")
ROUNDINGS = ("nearest_even", "nearest_away", "toward_zero", "up", "down")
DESTINATIONS = tuple(name for name, row in FORMATS.items() if row.storage_bits <= 16)


def _knows_format(p: Problem) -> bool:
    if not p["convention"]:
        return True
    from dgref.formats.conventions import CONVENTIONS

    return p.out is None or p.out in CONVENTIONS[p["convention"]].conversions


CAST = Op(
    name="cast",
    summary="conversion of values to a format of 16 bits or fewer, under a rounding or a library's convention",
    equation="y[m,n] = round(x[m,n])",
    axes="m n",
    inputs=(Operand("x", "m n", "plain", PLAIN, "values to convert"),),
    outputs=(Operand("y", "m n", "codes", DESTINATIONS, "codes"),),
    reference=cast,
    multiply_adds=lambda p, inputs: 0,
    params=(
        Param("convention", "", "whose NaN, overflow and ties; empty for `rounding`"),
        Param("rounding", "nearest_even", "how ties and the rest are rounded", ROUNDINGS),
    ),
    constraints=(Constraint("convention", "one that converts to `out`", _knows_format),),
    out_formats=DESTINATIONS,
    takes_arithmetic=False,
    joins_rows=lambda p, shape: True,
)


def _grid(p: Problem) -> tuple[int, ...]:
    scaling = RECIPES[p["recipe"]].scaling
    return (0, 0) if scaling is None else scaling.grid(p.shape("m n"))


def _whole_blocks(p: Problem, shape: tuple[int, ...]) -> bool:
    """Return whether no block of scales, and no global scale, reaches over the rows of two matrices."""
    scaling = RECIPES[p["recipe"]].scaling
    rows = scaling.block[0] if scaling else 1
    return not (scaling and scaling.has_global) and rows > 0 and (len(shape) < 2 or shape[-2] % rows == 0)


QUANTIZE = Op(
    name="quantize",
    summary="payload codes, scales and global scale of values under a recipe",
    equation="data[m,n], scale[m',n'] with x ~ data * scale",
    axes="m n",
    inputs=(Operand("x", "m n", "plain", PLAIN, "values to quantise"),),
    outputs=(
        Operand("data", "m n", "codes", default=lambda p: RECIPES[p["recipe"]].format),
        Operand("scale", "m_scale n_scale", "codes", default=lambda p: RECIPES[p["recipe"]].scaling.scale_format),
        Operand(
            "global_scale",
            "",
            "codes",
            ("float32",),
            when=lambda p: RECIPES[p["recipe"]].scaling.has_global,
            default=lambda p: "float32",
        ),
    ),
    reference=quantise,
    multiply_adds=lambda p, inputs: 0,
    params=(Param("recipe", "mxfp8", "which recipe"),),
    constraints=(
        Constraint(
            "recipe",
            "a recipe with scales",
            lambda p: p["recipe"] in RECIPES and RECIPES[p["recipe"]].scaling is not None,
        ),
    ),
    derived={"m_scale": lambda p: _grid(p)[0], "n_scale": lambda p: _grid(p)[1]},
    takes_arithmetic=False,
    joins_rows=_whole_blocks,
)
ROWS = (CAST, QUANTIZE)
