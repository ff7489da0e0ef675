"""What the derived bound sees of an arithmetic and of the operands' rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from dgref.errors import InputError, expected
from dgref.formats.element import FORMATS
from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference import bound_engine as engine
from dgref.reference.arithmetic import Arithmetic
from dgref.reference.exact_operand import decode64
from dgref.reference.tensor_core import OUTPUT_MANTISSA, TensorCore

Order = Literal["ascending", "instructions", "any", "rounded"]


SHORT_SCALES = ("float8_e8m0fnu", "float8_e4m3fn")  # of so few bits that 16 hold an FP8 or FP4 element times one


@dataclass(frozen=True)
class Plan:
    """What the recurrence needs to know of an implementation.

    It has the chains, promotions, splits and scale products of `arithmetic`, and the accumulator of `core`. Within a
    chain it takes K in `order`: "ascending", or in whole "instructions" of consecutive K, in any order and any number
    of further chains, or in "any" order; or without a tensor core, products and sums "rounded" to nearest in fp32, in
    any order. If `dequantised`, elements are multiplied by their scale and the global factor in fp32 beforehand.
    """

    arithmetic: Arithmetic
    core: TensorCore
    order: Order
    dequantised: bool = False

    def __post_init__(self) -> None:
        core = self.core
        one_grid = core.fraction_bits == OUTPUT_MANTISSA[core.output] and core.c == "aligned" and core.group == 1
        if self.order == "instructions" and not one_grid:
            need = "a core that truncates its terms, C among them, and its results to as many bits"
            raise InputError(expected("order instructions", core.name, need))

    @property
    def terms(self) -> int:
        """The number of terms that one alignment truncates, C included."""
        return self.core.step // self.core.group + 1

    @property
    def widths(self) -> tuple[float, int, float, bool]:
        """The unit of truncation, the result's mantissa bits, the smallest alignment, whether C is one of the terms."""
        core = self.core
        aligned = core.c == "aligned"
        return 2.0**-core.fraction_bits, OUTPUT_MANTISSA[core.output], 2.0 ** max(core.floor, -1000), aligned

    @property
    def grid(self) -> tuple[float, float]:
        """The unit of truncation, of terms and of results alike, and the smallest alignment of a narrow accumulator."""
        return 2.0**-self.core.fraction_bits, 2.0**self.core.floor

    @property
    def scaled_outside(self) -> bool:
        return self.arithmetic.scales in ("product", "each")

    @property
    def scale_roundings(self) -> int:
        """Roundings between a chain and its scaled value; an fma does the last one inside the addition."""
        return (1 if self.arithmetic.promotion == "fma" else 2) if self.scaled_outside else 0


@dataclass(frozen=True)
class Side:
    """The chosen rows of one matrix operand, and the relative error of bringing them into the core's format."""

    tensor: ScaledTensor
    rows: np.ndarray
    batch: tuple[int, ...]
    plan: Plan
    rounding: float

    def take(self, part: slice) -> Side:
        """Return the same side for a part of its rows."""
        return replace(self, rows=self.rows[part])

    @cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """What the multiplier sees of the rows, and the power of two that each element aligns by."""
        codes = to_numpy(self.tensor.data)[self.batch][self.rows]
        values = finite(decode64(self.tensor.format, codes))
        anchors = engine.anchors(values, FORMATS[self.tensor.format].emin)
        if self.rounding:
            anchors *= 2.0  # rounding an operand may carry into the next binade
        if self.plan.dequantised:
            values, anchors = (
                values * finite(self._own_factor()),
                anchors * engine.binade(abs(finite(self._own_factor()))),
            )
        if self.plan.arithmetic.scales != "core" or self.tensor.scale is None:
            return values, anchors
        scales = finite(self._grid())
        width = self.tensor.scaling.extents(self.tensor.shape)[1]
        scales = np.ascontiguousarray(np.repeat(scales, width, axis=1)[:, : codes.shape[1]])
        scale_anchors = engine.anchors(scales, -1000)
        grouped = self.plan.core.group > 1  # a group's exact sum is aligned by its scales alone
        return values * scales, scale_anchors if grouped else anchors * scale_anchors

    def scale(self, start: int, stop: int) -> np.ndarray:
        """Return the one scale of each row that multiplies a chain from outside."""
        if self.tensor.scale is None:
            return np.ones(self.rows.size)
        width = self.tensor.scaling.extents(self.tensor.shape)[1]
        if start // width != max(stop - 1, start) // width:
            raise InputError(expected("chain", f"K {start}..{stop}", f"within one scale block of {width}"))
        return finite(self._grid()[:, start // width])

    def unmixed(self) -> np.ndarray:
        """Return which rows hold neither NaN nor Inf."""
        payload = decode64(self.tensor.format, to_numpy(self.tensor.data)[self.batch][self.rows])
        rows = np.isfinite(payload).all(axis=1) & np.isfinite(self._own_factor())
        return rows if self.tensor.scale is None else rows & np.isfinite(self._grid()).all(axis=1)

    def overflowing(self) -> np.ndarray:
        """Return which rows hold a value that bringing it into the core's format may make Inf."""
        if not (self.rounding or self.plan.dequantised):
            return np.zeros(self.rows.size, bool)
        return (np.abs(self.seen[0]) > FORMATS["tfloat32"].max).any(axis=1)

    def factor(self) -> float:
        """Return the global factor that multiplies the finished sum."""
        return 1.0 if self.plan.dequantised else self._own_factor()

    def _own_factor(self) -> float:
        """Return the global factor of the matrix."""
        factor = self.tensor.global_factor()
        return 1.0 if factor is None else float(np.broadcast_to(factor, self.tensor.shape[:-2])[self.batch])

    def _grid(self) -> np.ndarray:
        height = self.tensor.scaling.extents(self.tensor.shape)[0]
        return to_numpy(self.tensor.scale_values())[self.batch][self.rows // height].astype(np.float64)


def dequantising(tensor: ScaledTensor) -> float:
    """Return the relative error of multiplying elements by their scale and by the global factor in fp32."""
    if tensor.global_factor() is None:
        roundings = int(tensor.scale is not None and tensor.scaling.scale_format not in SHORT_SCALES)
    else:  # it may multiply the scale first; a divisor may be inverted
        roundings = 1 + (tensor.scale is not None) + (tensor.scaling.global_scale == "divide")
    return roundings * 2.0**-24 * (1 + 2.0**-20)


def input_rounding(tensor: ScaledTensor, chosen: str | None, core: TensorCore) -> float:
    """Return the relative error of bringing an operand into the format that the core multiplies."""
    own = FORMATS[tensor.format].mantissa_bits
    if chosen and FORMATS[chosen].mantissa_bits < own:
        return 2.0 ** -(FORMATS[chosen].mantissa_bits + 1)
    if tensor.format == "float32" and core.format == "tfloat32":
        return 2.0 ** -FORMATS["tfloat32"].mantissa_bits  # the hardware drops the low bits
    return 0.0


def finite(values: np.ndarray) -> np.ndarray:
    """Return float64 values with zeros for what is not finite."""
    return np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
