"""Outputs recomputed, whole or in part, and how far observed ones agree with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgref.compare.hypotheses.base import After, Outputs, State
from dgref.compare.verdict import same
from dgref.ops import OPS, Part
from dgref.reference.limits import around, distances, within

Bound = Callable[[], dict[str, Any]]
_UNLIKE = 0.05  # an error beyond which no bound is worth computing


def cut(state: State, part: Part | None) -> State:
    """Return the smaller state whose outputs are a part of the state's; None is everything."""
    if part is None:
        return state
    case, inputs = OPS[state.case.op].cut(state.case, state.inputs, part)
    return replace(state, case=case, inputs=inputs)


@dataclass(frozen=True)
class Agreement:
    """How far predicted outputs agree with observed ones."""

    agreed: int
    total: int
    error: float  # 0: nothing left to explain; 1: unrelated
    bits: int  # in the agreeing elements
    equal: int  # elements whose bits are equal; fewer than `agreed` where a bound decides

    @property
    def all(self) -> bool:
        """Whether every element agrees."""
        return self.agreed == self.total > 0

    def plus(self, other: Agreement) -> Agreement:
        """Return the agreement over both parts."""
        total = self.total + other.total
        error = (self.error * self.total + other.error * other.total) / max(total, 1)
        return Agreement(self.agreed + other.agreed, total, error, self.bits + other.bits, self.equal + other.equal)


@dataclass(frozen=True, eq=False)
class Observation:
    """What came out of a case, and what it is held to: an arithmetic's bits, or the derived bound."""

    case: Any
    outputs: Outputs
    defined: Mapping[str, np.ndarray | None]
    limits: Any = None  # the arithmetic that bounds outputs; None: every bit must agree

    def sample(self, part: Part | None) -> tuple[Outputs, dict[str, np.ndarray | None]]:
        """Return the observed outputs of a part, and which of their elements count."""
        if part is None:
            return self.outputs, dict(self.defined)
        pick = OPS[self.case.op].pick
        masks = {n: None if m is None else pick(self.case, n, m, part) for n, m in self.defined.items()}
        return {n: pick(self.case, n, array, part) for n, array in self.outputs.items()}, masks

    def against(self, wrong: State, after: After | None, part: Part | None, bound: Bound | None = None) -> Agreement:
        """Return how far the observed outputs agree with those of a state, over a part or everything.

        `bound` returns that state's limits, where they are known already.
        """
        observed, masks = self.sample(part)
        smaller = cut(wrong, part)
        predicted = compute(smaller, after, observed)
        agreement = agree(observed, predicted, masks)
        if self.limits is None or agreement.all or agreement.error > _UNLIKE:
            return agreement
        limits = bound() if bound else self.bound(smaller)
        return self._within(limits, smaller, after, observed, masks, agreement) if limits else agreement

    def bound(self, state: State) -> dict[str, Any]:
        """Return the limits that a state's outputs are held to."""
        return OPS[self.case.op].bound(state.case, state.inputs, self.limits)

    def _within(
        self, limits: dict, state: State, after: After | None, observed: Outputs, masks: Any, found: Agreement
    ) -> Agreement:
        exact = compute(replace(state, arithmetic="exact"), None, observed)
        if after is not None:  # what memory then holds is as near to what it should hold
            off = {name: distances(array, limits[name]) for name, array in exact.items() if name in limits}
            exact = dict(after(exact, observed))
            limits = {name: around(exact[name], distance) for name, distance in off.items()}
        return agree(observed, exact, masks, limits, found.equal)


def compute(state: State, after: After | None = None, observed: Outputs | None = None) -> dict[str, np.ndarray]:
    """Return what a state gives, as native arrays, and what `after` then makes of it; only what was observed."""
    with np.errstate(all="ignore"):  # misread operands overflow and meet as NaN
        outputs = OPS[state.case.op].compute(state.case, state.inputs, state.arithmetic)
    outputs = {n: np.asarray(array) for n, array in outputs.items() if observed is None or n in observed}
    return outputs if after is None else dict(after(outputs, observed))


def agree(
    observed: Outputs, predicted: Outputs, masks: Mapping[str, Any], limits: Outputs | None = None, equal: int = 0
) -> Agreement:
    """Compare two sets of outputs element by element: bit for bit, or within limits."""
    agreed = total = bits = 0
    errors = []
    for name, array in predicted.items():
        matches = same(observed[name], array, nan_equal=True)
        if limits is not None and name in limits:
            matches |= within(observed[name], limits[name])
        mask = masks.get(name)
        chosen = matches if mask is None else matches[mask]
        agreed, total = agreed + int(np.count_nonzero(chosen)), total + chosen.size
        bits += int(np.count_nonzero(chosen)) * array.dtype.itemsize * 8
        if chosen.size and not chosen.all():
            pair = (observed[name], array) if mask is None else (observed[name][mask], array[mask])
            errors.append((unexplained(*pair), chosen.size))
    error = sum(e * n for e, n in errors) / max(total, 1)
    return Agreement(agreed, total, error, bits, equal if limits is not None else agreed)


def unexplained(observed: np.ndarray, predicted: np.ndarray) -> float:
    """Return how unlike two arrays are, from 0 to 1: half by relative error, half by correlation of magnitudes."""
    with np.errstate(all="ignore"):
        x, y = (np.asarray(side, np.float64).ravel() for side in (observed, predicted))
        larger = np.maximum(np.abs(x), np.abs(y))
        relative = np.minimum(np.abs(x - y) / larger, 1.0)
        relative[(x == y) | (np.isnan(x) & np.isnan(y))] = 0.0
        relative[np.isnan(relative)] = 1.0
        return float(0.5 * relative.mean() + 0.5 * (1 - _likeness(x, y)))


def _likeness(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation of signed logarithms, at least 0: the same pattern under any gain scores high."""
    usable = np.isfinite(x) & np.isfinite(y)
    if np.count_nonzero(usable) < 3:
        return 0.0
    logs = []
    for side in (x[usable], y[usable]):
        size = np.abs(side)
        floor = np.median(size[size > 0]) * 2.0**-12 if (size > 0).any() else 1.0
        logs.append(np.sign(side) * np.log2(1 + size / floor))
    if logs[0].std() == 0 or logs[1].std() == 0:
        return 0.0
    return max(float(np.corrcoef(*logs)[0, 1]), 0.0)
