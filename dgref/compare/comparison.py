"""Two arrays compared bit by bit: how many elements differ, by how much, which are worst, and where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dgref.compare.locate import Where, locate
from dgref.compare.metrics import Metrics, metrics
from dgref.compare.scan import BINS, Scan, counter, matrix, scan
from dgref.compare.ulp import Codes, Policy, paired_codes
from dgref.compare.worst import Element, worst_elements
from dgref.errors import FormatError, InputError, ShapeError, counted, every, expected
from dgref.formats.native import to_numpy

_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Comparison:
    """What differs between `actual` and `expected`. `where`, `worst` and `metrics` are found when first asked for."""

    actual: Codes
    expected: Codes
    policy: Policy
    mask: np.ndarray | None
    found: Scan
    beyond: np.ndarray | None = None  # which elements lie outside the bound that was given
    labels: np.ndarray | None = None
    inputs: Callable[[tuple[int, ...]], str] | None = None
    against: str = "expected"

    @property
    def format(self) -> str:
        """The format of both arrays."""
        return self.actual.name

    @property
    def count(self) -> int:
        """The number of elements compared."""
        return self.actual.array.size if self.mask is None else int(np.count_nonzero(self.mask))

    @property
    def differing(self) -> int:
        """The number of elements that differ under the policy."""
        return self.found.differing

    @property
    def equal(self) -> bool:
        """Whether nothing differs under the policy."""
        return self.differing == 0

    @property
    def beyond_bound(self) -> int | None:
        """The number of elements outside the bound, or None where none was given."""
        return None if self.beyond is None else int(np.count_nonzero(self.beyond))

    @property
    def max_ulps(self) -> int | None:
        """The largest countable distance, or None where only unrelated elements differ."""
        return self.found.largest if self.differing > self.unrelated or self.equal else None

    @property
    def unrelated(self) -> int:
        """Elements where NaN or Inf meets something else."""
        return int(self.found.histogram[-1])

    @property
    def zero_signs(self) -> int:
        """Elements where only the sign of a zero differs."""
        return int(self.found.histogram[0])

    @property
    def histogram(self) -> dict[str, int]:
        """The number of elements for each distance, in powers of two: "1", "2", "3..4", "5..8", …"""
        return {_bin_name(i): int(n) for i, n in enumerate(self.found.histogram) if n}

    @cached_property
    def where(self) -> Where:
        """The smallest description of what differs; of what lies outside the bound, if anything does."""
        found, mask = self.found, self.mask
        if self.beyond_bound:
            mask = self.beyond
            found = scan(self.actual, self.expected, self.policy, mask)
        count = counter(self.actual, self.expected, self.policy, mask)
        return locate(found, self.actual.array.shape, count, self.labels)

    @cached_property
    def worst(self) -> list[Element]:
        """The twenty worst elements, those without a countable distance first."""
        return worst_elements(self.actual, self.expected, self.found, self.policy, self.mask, 20, self.inputs)

    @cached_property
    def metrics(self) -> Metrics:
        """The scores that other projects compute; none of them decides anything here."""
        return metrics(self.actual, self.expected, self.mask)

    def summary(self) -> str:
        """Return one sentence."""
        if self.equal:
            return f"{every(self.count, f'{self.format} element')} equal{'s' * (self.count == 1)} {self.against}"
        elements = counted(self.count, f"{self.format} element")
        parts = [f"{self.differing:,} of {elements} differ{'s' * (self.differing == 1)} from {self.against}"]
        parts += [f"by at most {self.max_ulps:,} ulp"] if self.max_ulps else []
        parts += [f"{self.unrelated:,} of them NaN or Inf against something else"] if self.unrelated else []
        parts += [f"{self.zero_signs:,} only in the sign of zero"] if self.zero_signs else []
        if self.beyond is not None:
            parts += [f"{self.beyond_bound:,} beyond the bound" if self.beyond_bound else "all within the bound"]
        elsewhere = f" ({self.where.missed:,} elsewhere)" if self.where.missed else ""
        return ", ".join(parts) + f": {self.where.description}{elsewhere}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, small enough for a report."""
        return {
            "format": self.format,
            "shape": list(self.actual.array.shape),
            "count": self.count,
            "differing": self.differing,
            "max_ulps": self.max_ulps,
            "unrelated": self.unrelated,
            "zero_signs": self.zero_signs,
            "beyond_bound": self.beyond_bound,
            "histogram": self.histogram,
            "where": self.where.to_dict(),
            "worst": [element.to_dict() for element in self.worst],
            "summary": self.summary(),
        }


