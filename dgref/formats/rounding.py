"""Roundings: which of the two grid points around a value is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dgref.errors import choice


@dataclass(frozen=True)
class Position:
    """Where values lie between grid points: `q` is the magnitude over the grid's step, exact, and `below` its floor."""

    q: np.ndarray
    below: np.ndarray
    odd: np.ndarray  # whether the code of `below` is odd
    negative: np.ndarray
    words: np.ndarray | None  # 32 random bits each, for stochastic rounding

    @property
    def rest(self) -> np.ndarray:
        """How far above the grid point, from 0 to 1."""
        return self.q - self.below


def _half_added_in_float32(at: Position) -> np.ndarray:
    """0.5 - 2**-25 rounds up, because the sum itself does: floor(x + 0.5) is not round-half-up."""
    return np.floor(at.q.astype(np.float32) + np.float32(0.5)) > at.below


# IEEE 754-2019 4.3.1 gives the larger magnitude where neither neighbour has an even digit, as in a format of one
# significant digit (E8M0): that is what rint of the significand does. `nearest_even_code` looks at the code instead.
ROUNDINGS: dict[str, Callable[[Position], np.ndarray]] = {
    "nearest_even": lambda at: np.rint(at.q) > at.below,
    "nearest_even_code": lambda at: (at.rest > 0.5) | ((at.rest == 0.5) & at.odd),
    "nearest_away": lambda at: at.rest >= 0.5,
    "nearest_zero": lambda at: at.rest > 0.5,
    "half_added_in_float32": _half_added_in_float32,
    "toward_zero": lambda at: np.zeros_like(at.negative),
    "away_from_zero": lambda at: at.rest > 0,
    "up": lambda at: (at.rest > 0) & ~at.negative,
    "down": lambda at: (at.rest > 0) & at.negative,
    "stochastic": lambda at: at.words < at.rest * 2.0**32,  # up with probability rest, in steps of 2**-32
}


def check_rounding(name: str) -> str:
    """Return the name of a rounding; an unknown one is an error that suggests the nearest."""
    return choice("rounding", name, ROUNDINGS)


def overflows_to_max(name: str, negative: np.ndarray) -> np.ndarray:
    """Return where a finite value beyond the range rounds back to the largest one (IEEE 754-2019 7.4)."""
    if name == "toward_zero":
        return np.ones_like(negative)
    if name in ("up", "down"):
        return negative if name == "up" else ~negative
    return np.zeros_like(negative)
