"""Exact sums over a divisor that is no power of two: the one case in which a result is no binary fraction."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from dgref.reference import exact_engine as engine
from dgref.reference.exact_operand import Planes

_DOUBLE = (53, -1074 + 52, float(np.finfo(np.float64).max))


def quotients(a: Planes, b: Planes, c: np.ndarray, where: tuple[np.ndarray, np.ndarray], rounding) -> np.ndarray:
    """Return c + (sum of products) / (both divisors) for listed pairs, rounded once."""
    terms = _expansions(a, b, where)
    divisor = Fraction(a.divisor) * Fraction(b.divisor)
    exact = [sum(map(Fraction, row)) / divisor + Fraction(float(add)) for row, add in zip(terms, c, strict=True)]
    return np.array([round_fraction(value, *rounding) for value in exact])


def _expansions(a: Planes, b: Planes, where: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return float64 terms [pair, term] whose sums are the exact sums of products."""
    terms = np.zeros((where[0].size, 0))
    while True:
        rest = engine.exact_dots(a.planes, b.planes, np.ascontiguousarray(-terms), *where, *_DOUBLE)
        if not rest.any():
            return terms
        terms = np.concatenate([terms, rest[:, None]], axis=1)


def round_fraction(value: Fraction, precision: int, emin: int, largest: float) -> float:
    """Return a fraction rounded to nearest even in a format of at most 53 bits."""
    if value == 0:
        return 0.0
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    unit = Fraction(2) ** (max(exponent, emin) - precision + 1)
    rounded = round(magnitude / unit) * unit  # Python rounds a Fraction half to even
    result = float(rounded) if rounded <= Fraction(largest) else float("inf")
    return result if value > 0 else -result
