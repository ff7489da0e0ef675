"""The search itself: candidates on a small sample, the one that agrees on ever more, then what else would agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from time import perf_counter
from typing import Any

import numpy as np

from dgref.compare.fingerprint_problems import Problem, Sample
from dgref.compare.inference import Inference, named, plain
from dgref.compare.verdict import same
from dgref.errors import InputError, UnsupportedError, expected
from dgref.reference.arithmetic import Arithmetic

_AFFORDABLE = 1 << 28  # multiply-accumulates of one recomputation that a second look may cost


def search(problem: Problem, budget: float = 30.0, first: Iterable[Arithmetic] = ()) -> Inference:
    """Try arithmetics on a small sample, likeliest first; confirm the first that agrees on ever more, then on all."""
    return _Search(problem, budget).run(first)


class _Search:
    """One search: what was tried, what came nearest."""

    def __init__(self, problem: Problem, budget: float):
        self.problem, self.budget, self.began = problem, budget, perf_counter()
        self.scores: dict[Arithmetic, tuple[float, float]] = {}
        self.evidence: list[str] = []

    def run(self, first: Iterable[Arithmetic]) -> Inference:
        for stage, candidates in self._stages(first):
            before = len(self.scores)
            for candidate in candidates:
                if perf_counter() - self.began > self.budget:
                    self.evidence.append(f"stopped after {self.budget:g} s in stage {stage!r}")
                    return self._nearest()
                if self._agrees(candidate):
                    self.evidence.append(f"{stage}: agreed on a small sample, then on all that was compared")
                    return self._found(plain(candidate))
            if len(self.scores) > before:
                self.evidence.append(f"{stage}: none of {len(self.scores) - before} agreed")
        return self._nearest()

    def _stages(self, first: Iterable[Arithmetic]) -> Iterator[tuple[str, Iterable[Arithmetic]]]:
        """Yield the stages, cheapest and likeliest first; later ones start from what came nearest so far."""
        yield "probes", first
        yield "known arithmetics", self.problem.presets()
        yield "instructions, promotions and scales", self.problem.plans()
        yield "C and output rounding", (e for plan in self._ranked() for e in self.problem.endings(plan))
        yield "splits of K", _in_turn([self.problem.splits(plan) for plan in self._ranked()])

    def _ranked(self) -> list[Arithmetic]:
        """Return the unsplit arithmetics, the nearest first."""
        unsplit = [a for a in self.scores if a.splits == 1 and not a.boundaries]
        return sorted(unsplit, key=self.scores.__getitem__)

    def _agrees(self, candidate: Arithmetic) -> bool:
        """Whether every element agrees; a disagreement on the small sample costs no more than that sample."""
        candidate = plain(candidate)
        if candidate in self.scores:
            return False
        for sample in ("small", "medium", "all"):
            try:
                score = self._score(candidate, sample)
            except InputError:
                return False  # these operands cannot be computed that way, so they were not
            self.scores[candidate] = score
            if score[0] != 0.0:
                return False
        return True

    def _score(self, candidate: Arithmetic, sample: Sample) -> tuple[float, float]:
        """Return (fraction of bits that differ, relative error): smaller is nearer."""
        actual, observed = self.problem.computed(candidate, sample), self.problem.observed(sample)
        differ = ~same(actual, observed, nan_equal=True)
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.abs(actual.astype(np.float64) - observed.astype(np.float64))
            size = np.abs(observed.astype(np.float64))
        known = np.isfinite(error)
        return float(differ.mean()) if differ.size else 0.0, float(error[known].sum() / max(size[known].sum(), 1e-300))

    def _found(self, candidate: Arithmetic) -> Inference:
        return self._inference(candidate, candidate, 1.0, self._open(candidate))

    def _nearest(self) -> Inference:
        if not self.scores:
            raise UnsupportedError(
                expected("operands", "formats that no tensor core multiplies", "a row of TENSOR_CORES")
            )
        nearest = min(sorted(self.scores, key=lambda row: row.splits), key=self.scores.__getitem__)
        agreement = 1.0 - self._score(nearest, "all")[0]
        return self._inference(None, nearest, agreement, {})

    def _inference(self, found: Any, nearest: Arithmetic, agreement: float, others: Mapping[str, tuple]) -> Inference:
        compared, seconds = self.problem.observed("all").size, perf_counter() - self.began
        nearest = named(nearest)
        return Inference(
            found and nearest, nearest, agreement, compared, len(self.scores), seconds, tuple(self.evidence), others
        )

    def _open(self, found: Arithmetic) -> dict[str, tuple]:
        """Return, field by field, other values that reproduce every bit as well; of a sample where all is too many."""
        others: dict[str, list] = {}
        work = self.problem.observed("all").size * self.problem.k
        sample: Sample = "all" if work <= _AFFORDABLE else "medium"
        for name, value in _neighbours(found, self.problem):
            try:
                if self._score(found.but(**{name: value}), sample)[0] == 0.0:
                    others.setdefault(name, []).append(value)
            except InputError:
                continue
        return {name: tuple(values) for name, values in others.items()}


def _neighbours(found: Arithmetic, problem: Problem) -> Iterator[tuple[str, Any]]:
    """Yield single changes of an arithmetic that a kernel might as well have made."""
    plans = [*problem.plans(), found]
    yield from (("core", name) for name in dict.fromkeys(p.core for p in plans) if name != found.core)
    yield from (("interval", i) for i in dict.fromkeys(p.interval for p in plans) if i != found.interval)
    yield from (("promotion", p) for p in ("fma", "multiply_add") if found.scales == "product" and p != found.promotion)
    if found.lanes is None and not found.boundaries:
        yield from (("splits", count) for count in (1, 2, 3, 4, 8) if count != found.splits)
    if found.splits > 2:
        yield from (("reduction", order) for order in ("ascending", "tree", "descending") if order != found.reduction)
    yield from (("round_b", name) for name in dict.fromkeys(p.round_b for p in plans) if name != found.round_b)


def _in_turn(iterators: list[Iterator[Arithmetic]]) -> Iterator[Arithmetic]:
    """Yield one of each iterator, then the next of each, until all are empty."""
    while iterators:
        alive = []
        for iterator in iterators:
            candidate = next(iterator, None)
            if candidate is not None:
                alive.append(iterator)
                yield candidate
        iterators = alive
