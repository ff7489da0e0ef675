"""The worst elements, written so that one line can be acted on: `inputs => got observed, expected expected`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgref.compare.scan import Scan, matrix
from dgref.compare.ulp import UNRELATED, Codes, Policy, ulp_distance


@dataclass(frozen=True)
class Element:
    """One differing element: where it is, both codes and values, and how far apart they are."""

    index: tuple[int, ...]
    observed_code: int
    expected_code: int
    observed: float
    expected: float
    ulps: int | None  # None: NaN or Inf against something else
    digits: int
    inputs: str = ""

    def __str__(self) -> str:
        distance = "unrelated" if self.ulps is None else "sign of zero" if self.ulps == 0 else f"{self.ulps} ulp"
        codes = [f"{code:#0{self.digits + 2}x}" for code in (self.observed_code, self.expected_code)]
        inputs = self.inputs or str(list(self.index))
        return f"{inputs} => got {codes[0]} ({self.observed:g}), expected {codes[1]} ({self.expected:g}), {distance}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with the line that a person reads."""
        return {"index": list(self.index), "ulps": self.ulps, "line": str(self)}


def worst_elements(
    actual: Codes,
    expected: Codes,
    found: Scan,
    policy: Policy,
    mask: np.ndarray | None = None,
    count: int = 20,
    inputs: Callable[[tuple[int, ...]], str] | None = None,
) -> list[Element]:
    """Return the differing elements furthest from expected: unrelated ones first, then by distance, then by index.

    The worst elements lie in the rows with the worst maxima, so only those rows are read again.
    """
    rows = np.argsort(-found.row_worst.astype(np.int64), kind="stable")[:count]
    rows = np.sort(rows[found.row_counts[rows] > 0])
    if rows.size == 0:
        return []
    parts = [Codes(matrix(side.array)[rows], side.format) for side in (actual, expected)]
    distances, differ = _differences(*parts, policy)
    if mask is not None:
        differ &= matrix(mask)[rows]
    order = np.flatnonzero(differ)
    order = order[np.argsort(-distances.reshape(-1)[order], kind="stable")][:count]
    shape = np.atleast_1d(actual.array).shape
    width = parts[0].array.shape[1]
    return [_element(parts, int(i), rows[i // width] * width + i % width, shape, distances, inputs) for i in order]


def _differences(left: Codes, right: Codes, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of two matrices, and where they differ under the policy."""
    name = None if left.format is None else left.format.name
    distances = ulp_distance(left.array, right.array, name, policy)
    differ = distances > 0
    if policy.zero == "signed" and left.format is not None and left.format.signed:
        zeros = (left.values() == 0) & (right.values() == 0)
        differ |= zeros & (left.array != right.array)
    return distances, differ


def _element(parts, place: int, flat: int, shape: tuple[int, ...], distances: np.ndarray, inputs) -> Element:
    index = tuple(int(i) for i in np.unravel_index(flat, shape))
    singles = [Codes(part.array.reshape(-1)[place : place + 1], part.format) for part in parts]
    codes = [int(single.array.view(f"u{single.array.itemsize}")[0]) for single in singles]
    values = [float(single.values()[0]) for single in singles]
    distance = int(distances.reshape(-1)[place])
    ulps = None if distance == UNRELATED else distance
    digits = 2 * singles[0].array.itemsize
    return Element(index, *codes, *values, ulps, digits, inputs(index) if inputs else "")
