"""Payload arithmetic: how an element is divided by its scale, rounding by rounding, before it is encoded.

Every row takes float32 elements, their float32 scales and the global scale (broadcast alike); each operation rounds to
float32. Where a scale is zero the quotient is zero, unless the row says otherwise. A global scale that is stored as an
amax arrives here as the encode scale that is made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dgref.formats.rules import FLOAT32_MAX, ONE
from dgref.registry import Registry

Apply = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Payload:
    """One way to divide: `apply(elements, scale, stored_global_scale)`."""

    name: str
    apply: Apply
    description: str


PAYLOADS: Registry[Payload] = Registry("payload arithmetic")


def payload(description: str, *aliases: str) -> Callable[[Apply], Apply]:
    """Register a function as the payload arithmetic of its own name."""

    def register(apply: Apply) -> Apply:
        PAYLOADS.add(Payload(apply.__name__, apply, description), *aliases)
        return apply

    return register


def _or_zero(x: np.ndarray, scale: np.ndarray, quotient: np.ndarray) -> np.ndarray:
    return np.where(scale == 0, np.copysign(np.float32(0), x), quotient)


@payload("x / s")
def divide(x: np.ndarray, scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    return _or_zero(x, scale, x / scale)


@payload("x * (1 / s)")
def multiply_reciprocal(x: np.ndarray, scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    return _or_zero(x, scale, x * (ONE / scale))


@payload("x / max(s, 2^-126): the smallest E8M0 scale is a subnormal that some compilers flush")
def divide_by_normal(x: np.ndarray, scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    return x / np.maximum(scale, np.float32(2.0**-126))


@payload("x * (1 / s), or x itself where s is 2^-127")
def multiply_reciprocal_of_normal(x: np.ndarray, scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    return x * np.where(scale == np.float32(2.0**-127), ONE, ONE / scale)


@payload("x / (s * global)")
def divide_by_scale_times_global(x: np.ndarray, scale: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return _or_zero(x, scale, x / (scale * stored))


@payload("x / (s / global)")
def divide_by_scale_over_global(x: np.ndarray, scale: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return _or_zero(x, scale, x / (scale / stored))


@payload("x * ((1 / global) / s)")
def multiply_reciprocal_global_over_scale(x: np.ndarray, scale: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return _or_zero(x, scale, x * ((ONE / stored) / scale))


@payload("x * min(1 / (s * (1 / global)), fp32 max): a scale that rounded to zero saturates its block")
def multiply_reciprocal_of_scale_over_global(x: np.ndarray, scale: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return x * np.minimum(ONE / (scale * (ONE / stored)), FLOAT32_MAX)


@payload("x * rcp.ftz(s): a scale of 2^-127 flushes, its reciprocal is Inf, and NaN (0 * Inf) becomes +max")
def multiply_flushed_reciprocal(x: np.ndarray, scale: np.ndarray, stored: np.ndarray | None) -> np.ndarray:
    flushed = np.where(scale < np.float32(2.0**-126), np.float32(0), scale)
    return np.fmin(x * (ONE / flushed), FLOAT32_MAX)
