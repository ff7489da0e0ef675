"""What wrong outputs have in common with what they should be: one factor, or one addend."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgref.compare.suspects import TELLING

_SHARE = 0.95  # of them must follow it: sums that cancel carry roundings of their own
_ROUNDINGS = 2.0  # units in the last place of the output


def relation(observed: np.ndarray, correct: Any, differing: np.ndarray) -> str | None:
    """Return words for the factor or the addend between differing outputs and what they should be, if there is one.

    Integers are codes, indices or words, which have neither.
    """
    if observed.dtype.kind in "iu":
        return None
    with np.errstate(all="ignore"):
        x, y = (np.asarray(side, np.float64)[differing] for side in (observed, correct))
        usable = np.isfinite(x) & np.isfinite(y) & (y != 0)
    if np.count_nonzero(usable) < max(TELLING, _SHARE * usable.size):
        return None
    x, y = x[usable], y[usable]
    if not x.any():
        return "zero"
    tolerance = _ROUNDINGS * _epsilon(observed) * np.maximum(np.abs(x), np.abs(y))
    factor, addend = float(np.median(x / y)), float(np.median(x - y))
    if _follow(x, factor * y, tolerance) and not _follow(y, factor * y, tolerance):
        return f"{factor:.5g} times what they should be"
    if _follow(x, y + addend, tolerance) and not _follow(y, y + addend, tolerance):
        return f"{abs(addend):.5g} {'more' if addend > 0 else 'less'} than they should be"
    return None


def _follow(values: np.ndarray, predicted: np.ndarray, tolerance: np.ndarray) -> bool:
    return float(np.mean(np.abs(values - predicted) <= tolerance)) >= _SHARE


def _epsilon(array: Any) -> float:
    from ml_dtypes import finfo

    return float(finfo(array.dtype).eps)
