"""How far sums that follow a contraction can be from exact, in any order of adding; derived in docs/bound.md.

A sum of n terms of magnitude t_i, each product and each addition rounded with relative error u, is off by at most
((1 + u)^(n + r) - 1) * sum(t_i), where r counts the roundings of one term before it is added (Higham, Accuracy and
Stability of Numerical Algorithms, 4.2). Everything is computed in float64 and inflated over its own roundings.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgref.formats.element import FORMATS
from dgref.formats.native import to_numpy
from dgref.reference.bound_sum import largest_of
from dgref.reference.engine_operand import as_scaled
from dgref.reference.limits import INFLATION, LIMITS, MINUS, NAN, OVERFLOW, PLUS, around

_SMALLEST = 2.0**-149  # of fp32: what one rounding that underflows may lose


def growth(additions: int, unit: float) -> float:
    """Return (1 + u)^n - 1."""
    return float(np.expm1(additions * np.log1p(unit)))


def square_sum_limits(a: Any) -> np.ndarray:
    """Return the limits of the fp32 sums of squares of the rows of a[..., rows, K]."""
    values = np.asarray(to_numpy(as_scaled(a).values(), "a"), np.float64)
    squares = (values * values).sum(axis=-1)
    count = values.shape[-1] + 2  # one rounding of a product, one of the exact result itself
    limit = (squares * growth(count, 2.0**-23) + count * _SMALLEST) * INFLATION
    limits = around(squares, np.where(np.isfinite(limit), limit, 0.0))
    limits["besides"] |= np.where(squares + limit >= OVERFLOW, PLUS, 0)
    return limits


def logit_limits(scores: np.ndarray, weights: np.ndarray, key_scale: Any, out: str, precision: str) -> np.ndarray:
    """Return the limits of sum_h weights[t, h] * relu(scores[t, h, key]) * key_scale[key], rounded to `out`.

    `scores` [t, h, keys] are LIMITS. ReLU never enlarges an error, makes zero of -Inf, and may drop a NaN.
    """
    weight, scale = weights.astype(np.float64)[..., None], np.float64(1.0 if key_scale is None else key_scale)
    relu = [np.maximum(np.where(np.isnan(end), 0.0, end), 0.0) for end in (scores["low"], scores["high"])]
    relu[0] = np.where(scores["besides"] & (MINUS | NAN), 0.0, relu[0])
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = _ends([end * weight for end in relu], axis=1)
        low, high = _ends([low * scale, high * scale])
        size = (np.abs(weight) * relu[1]).sum(axis=1) * np.maximum(np.abs(scale), 1.0)
        unit = 2.0**-23 if precision == "float32" else 2.0**-7
        roundings = scores.shape[1] + 6  # heads, the operands' own roundings, the scale
        last = 2.0 ** -FORMATS[out].mantissa_bits  # an ulp: half for the result's rounding, half for the exact one's
        lost = size * growth(roundings, unit)
        lost = (lost + (size + lost) * last + roundings * _SMALLEST) * INFLATION
    return _with_overflow(low, high, lost, _overflows(scores, weight, relu[1], scale, size + lost, precision, out))


def _ends(pair: list[np.ndarray], axis: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper ends of intervals given by two ends in any order; summed along an axis."""
    low, high = np.minimum(*pair), np.maximum(*pair)
    return (low, high) if axis is None else (low.sum(axis=axis), high.sum(axis=axis))


def _overflows(
    scores: np.ndarray, weight: np.ndarray, largest: np.ndarray, scale: np.ndarray, size: np.ndarray, *formats: str
) -> np.ndarray:
    """Return which infinities and NaN may come out besides the interval."""
    brink = min(largest_of(name) for name in formats)
    infinite = (scores["besides"] & PLUS != 0) | np.isinf(largest)
    up, down = ((infinite & (sign * weight > 0)).any(axis=1) for sign in (1, -1))
    up, down = (side | ((size >= brink) & (sign * weight > 0).any(axis=1)) for side, sign in ((up, 1), (down, -1)))
    up, down = np.where(scale < 0, down, up), np.where(scale < 0, up, down)
    undefined = (scores["besides"] & NAN != 0).any(axis=1) | (infinite & (weight == 0)).any(axis=1)
    undefined |= np.isnan(weight).any(axis=1) | np.isnan(scale) | ((up | down) & (scale == 0)) | (up & down)
    return np.where(up, PLUS, 0) | np.where(down, MINUS, 0) | np.where(undefined, NAN, 0)


def _with_overflow(low: np.ndarray, high: np.ndarray, lost: np.ndarray, besides: np.ndarray) -> np.ndarray:
    """Return limits: an interval widened by what is lost, unless it is infinite, and what may come out besides."""
    limits = np.zeros(low.shape, LIMITS)
    lost = np.where(np.isfinite(lost), lost, 0.0)
    limits["low"], limits["high"], limits["besides"] = low - lost, high + lost, besides
    return limits
