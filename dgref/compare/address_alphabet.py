"""Values that spell the index of an element: each digit a value that two formats hold exactly, and two check digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dgref.errors import UnsupportedError, expected
from dgref.formats.element import Format

GARBLED = -3  # values that spell no index
_EXPONENTS = 30  # of values, at most: far from every range's end
_PRIMES = (113, 89, 61, 59, 53, 47, 43, 37, 31, 29, 23, 19, 17, 13, 11, 7, 5)
_NEAR = 2.0**-6  # a value read may be off by the rounding of a 16-bit output; values differ by a third


@dataclass(frozen=True, eq=False)
class Alphabet:
    """Ascending values, one for each digit; a prime number of them, so that any wrong digit fails a check."""

    values: np.ndarray

    @staticmethod
    def of(held: Format, out: Format, signed: bool) -> Alphabet:
        """Return normal values of one or two significant bits that both formats hold."""
        powers = np.exp2(np.arange(-_EXPONENTS, _EXPONENTS + 1, dtype=np.float64))
        values = np.sort(np.concatenate([powers, 1.5 * powers]))
        for row in (held, out):
            normal = (values >= float(row.min_normal)) & (values <= float(row.max))
            kept = row.decode(row.encode(values.astype(np.float32))).astype(np.float64) == values
            values = values[normal & kept]
        values = np.concatenate([-values[::-1], values]) if signed else values
        base = next((prime for prime in _PRIMES if prime <= values.size), 0)
        if not base:
            raise UnsupportedError(expected("designed values", f"{values.size} that {held.name} holds", "at least 5"))
        return Alphabet(values[:base].astype(np.float32))

    def spell(self, shape: tuple[int, ...]) -> list[np.ndarray]:
        """Return arrays of values: the digits of every element's flat index, lowest first, then their checks."""
        index, base = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape), self.values.size
        digits = []
        while not digits or base ** len(digits) < index.size:
            digits.append(index // base ** len(digits) % base)
        return [self.values[digit] for digit in (*digits, *self._checks(digits))]

    def number(self, read: list[np.ndarray], size: int) -> np.ndarray:
        """Return the flat index that values spell, GARBLED where they spell none of `size`."""
        base, middles = self.values.size, (self.values[1:] + self.values[:-1]) / 2
        places = [np.searchsorted(middles, values) for values in read]
        good = np.logical_and.reduce(
            [np.abs(values / self.values[place] - 1) < _NEAR for values, place in zip(read, places, strict=True)]
        )
        digits, given = places[:-2], places[-2:]
        for check, digit in zip(self._checks(digits), given, strict=True):
            good &= check == digit
        index = sum(digit * base**place for place, digit in enumerate(digits))
        return np.where(good & (index < size), index, GARBLED)

    def _checks(self, digits: list[np.ndarray]) -> list[np.ndarray]:
        """Return two sums that no change of one digit, and no shift of all of them, leaves right."""
        weighted = sum((weight + 2) * digit for weight, digit in enumerate(digits))
        return [-sum(digits) % self.values.size, -weighted % self.values.size]
