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
from dgref.reference.operand import as_scaled

_INFLATION = 1.0 + 2.0**-20
_SMALLEST = 2.0**-149  # of fp32: what one rounding that underflows may lose


def growth(additions: int, unit: float) -> float:
    """Return (1 + u)^n - 1."""
    return float(np.expm1(additions * np.log1p(unit)))


def square_sum_limits(a: Any) -> np.ndarray:
    """Return limits on the fp32 sums of squares of the rows of a[..., rows, K]."""
    values = np.asarray(to_numpy(as_scaled(a).values(), "a"), np.float64)
    squares = (values * values).sum(axis=-1)
    count = values.shape[-1] + 2  # one rounding of a product, one of the exact result itself
    return _finished(squares * growth(count, 2.0**-23) + count * _SMALLEST, squares)


def logit_limits(
    exact_scores: np.ndarray, score_limits: np.ndarray, weights: np.ndarray, key_scale: Any, out: str, precision: str
) -> np.ndarray:
    """Return limits on sum_h weights[t, h] * relu(scores[t, h, key]) * key_scale[key], rounded to `out`.

    Scores are [t, h, keys] and off by `score_limits`; ReLU never enlarges an error.
    """
    scores = np.maximum(exact_scores.astype(np.float64), 0)
    scale = 1.0 if key_scale is None else np.abs(np.asarray(key_scale, np.float64))
    weight = np.abs(weights.astype(np.float64))[..., None]
    carried = (weight * score_limits).sum(axis=1) * scale
    total = (weight * (scores + score_limits)).sum(axis=1) * scale
    unit = 2.0**-23 if precision == "float32" else 2.0**-7
    roundings = exact_scores.shape[1] + 5  # heads, the operands' own roundings, the scale
    last = 2.0 ** -FORMATS[out].mantissa_bits  # an ulp: half for the result's rounding, half for the exact one's
    limit = carried + total * growth(roundings, unit)
    return _finished(limit + (total + limit) * last + roundings * _SMALLEST, total)


def _finished(limit: np.ndarray, witness: np.ndarray) -> np.ndarray:
    limit = np.where(np.isfinite(witness), limit * _INFLATION, np.nan)
    return np.where(np.abs(witness) >= FORMATS["float32"].max / 2, np.inf, limit)
