"""Dequantised operands without any rounding: float64 planes whose sum, over one divisor, is the exact value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dgref.errors import FormatError, InputError, ShapeError, expected
from dgref.formats.element import FORMATS
from dgref.formats.native import as_codes, format_of, to_numpy
from dgref.formats.tensor import ScaledTensor


@dataclass(frozen=True)
class Planes:
    """Rows of an operand: the exact values are the sum of `planes` [p, R, K] divided by `divisor`.

    More than one plane is needed only where payload, scale and factors together have more than 53 bits; a divisor
    other than 1 only for global scales that divide and are no powers of two.
    """

    planes: np.ndarray
    divisor: float

    @property
    def rounded(self) -> bool:
        """Whether the first plane alone is not yet the exact value."""
        return len(self.planes) > 1 or self.divisor != 1.0

    def nearest(self) -> np.ndarray:
        """Return the values in float64, each within three roundings of the exact one."""
        values = self.planes[0] if len(self.planes) == 1 else self.planes.sum(axis=0)
        return values if self.divisor == 1.0 else values / self.divisor


def as_tensor(operand: object, name: str) -> ScaledTensor:
    """Return an operand as a ScaledTensor of NumPy arrays with at least two axes."""
    if not isinstance(operand, ScaledTensor):
        array = to_numpy(operand, name)
        if array.dtype.kind in "iu":
            raise FormatError(expected(name, array.dtype, "a ScaledTensor, or an array whose dtype says its format"))
        operand = ScaledTensor(as_codes(array), format_of(array).name)
    if len(operand.shape) < 2:
        raise ShapeError(expected(name, f"shape {operand.shape}", "at least two axes, [rows, k]"))
    return operand


def exact_planes(tensor: ScaledTensor, rows: np.ndarray, batch: tuple[int, ...] = (), factor: float = 1.0) -> Planes:
    """Return chosen rows of one matrix of a tensor, times `factor`, without any rounding."""
    codes = to_numpy(tensor.data)[batch][rows]
    values = decode64(tensor.format, codes)
    if tensor.scale is not None:
        with np.errstate(invalid="ignore"):
            values = values * _row_scales(tensor, rows, batch, codes.shape[1])
    planes, divisor = [values], 1.0
    if tensor.global_scale is not None:
        leading = tensor.shape[:-2]
        multiplier, divisor = (float(np.broadcast_to(part, leading)[batch]) for part in tensor.global_fraction())
        planes = _times(planes, multiplier)
        if _is_power_of_two(divisor):
            planes, divisor = _times(planes, 1.0 / divisor), 1.0
    return Planes(np.ascontiguousarray(_times(planes, _checked_factor(factor))), divisor)


def decode64(format: str, codes: np.ndarray) -> np.ndarray:
    """Return the values of codes as float64, through a table where the format is small enough."""
    row = FORMATS[format]
    if row.storage_bits > 16:
        return row.decode(codes).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.take(row.decode(row.codes).astype(np.float64), codes)


def two_product(x: np.ndarray, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return the float64 product and what its rounding lost (Dekker, Veltkamp); exact while 2^-900 < |xy| < 2^900."""
    with np.errstate(invalid="ignore", over="ignore"):
        product = x * y
        x_high, y_high = _upper_half(x), _upper_half(y)
        x_low, y_low = x - x_high, y - y_high
        lost = ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low
    return product, np.where(np.isfinite(product), lost, 0.0)


def _upper_half(x: np.ndarray | float) -> np.ndarray | float:
    wide = x * 134217729.0  # 2^27 + 1
    return wide - (wide - x)


def _times(planes: list[np.ndarray] | np.ndarray, factor: float) -> np.ndarray:
    if factor == 1.0:
        return np.asarray(planes)
    products = [part for plane in planes for part in two_product(plane, factor)]
    kept = [part for i, part in enumerate(products) if i == 0 or np.any(part)]
    return np.stack(kept)


def _row_scales(tensor: ScaledTensor, rows: np.ndarray, batch: tuple[int, ...], width: int) -> np.ndarray:
    grid = to_numpy(tensor.scale)[batch]
    height, columns = tensor.scaling.extents(tensor.shape)
    values = decode64(tensor.scaling.scale_format, _codes(grid[rows // height], tensor.scaling.scale_format))
    return np.repeat(values, columns, axis=-1)[:, :width]


def _codes(grid: np.ndarray, format: str) -> np.ndarray:
    return grid.astype(np.float32, copy=False).view(np.uint32) if format == "float32" else grid


def _is_power_of_two(value: float) -> bool:
    return math.isfinite(value) and abs(math.frexp(value)[0]) == 0.5


def _checked_factor(factor: float) -> float:
    if math.isfinite(factor) and factor != 0 and not 2.0**-200 < abs(factor) < 2.0**200:
        raise InputError(expected("alpha", factor, "0, or a magnitude between 2^-200 and 2^200"))
    return float(factor)
