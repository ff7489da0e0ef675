"""The one verdict: the strongest level of agreement that holds, output by output.

`exact`, `model`, `bound` and `peers` come as functions, because each may be costly and few verdicts need them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgref.compare.gain import Gain, unexplained
from dgref.compare.ulp import Policy
from dgref.formats.native import bits_of
from dgref.reference.limits import unbounded, within
from dgref.suite import LEVELS

Arrays = Mapping[str, np.ndarray]


@dataclass
class Verdict:
    """What held. `expected` is what the outputs were last compared with: the model where one is claimed."""

    level: str
    actual: Arrays
    defined: Mapping[str, np.ndarray | None]
    expected: Arrays
    against: str  # "exact" or "model"
    differing: dict[str, int] = field(default_factory=dict)  # output -> elements that differ from `expected`
    beyond_bound: dict[str, int] = field(default_factory=dict)
    unbounded: dict[str, int] = field(default_factory=dict)  # output -> elements that differ and have no bound here
    gains: dict[str, Gain] = field(default_factory=dict)  # within the bound, and worth a remark: no reason to fail

    @property
    def policy(self) -> Policy:
        """What counted as a difference: a model says which NaN, the exact result only that there is one."""
        return Policy(nan="bits" if self.against == "model" else "equal")

    def reaches(self, required: str) -> bool:
        """Whether the level is at least the required one."""
        return LEVELS.index(self.level) <= LEVELS.index(required)


def judge(
    actual: Arrays,
    *,
    exact: Callable[[], Arrays],
    model: Callable[[], Arrays] | None = None,
    bound: Callable[[], Arrays] | None = None,
    peers: Callable[[], Iterable[Arrays]] = tuple,
    defined: Mapping[str, np.ndarray | None] | None = None,
) -> Verdict:
    """Return the strongest level that holds for every output.

    `peers` are right outputs by the accumulators that are published. A factor that none of them has is remarked on.
    """
    defined = defined or {}
    truth = exact()
    off_exact = _counts(actual, truth, defined, nan_equal=True)
    if not any(off_exact.values()):
        return Verdict("exact", actual, defined, truth, "exact")
    if model is not None:
        predicted = model()
        off_model = _counts(actual, predicted, defined, nan_equal=False)
        if not any(off_model.values()):
            return Verdict("model", actual, defined, predicted, "model")
        truth_or_model, against, off = predicted, "model", off_model
    else:
        truth_or_model, against, off = truth, "exact", off_exact
    limits = bound() if bound else {}
    beyond = _beyond(actual, truth, limits, defined)
    free = {name: unbounded(limits[name]) & _mask(defined, name) for name in limits if name in actual}
    unjudged = {name: _differing(actual, name, truth[name], mask, True) for name, mask in free.items() if mask.any()}
    inside = bound is not None and not any(beyond.values())
    gains = unexplained(actual, truth, defined, peers()) if inside else {}
    level = "bounded" if inside else "wrong"
    return Verdict(level, actual, defined, truth_or_model, against, off, beyond, unjudged, gains)


def same(actual: np.ndarray, expected: np.ndarray, nan_equal: bool) -> np.ndarray:
    """Return where two arrays agree: bit for bit, or also where both are NaN; -0 and +0 differ."""
    if not _comparable(actual, expected):
        return np.zeros(actual.shape, bool)
    equal = bits_of(actual) == bits_of(expected)
    if nan_equal and not equal.all() and _is_float(actual):
        equal |= np.isnan(actual.astype(np.float32)) & np.isnan(expected.astype(np.float32))
    return equal


def _comparable(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether bits of one mean the same in the other: two float formats never do, codes of one width may."""
    if actual.shape != expected.shape or actual.dtype.itemsize != expected.dtype.itemsize:
        return False
    return actual.dtype == expected.dtype or not (_is_float(actual) and _is_float(expected))


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind not in "iub"


def _counts(actual: Arrays, expected: Arrays, defined: Mapping[str, Any], nan_equal: bool) -> dict[str, int]:
    return {name: _differing(actual, name, expected[name], defined.get(name), nan_equal) for name in expected}


def _mask(defined: Mapping[str, Any], name: str) -> np.ndarray | bool:
    mask = defined.get(name)
    return True if mask is None else mask


def _differing(actual: Arrays, name: str, expected: np.ndarray, mask: np.ndarray | None, nan_equal: bool) -> int:
    if name not in actual or actual[name].shape != expected.shape:
        return int(expected.size) or 1
    wrong = ~same(actual[name], expected, nan_equal)
    return int(np.count_nonzero(wrong if mask is None else wrong & mask))


def _beyond(actual: Arrays, exact: Arrays, limits: Arrays, defined: Mapping[str, Any]) -> dict[str, int]:
    beyond = {}
    for name, truth in exact.items():
        if name not in actual or not _comparable(actual[name], truth):
            beyond[name] = int(truth.size) or 1
            continue
        outside = ~same(actual[name], truth, nan_equal=True)
        if name in limits:
            outside &= ~within(actual[name], limits[name])
        mask = defined.get(name)
        beyond[name] = int(np.count_nonzero(outside if mask is None else outside & mask))
    return beyond
