"""Exact sums of anything: arrays of unevaluated float64 terms that add, multiply and round once at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dgref.errors import InputError, expected
from dgref.formats.tensor import ScaledTensor
from dgref.reference import exact_engine as engine
from dgref.reference.exact_operand import as_tensor, exact_planes, two_product
from dgref.reference.exact_target import target

CHUNK = 1 << 22  # terms rounded at once


@dataclass(frozen=True)
class ExactSum:
    """An array of exact numbers, each the sum of the last axis of `terms`.

    Products multiply the number of terms: meant for short formulas, not for matrix products. Products must lie
    between 2^-900 and 2^900, or be zero; NaN and Inf follow IEEE 754.
    """

    terms: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> ExactSum:
        """Return values of any float format as exact numbers."""
        return cls(np.asarray(values).astype(np.float64)[..., None])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array of numbers."""
        return self.terms.shape[:-1]

    def __add__(self, other: ExactSum) -> ExactSum:
        shape = np.broadcast_shapes(self.shape, other.shape)
        parts = [np.broadcast_to(x.terms, (*shape, x.terms.shape[-1])) for x in (self, other)]
        return ExactSum(np.concatenate(parts, axis=-1))

    def __neg__(self) -> ExactSum:
        return ExactSum(-self.terms)

    def __sub__(self, other: ExactSum) -> ExactSum:
        return self + -other

    def __mul__(self, other: ExactSum) -> ExactSum:
        product, lost = two_product(self.terms[..., :, None], other.terms[..., None, :])
        _check_range(product, self.terms[..., :, None], other.terms[..., None, :])
        parts = np.stack([product, lost] if np.any(lost) else [product], axis=-1)
        return ExactSum(parts.reshape(*parts.shape[:-3], -1))

    def sum(self, axis: int = -1) -> ExactSum:
        """Return the exact sum over one axis of the array."""
        moved = np.moveaxis(self.terms, axis if axis >= 0 else axis - 1, -1)
        return ExactSum(moved.reshape(*moved.shape[:-2], -1))

    def round(self, out: str = "float32") -> np.ndarray:
        """Return the numbers rounded once to nearest even, as a native array of `out`."""
        goal = target(out)
        flat = np.ascontiguousarray(self.terms.reshape(int(np.prod(self.shape)), -1))
        with np.errstate(over="ignore", invalid="ignore"):
            return engine.exact_sums(flat, *goal.rounding).astype(goal.dtype).reshape(self.shape)


def exact_dot(a: np.ndarray, b: np.ndarray, out: str = "float32") -> np.ndarray:
    """Return the sum over the last axis of a * b, rounded once; leading axes broadcast."""
    return (ExactSum.of(a) * ExactSum.of(b)).sum().round(out)


def exact_sum_of_squares(a: ScaledTensor | np.ndarray, out: str = "float32") -> np.ndarray:
    """Return the sum of squares of each row's dequantised values, rounded once."""
    tensor = as_tensor(a, "a")
    result = np.empty(tensor.shape[:-1], target(out).dtype)
    for batch in np.ndindex(*tensor.shape[:-2]):
        for rows in _row_chunks(*tensor.shape[-2:]):
            exact = exact_planes(tensor, rows, batch)
            if exact.divisor != 1.0:
                raise InputError(
                    expected("a.global_scale", "one that divides", "a power of two, or one that multiplies")
                )
            values = ExactSum(np.moveaxis(exact.planes, 0, -1))
            result[batch][rows] = (values * values).sum().round(out)
    return result


def _row_chunks(rows: int, width: int) -> Iterator[np.ndarray]:
    step = max(1, CHUNK // max(1, width))
    for start in range(0, rows, step):
        yield np.arange(start, min(start + step, rows))


def _check_range(product: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    magnitude = np.abs(product)
    bad = np.isfinite(x) & np.isfinite(y) & (x != 0) & (y != 0) & ~((magnitude > 2.0**-900) & (magnitude < 2.0**900))
    if np.any(bad):
        got = float(magnitude[bad].flat[0])
        raise InputError(expected("exact product", got, "a magnitude between 2^-900 and 2^900"))