def _bin_name(index: int) -> str:
    names = {0: "sign of zero", 1: "1", 2: "2", BINS - 1: "unrelated"}
    return names.get(index) or f"{(1 << (index - 2)) + 1}..{1 << (index - 1)}"


def compare(
    actual: Any,
    expected: Any,
    format: str | None = None,
    *,
    bound: Any = None,
    exact: Any = None,
    mask: Any = None,
    policy: Policy | None = None,
    groups: Any = None,
    inputs: Callable[[tuple[int, ...]], str] | None = None,
    against: str = "expected",
) -> Comparison:
    """Compare two arrays of one format and shape, bit by bit under a policy; never casts.

    Arrays are native (NumPy, ml_dtypes, torch on the CPU), integers, or unsigned codes with `format`. `bound` limits
    |actual - exact| element by element, `exact` being `expected` unless given. Elements where `mask` is False do not
    count. `groups` labels each row with its group, `inputs(index)` describes what an element was computed from, and
    `against` is what the sentences call `expected`.
    """
    policy = _checked_policy(policy)
    _check_inputs(inputs)
    left, right = paired_codes(actual, expected, format)
    mask = _checked(mask, left, "mask")
    beyond = None
    if bound is not None:
        truth = right if exact is None else paired_codes(actual, exact, format)[1]
        beyond = _beyond(left, truth, _checked(bound, left, "bound"), mask)
    labels = None if groups is None else _checked_labels(groups, left)
    return Comparison(left, right, policy, mask, scan(left, right, policy, mask), beyond, labels, inputs, against)


def _checked(array: Any, codes: Codes, name: str) -> np.ndarray | None:
    if array is None:
        return None
    values = to_numpy(array, name)
    if values.shape != codes.array.shape:
        raise ShapeError(expected(f"{name} shape", values.shape, codes.array.shape))
    if values.dtype.kind not in ("b" if name == "mask" else "fiu"):
        raise FormatError(expected(f"{name} dtype", values.dtype, "bool" if name == "mask" else "numbers"))
    return values


def _check_inputs(inputs: Any) -> None:
    if inputs is not None and not callable(inputs):
        raise InputError(expected("inputs", repr(inputs), "a function of an index that returns a text"))


def _checked_policy(policy: Any) -> Policy:
    if not isinstance(policy, Policy | None):
        raise InputError(expected("policy", repr(policy), "a Policy, such as Policy(nan='bits')"))
    return policy or Policy()


def _checked_labels(groups: Any, codes: Codes) -> np.ndarray:
    labels, rows = to_numpy(groups, "groups").reshape(-1), matrix(codes.array).shape[0]
    if labels.size != rows:
        raise ShapeError(expected("groups", counted(labels.size, "label"), f"one for each of {counted(rows, 'row')}"))
    return labels


def _beyond(actual: Codes, truth: Codes, bound: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return which elements are neither the same as the truth nor within the bound of it, chunk by chunk."""
    left, right, limits = matrix(actual.array), matrix(truth.array), matrix(bound)
    outside = np.zeros(left.shape, bool)
    step = max(1, _CHUNK // max(left.shape[1], 1))
    for start in range(0, left.shape[0], step):
        rows = slice(start, start + step)
        x, y = Codes(left[rows], actual.format).values(), Codes(right[rows], truth.format).values()
        with np.errstate(invalid="ignore", over="ignore"):
            within = (np.abs(x - y) <= limits[rows]) | (x == y) | (np.isnan(x) & np.isnan(y))
        outside[rows] = ~within
    outside = outside.reshape(actual.array.shape)
    return outside if mask is None else outside & mask
