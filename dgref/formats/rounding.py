"""Roundings: from a significand on the grid's own scale to the integer beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dgref.errors import unknown_name

# A rounding sees q >= 0 (the value divided by the grid's step, exact), whether the value is negative, and 32 random
# bits an element, or None; it returns floor(q) or floor(q) + 1.
Rounding = Callable[[np.ndarray, np.ndarray, "np.ndarray | None"], np.ndarray]


def _nearest_away(q: np.ndarray) -> np.ndarray:
    below = np.floor(q)
    return below + (q - below >= 0.5)


def _nearest_zero(q: np.ndarray) -> np.ndarray:
    below = np.floor(q)
    return below + (q - below > 0.5)


def _stochastic(q: np.ndarray, words: np.ndarray) -> np.ndarray:
    below = np.floor(q)
    return below + (words < (q - below) * 2.0**32)


ROUNDINGS: dict[str, Rounding] = {
    "nearest_even": lambda q, negative, words: np.rint(q),
    "nearest_away": lambda q, negative, words: _nearest_away(q),
    "nearest_zero": lambda q, negative, words: _nearest_zero(q),
    "toward_zero": lambda q, negative, words: np.floor(q),
    "away_from_zero": lambda q, negative, words: np.ceil(q),
    "up": lambda q, negative, words: np.where(negative, np.floor(q), np.ceil(q)),
    "down": lambda q, negative, words: np.where(negative, np.ceil(q), np.floor(q)),
    "stochastic": lambda q, negative, words: _stochastic(q, words),
}


def rounding_function(name: str) -> Rounding:
    """Return a rounding by name; an unknown name suggests the nearest."""
    if name not in ROUNDINGS:
        raise unknown_name("rounding", name, ROUNDINGS)
    return ROUNDINGS[name]


def overflows_to_max(name: str, negative: np.ndarray) -> np.ndarray:
    """Return where a finite value beyond the range rounds back to the largest one (IEEE 754-2019 7.4)."""
    if name == "toward_zero":
        return np.ones_like(negative)
    if name in ("up", "down"):
        return negative if name == "up" else ~negative
    return np.zeros_like(negative)
