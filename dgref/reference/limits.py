"""What an implementation may give, element by element: an interval of stored values, and what overflow may make of it.

A finite result lies in the interval, because an overflow anywhere on its way would have made it Inf or NaN for good.
Which of these are possible is kept beside the interval; docs/bound.md derives both.
"""

from __future__ import annotations

import numpy as np

from dgref.reference.exact_target import target

LIMITS = np.dtype([("low", np.float64), ("high", np.float64), ("besides", np.uint8)])
PLUS, MINUS, NAN = (np.uint8(flag) for flag in (1, 2, 4))  # besides the interval: +Inf, -Inf, NaN
OVERFLOW = 2.0**128 * (1 - 2.0**-25)  # from here on fp32 rounds to Inf
INFLATION = 1.0 + 2.0**-20  # over the float64 roundings of the limits' own sums, which are 2^-53 each


def around(exact: np.ndarray, distance: np.ndarray | float) -> np.ndarray:
    """Return limits at a distance from stored results; NaN stays NaN, and an infinite distance allows anything."""
    exact = np.asarray(exact, np.float64)
    limits = np.zeros(exact.shape, LIMITS)
    with np.errstate(invalid="ignore"):
        limits["low"], limits["high"] = exact - distance, exact + distance
    free = np.isposinf(distance) & ~np.isnan(exact)
    limits["low"] = np.where(free, -np.inf, limits["low"])
    limits["high"] = np.where(free, np.inf, limits["high"])
    limits["besides"] = np.where(np.isnan(exact) | free, NAN, 0) | np.where(free, PLUS | MINUS, 0)
    return limits


def within(actual: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return which values an implementation may give."""
    values = np.asarray(actual).astype(np.float64)
    inside = (limits["low"] <= values) & (values <= limits["high"])
    special = np.where(np.isnan(values), NAN, np.where(values > 0, PLUS, MINUS))
    return inside | (~np.isfinite(values) & (limits["besides"] & special != 0))


def radius(limits: np.ndarray) -> np.ndarray:
    """Return how far from exact a result may be: Inf where it may overflow, NaN where exact is NaN."""
    with np.errstate(invalid="ignore"):
        half = np.where(limits["low"] == limits["high"], 0.0, (limits["high"] - limits["low"]) / 2)
    return np.where((limits["besides"] != 0) & ~np.isnan(half), np.inf, half)


def stored(
    exact: np.ndarray,
    total: np.ndarray,
    error: np.ndarray,
    reach: tuple[np.ndarray, np.ndarray],
    out: str,
    undefined: np.ndarray | bool = False,
) -> np.ndarray:
    """Return the limits of results that are computed within `error` of `total` and then rounded to `out`.

    `exact` is the total rounded once. `reach` says how far up and how far down, both as magnitudes, anything that is
    rounded to fp32 on the way may get. Both results may move by half an ulp in their last rounding.
    """
    goal = target(out)
    exact = np.asarray(exact, np.float64)
    size = np.where(np.isfinite(exact), np.abs(exact), np.abs(total)) + error
    ulp = np.ldexp(1.0, np.frexp(np.clip(size, 2.0**goal.emin, goal.largest))[1] - goal.precision)
    brink = goal.largest + np.ldexp(1.0, np.frexp(goal.largest)[1] - goal.precision - 1)
    limits = around(np.where(np.isinf(exact), total, exact), (error + ulp) * INFLATION)
    up, down = (side >= OVERFLOW for side in reach)
    limits["besides"] |= np.where(up | (total + error * INFLATION >= brink), PLUS, 0)
    limits["besides"] |= np.where(down | (total - error * INFLATION <= -brink), MINUS, 0)
    limits["besides"] |= np.where((up & down) | undefined, NAN, 0)
    return limits


def carried(exact: np.ndarray, reach: tuple[np.ndarray, np.ndarray], undefined: np.ndarray | bool) -> np.ndarray:
    """Return the limits of results that are Inf or NaN because an operand is: they stay so.

    Only where the finite terms alone may overflow to the other side does an Inf meet one of the other sign.
    """
    limits = around(exact, 0.0)
    limits["low"] = limits["high"] = exact
    meets = np.where(exact > 0, reach[1], reach[0]) >= OVERFLOW
    limits["besides"] |= np.where(meets | undefined, NAN, 0)
    return limits
