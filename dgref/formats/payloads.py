"""Payload arithmetic: how an element is divided by its scale, rounding by rounding, before it is encoded.

A row makes one float32 factor of a block's scale and the global scale, each operation rounded to float32, and says
whether elements are divided or multiplied by it. Where a scale is zero the quotient is zero, unless the row says
otherwise. A global scale that is stored as an amax arrives here as the encode scale that is made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dgref.formats.rules import FLOAT32_MAX, ONE
from dgref.registry import Registry

Factor = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
Operation = Literal["divide", "multiply", "multiply_and_clamp"]


@dataclass(frozen=True)
class Payload:
    """One way to divide: `factor(scale, global_scale)`, and what elements do with it."""

    name: str
    operation: Operation
    factor: Factor
    description: str

    @property
    def uses_global(self) -> bool:
        """Whether a global scale takes part, as the name then says."""
        return "global" in self.name

    def apply(self, x: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Return float32 elements divided or multiplied by their factors."""
        if self.operation == "divide":
            return x / factor
        return x * factor if self.operation == "multiply" else np.fmin(x * factor, FLOAT32_MAX)


PAYLOADS: Registry[Payload] = Registry("payload arithmetic")


def payload(operation: Operation, description: str) -> Callable[[Factor], Factor]:
    """Register a function as the payload arithmetic of its own name."""

    def register(factor: Factor) -> Factor:
        PAYLOADS.add(Payload(factor.__name__, operation, factor, description))
        return factor

    return register


def _or_infinity(scale: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    return np.where(scale == 0, np.float32(np.inf), divisor)


def _or_zero(scale: np.ndarray, multiplier: np.ndarray) -> np.ndarray:
    return np.where(scale == 0, np.float32(0), multiplier)


@payload("divide", "x / s")
def divide(scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    return _or_infinity(scale, scale)


@payload("multiply", "x * (1 / s)")
def multiply_reciprocal(scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    return _or_zero(scale, ONE / scale)


@payload("divide", "x / max(s, 2^-126): the smallest E8M0 scale is a subnormal that some compilers flush")
def divide_by_normal(scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    return np.maximum(scale, np.float32(2.0**-126))


@payload("multiply", "x * (1 / s), or x itself where s is 2^-127")
def multiply_reciprocal_of_normal(scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    return np.where(scale == np.float32(2.0**-127), ONE, ONE / scale)


@payload("multiply_and_clamp", "x * rcp.ftz(s): a scale of 2^-127 flushes, its reciprocal is Inf, NaN becomes +max")
def multiply_flushed_reciprocal(scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    return ONE / np.where(scale < np.float32(2.0**-126), np.float32(0), scale)


@payload("divide", "x / (s * global)")
def divide_by_scale_times_global(scale: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return _or_infinity(scale, scale * stored)


@payload("divide", "x / (s / global)")
def divide_by_scale_over_global(scale: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return _or_infinity(scale, scale / stored)


@payload("multiply", "x * ((1 / global) / s)")
def multiply_reciprocal_global_over_scale(scale: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return _or_zero(scale, (ONE / stored) / scale)


@payload("multiply", "x * min(1 / (s * (1 / global)), fp32 max): a scale that rounded to zero saturates its block")
def multiply_reciprocal_of_scale_over_global(scale: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return np.minimum(ONE / (scale * (ONE / stored)), FLOAT32_MAX)
