"""What an implementation may give, element by element: an interval of stored values, and what overflow may make of it.

A finite result lies in the interval, because an overflow anywhere on its way would have made it Inf or NaN for good.
Which of these are possible is kept beside the interval; docs/bound.md derives both.
"""

from __future__ import annotations

import numpy as np

from dgref.formats.element import FORMATS

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


def unbounded(limits: np.ndarray) -> np.ndarray:
    """Return where anything is allowed, because no limit was derived."""
    anything = limits["besides"] == (PLUS | MINUS | NAN)
    return anything & np.isneginf(limits["low"]) & np.isposinf(limits["high"])


def either(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the limits of results that are within one of two."""
    limits = np.zeros(first.shape, LIMITS)
    limits["low"] = np.minimum(first["low"], second["low"])
    limits["high"] = np.maximum(first["high"], second["high"])
    limits["besides"] = first["besides"] | second["besides"]
    return limits


def within(actual: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return which values an implementation may give."""
    values = np.asarray(actual).astype(np.float64)
    inside = (limits["low"] <= values) & (values <= limits["high"])
    special = np.where(np.isnan(values), NAN, np.where(values > 0, PLUS, MINUS))
    return inside | (~np.isfinite(values) & (limits["besides"] & special != 0))


def distances(exact: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return how far from `exact` a result may be: Inf where it may overflow, NaN where exact is NaN."""
    exact = np.asarray(exact, np.float64)
    with np.errstate(invalid="ignore"):
        farther = np.maximum(limits["high"] - exact, exact - limits["low"])
    farther = np.where((limits["low"] == exact) & (limits["high"] == exact), 0.0, farther)
    return np.where(np.isnan(exact), np.nan, np.where(limits["besides"] != 0, np.inf, farther))


def half_widths(limits: np.ndarray) -> np.ndarray:
    """Return half the width of each interval: Inf where a result may overflow, NaN where it is NaN."""
    with np.errstate(invalid="ignore"):
        half = np.where(limits["low"] == limits["high"], 0.0, (limits["high"] - limits["low"]) / 2)
    return np.where((limits["besides"] != 0) & ~np.isnan(half), np.inf, half)


def stored(
    total: np.ndarray,
    error: np.ndarray,
    reach: tuple[np.ndarray, np.ndarray],
    out: str,
    undefined: np.ndarray | bool = False,
) -> np.ndarray:
    """Return the limits of results that are computed within `error` of `total` and then rounded to nearest in `out`.

    Rounding is monotone: what is stored lies between what both ends of the interval are stored as. `reach` says how
    far up and how far down, both as magnitudes, anything that is rounded to fp32 on the way may get.
    """
    limits = np.zeros(total.shape, LIMITS)
    limits["low"], limits["high"] = rounded(total - error, out), rounded(total + error, out)
    up, down = (side >= OVERFLOW for side in reach)
    limits["besides"] = np.where(up, PLUS, 0) | np.where(down, MINUS, 0)
    limits["besides"] |= np.where((up & down) | undefined, NAN, 0)
    return limits


def rounded(values: np.ndarray, out: str) -> np.ndarray:
    """Return float64 values as they are once rounded to nearest even in a format."""
    if out == "float64":
        return values
    with np.errstate(over="ignore"):
        if out == "float32":
            return values.astype(np.float32).astype(np.float64)
        return FORMATS[out].decode(FORMATS[out].encode(values)).astype(np.float64)


def carried(exact: np.ndarray, reach: tuple[np.ndarray, np.ndarray], undefined: np.ndarray | bool) -> np.ndarray:
    """Return the limits of results that are Inf or NaN because an operand is: they stay so.

    Only where the finite terms alone may overflow to the other side does an Inf meet one of the other sign.
    """
    limits = around(exact, 0.0)
    limits["low"] = limits["high"] = exact
    meets = np.where(exact > 0, reach[1], reach[0]) >= OVERFLOW
    limits["besides"] |= np.where(meets | undefined, NAN, 0)
    return limits
