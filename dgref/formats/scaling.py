"""Scaling: which block shares a scale, how the scale is found, and how the payload is divided by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from dgref.errors import FormatError, ShapeError, choice, expected, whole_numbers
from dgref.formats.conventions import CONVENTIONS
from dgref.formats.element import FORMATS
from dgref.formats.payloads import PAYLOADS
from dgref.formats.rounding import check_rounding
from dgref.formats.rules import RULES

FULL = 0  # a block extent of FULL spans the whole axis: (1, FULL) is per row, (FULL, FULL) per tensor

GlobalScale = Literal["none", "multiply", "divide", "amax"]
GlobalRule = Literal["quotient", "product"]
FourOverSix = Literal["no", "mae", "mse"]
Hadamard = Literal["no", "sylvester", "seeded", "transformer_engine"]
_CHOICES = {
    "global_scale": GlobalScale,
    "global_rule": GlobalRule,
    "four_over_six": FourOverSix,
    "hadamard": Hadamard,
}
_TABLES = {
    "scale_format": FORMATS,
    "rule": RULES,
    "payload": PAYLOADS,
    "convention": CONVENTIONS,
    "global_format": FORMATS,
}


@dataclass(frozen=True)
class Scaling:
    """One scaling convention; every field is data, so that a library's convention is a row.

    `block` is (rows, columns) over the last two axes. `rule` (a row of RULES) turns a block's amax into a scale, and
    `payload` (a row of PAYLOADS) says how an element is divided by it, rounding by rounding.

    `global_scale` says what the one FP32 number beside the scales is: `multiply` stores amax / (max * scale_max) and
    dequantising multiplies by it, `divide` stores the reciprocal and dequantising divides, `amax` stores the amax.
    `scale_max` is the block scale that the largest block gets, the scale format's own largest value by default.
    """

    block: tuple[int, int]
    scale_format: str = "float32"
    rule: str = "amax_over_max"
    amax_floor: float = 0.0  # a block's amax is raised to this before the rule sees it
    global_scale: GlobalScale = "none"
    payload: str = "divide"
    zero_quotient: float = 0.0  # what a wanted scale of zero becomes, before it is clamped and rounded
    scale_range: tuple[float, float] | None = None  # scales are clamped to this before they are rounded
    zero_scale: float = 0.0  # what a scale that rounds to zero becomes
    scale_max: float | None = None
    global_rule: GlobalRule = "quotient"  # range / amax at once, or range * (1 / amax)
    global_format: str = "float32"  # what each step of that is rounded to
    convention: str | None = None  # a row of CONVENTIONS for the payload's own rounding
    rounding: str = "nearest_even"  # of the payload, where no convention says it
    four_over_six: FourOverSix = "no"  # each block scaled to 6 or to 4, whichever errs less by this
    hadamard: Hadamard = "no"  # signs of a 16-point transform first

    def __post_init__(self) -> None:
        object.__setattr__(self, "block", _block(self.block))
        for field, table in _TABLES.items():  # under its own name: an alias would be another scaling to `==`
            name = getattr(self, field)
            object.__setattr__(self, field, None if name is None and field == "convention" else table[name].name)
        for field, kind in _CHOICES.items():
            choice(field, getattr(self, field), get_args(kind))
        if check_rounding(self.rounding) != "nearest_even" and self.convention is not None:
            raise FormatError(expected("rounding", repr(self.rounding), "none of its own", f"{self.convention} rounds"))
        for field in ("amax_floor", "zero_quotient", "zero_scale"):
            _check_number(field, getattr(self, field))
        if self.scale_max is not None:
            _check_number("scale_max", self.scale_max, positive=True)
        if self.scale_range is not None:
            _check_range(self.scale_range)
        if self.four_over_six != "no" and not self.has_global:
            raise FormatError(expected("global_scale", "'none'", "one beside the blocks' own", "four_over_six"))

    @property
    def has_global(self) -> bool:
        """Whether one more FP32 scale lies beside the blocks' own."""
        return self.global_scale != "none"

    @property
    def draws(self) -> bool:
        """Whether quantising draws random numbers, so that it needs a seed."""
        return self.rounding == "stochastic" or self.hadamard == "seeded"

    def transposed(self) -> Scaling:
        """Return the same scaling for the transposed tensor."""
        return replace(self, block=(self.block[1], self.block[0]))

    def extents(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the block's (rows, columns) in a tensor of `shape`, FULL resolved."""
        rows, columns = _last_two(shape)
        return self.block[0] or max(rows, 1), self.block[1] or max(columns, 1)

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the logical scale grid of a tensor of `shape`; a vector has a vector of scales."""
        counts = tuple(-(-size // extent) for size, extent in zip(_last_two(shape), self.extents(shape), strict=True))
        return tuple(shape[:-2]) + counts if len(shape) > 1 else counts[1:]


def _block(block: tuple[int, int]) -> tuple[int, int]:
    extents = whole_numbers("block", block, FULL, ShapeError)
    if len(extents) != 2:
        raise ShapeError(expected("block", block, "(rows, columns), each positive or FULL"))
    return extents


def _check_number(field: str, value: float, positive: bool = False) -> None:
    number = isinstance(value, int | float | np.floating)
    if not number or not 0 <= value < np.inf or (positive and value == 0):
        need = "above zero" if positive else "of at least zero"
        raise FormatError(expected(field, repr(value), f"a finite number {need}"))


def _check_range(bounds: tuple[float, float]) -> None:
    if not isinstance(bounds, tuple) or len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1] < np.inf:
        raise FormatError(expected("scale_range", bounds, "(low, high) with 0 <= low <= high"))


def _last_two(shape: tuple[int, ...]) -> tuple[int, int]:
    if not shape:
        raise ShapeError(expected("shape", "a scalar", "at least one axis to scale along"))
    return (int(shape[-2]) if len(shape) > 1 else 1), int(shape[-1])
