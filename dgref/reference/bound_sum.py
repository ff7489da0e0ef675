"""A sum under way in the derived bound: exactly, how far an implementation may be, how far up and down it may get."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgref.formats.element import FORMATS
from dgref.reference import bound_engine as engine
from dgref.reference.limits import OVERFLOW

HALF_ULP = 2.0**-24  # of fp32, relative
TINY = 2.0**-150  # half the smallest fp32: the absolute error of a rounding that underflows


@dataclass
class Sum:
    """Exact totals of a tile with the limit on |computed - total| of a result that never overflowed.

    No partial sum gets further up than `above` or further down than `below`; both are magnitudes, and Inf once an
    overflow was possible. `undefined` says where a NaN is possible although no two infinities meet.
    """

    total: np.ndarray
    error: np.ndarray
    above: np.ndarray
    below: np.ndarray
    undefined: np.ndarray

    @classmethod
    def zero(cls, shape: tuple[int, ...]) -> Sum:
        """Return a sum of nothing."""
        return cls(*(np.zeros(shape) for _ in range(4)), np.zeros(shape, bool))

    @property
    def reach(self) -> tuple[np.ndarray, np.ndarray]:
        """How far up and down any partial sum may get, error included."""
        return self.above + self.error, self.below + self.error

    def add(self, other: Sum) -> None:
        """Add another sum, before anything is rounded."""
        for name in ("total", "error", "above", "below"):
            getattr(self, name).__iadd__(getattr(other, name))
        self.undefined |= other.undefined

    def add_exactly(self, values: np.ndarray) -> None:
        """Add finite values that carry no error."""
        self.total += values
        self.above += np.maximum(values, 0)
        self.below += np.maximum(-values, 0)

    def round(self, mantissa_bits: int) -> None:
        """Add half an ulp of what is rounded to nearest."""
        self.error += 0.5 * engine.ulps(np.abs(self.total) + self.error, mantissa_bits)

    def settle(self, largest: float = OVERFLOW, factor: np.ndarray | float = 1.0) -> None:
        """Note where a value stored now, times `factor`, may exceed what its format holds."""
        for name in ("above", "below"):
            side = getattr(self, name)
            side[(side + self.error) * factor >= largest] = np.inf

    def multiply(self, factors: tuple, roundings: int) -> None:
        """Multiply by up to three factors one after the other, in any order, each product rounded to fp32."""
        factor, most = _products([np.asarray(each, np.float64) for each in factors])
        size = np.abs(factor)
        magnitude = (np.abs(self.total) + self.error) * (size + roundings * TINY)
        self.settle(factor=most)
        self._meet_extreme(factor, most)
        relative = roundings * HALF_ULP * (1 + 2.0**-20)
        self.error *= size
        self.error += relative * magnitude
        self.error += roundings * (magnitude / np.maximum(size, TINY) + most + 1) * TINY
        self.total *= factor
        self._turn(factor)

    def _meet_extreme(self, factor: np.ndarray, most: np.ndarray) -> None:
        """Note where a product of factors that overflowed or vanished meets a sum that may be zero or infinite."""
        infinite, vanishing = most >= OVERFLOW, np.abs(factor) < 2.0**-126
        self.undefined |= infinite & (np.abs(self.total) <= self.error)
        self.undefined |= vanishing & (np.isinf(self.above) | np.isinf(self.below))
        for side in (self.above, self.below):
            side[infinite & (side + self.error > 0)] = np.inf

    def _turn(self, factor: np.ndarray) -> None:
        """Scale the reach, which a negative factor turns round."""
        with np.errstate(invalid="ignore"):
            up, down = (np.nan_to_num(side * np.abs(factor), nan=np.inf, posinf=np.inf) for side in self._sides)
        self.above, self.below = np.where(factor < 0, down, up), np.where(factor < 0, up, down)

    @property
    def _sides(self) -> tuple[np.ndarray, np.ndarray]:
        return self.above, self.below


def _products(factors: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the product of all factors, and the largest magnitude of any product of some of them; at least 1."""
    whole, most = np.ones(()), np.ones(())
    for factor in factors:
        whole, most = whole * factor, most * np.maximum(np.abs(factor), 1.0)
    return whole, most


def largest_of(format: str) -> float:
    """Return the magnitude from which on a format of 16 bits or more rounds to Inf, or a little less."""
    return OVERFLOW if format == "float32" else FORMATS[format].max
