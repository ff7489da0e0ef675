"""Scaling: which block shares a scale, how the scale is found, and how the payload is divided by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FULL = 0  # a block extent of FULL spans the whole axis: (1, FULL) is per row, (FULL, FULL) per tensor


@dataclass(frozen=True)
class Scaling:
    """One scaling convention; every field is data, so that a library's convention is a row.

    `block` is (rows, columns) over the last two axes. `rule` turns a block's amax into a scale. `payload` says how
    an element is divided by it, rounding by rounding.
    """

    block: tuple[int, int]
    scale_format: str = "float32"
    rule: str = "amax"
    amax_floor: float = 0.0
    global_scale: Literal["none", "multiply", "divide"] = "none"  # dequantize: value * scale [* or / global]
    payload: str = "divide"
