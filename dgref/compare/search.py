"""The search behind a diagnosis: hypotheses measured on a sample, likeliest first, then on everything; then pairs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dgref.compare.gain import Gain, unexplained
from dgref.compare.hypotheses import HYPOTHESES, Hypothesis, Misreading, Scene, State
from dgref.compare.k_blocks import locate_k
from dgref.compare.prediction import SAMPLERS, Agreement, Observation, Part, agree, compute
from dgref.compare.suspects import choose_part, projected_places, rectangle, suspect_places
from dgref.errors import DgrefError
from dgref.ops import OPS
from dgref.ops.typical import limit_arithmetic, operands_of, published_arithmetics, typical_arithmetic

_STAGE = 128  # of K: the block whose share of an error is measured
SMALL = 1 << 27  # multiply-adds that are recomputed whole before anything else: a tenth of a second
_STRIP = 1 << 29  # multiply-adds before the first look at the clock
_PAIRED = 6  # single faults that a second one is tried on
_REST = 0.01  # of the error: where a single fault leaves less, it is roundings that are left
_CLEARLY = 0.75  # of the error of its first part: what a pair may leave
_REFUSED = (DgrefError, ArithmeticError, ValueError, IndexError, KeyError)  # a variant that does not fit its operands
_UNMEASURED = Agreement(0, 0, 1.0, 0, 0)


@dataclass
class Ranked:
    """One variant and how well it explains what was observed."""

    misreading: Misreading
    found: Agreement
    whole: bool = False  # measured on every output, not on a sample

    @property
    def exact(self) -> bool:
        """Whether every bit is explained, not only every value within its bound."""
        return self.found.equal == self.found.total

    @property
    def order(self) -> tuple[bool, bool, float, int, bool]:
        """The key that puts the best answer first."""
        return (
            not self.found.all,
            self.found.all and not self.exact,
            -(self.misreading.likelihood or 0.0) if self.found.all else self.found.error,
            -self.found.equal,
            "+" in self.misreading.hypothesis,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        row = self.misreading
        counts = {"agreed": self.found.agreed, "total": self.found.total, "whole": self.whole}
        return {"hypothesis": row.hypothesis, "site": row.site, "cause": row.cause, **counts}


class Search:
    """One diagnosis under way."""

    def __init__(self, case: Any, inputs: Any, observed: Mapping[str, np.ndarray], arithmetic: Any, deadline: float):
        op = OPS[case.op]
        self.declared = arithmetic is not None or not op.takes_arithmetic
        operands = operands_of(case)
        typical = None if self.declared else typical_arithmetic(case.op, operands)
        chosen = (arithmetic or "exact") if self.declared else typical
        limits = None if self.declared else limit_arithmetic(case.op, operands, True)
        self.state = State(case, dict(inputs), chosen)
        self.observation = Observation(case, observed, op.defined(case, inputs), limits)
        self.deadline = deadline
        self.work = op.flops(case, inputs) // 2
        self.tried = 0

    @cached_property
    def elements(self) -> int:
        """How many elements the op defines."""
        masks = self.observation.defined
        sizes = {n: array.size for n, array in self.observation.outputs.items()}
        return sum(size if masks.get(n) is None else int(np.count_nonzero(masks[n])) for n, size in sizes.items())

    @property
    def name(self) -> str:
        """What outputs are compared with."""
        arithmetic = self.state.arithmetic
        return getattr(arithmetic, "name", arithmetic)

    @cached_property
    def correct(self) -> dict[str, np.ndarray] | None:
        """What the outputs should be; None where that is too much work to begin with."""
        if self.work > SMALL:
            return None
        return {n: array for n, array in compute(self.state).items() if n in self.observation.outputs}

    @cached_property
    def part(self) -> Part | None:
        """The rows and columns that hypotheses are tried on; None for everything."""
        if self.correct is None:
            return choose_part(self.state, self.work, projected_places(self.state, self.observation))
        wrong = suspect_places(self.observation, self.correct)
        return choose_part(self.state, self.work, (wrong.any(axis=1), wrong.any(axis=0)))

    @cached_property
    def where(self) -> list[str]:
        """One sentence on where the outputs differ."""
        if self.correct is None:
            return []
        from dgref.compare.comparison import compare

        masks = self.observation.defined
        assumed = "" if self.declared else " (assumed: none is declared)"
        against = "exact" if self.name == "exact" else f"the arithmetic {self.name}{assumed}"
        compared = [
            compare(self.observation.outputs[n], array, mask=masks.get(n), against=against)
            for n, array in self.correct.items()
        ]
        return [f"{n}: {found.summary()}" for n, found in zip(self.correct, compared, strict=True)]

    @property
    def where_in_k(self) -> list[str]:
        """One sentence on the part of K that the error of a dense product comes from, where a few blocks explain it."""
        if self.state.case.op != "gemm" or self.state.case.params or self.correct is None or "c" in self.state.inputs:
            return []
        a, b = self.state.inputs["a"], self.state.inputs["b"]
        differing = suspect_places(self.observation, self.correct)
        found = locate_k(self.observation.outputs["d"], a, b, _STAGE, differing)
        return [f"what is wrong comes from K: {found.describe(a.shape[-1])}"] if found.found else []

    def run(self) -> tuple[Agreement, list[Ranked]]:
        """Return how far the outputs agree as they should, and every variant that was tried, the best first.

        Variants are tried cheapest and likeliest first, within the budget; none where nothing is wrong.
        """
        baseline = self.measure(Misreading("nothing"), None if self.correct is not None else self.part)
        if baseline.all:
            return baseline, []
        if self.part is not None:
            baseline = self.measure(Misreading("nothing"), self.part)
        tried = self._confirmed(self._until_confirmed())
        if not (tried and tried[0].found.all):
            tried = sorted([*self._local(), *tried], key=lambda row: row.order)
        if not (tried and tried[0].found.all):
            tried = sorted(
                [*self._confirmed(list(self._pairs(tried, _REST * baseline.error))), *tried], key=lambda row: row.order
            )
        return baseline, tried

    def _local(self) -> list[Ranked]:
        """Return what explains every difference where all lie in one rectangle, as a single tile or group is wrong."""
        region = None if self.correct is None else rectangle(suspect_places(self.observation, self.correct))
        if (
            region is None
            or self.state.case.op not in SAMPLERS
            or len(self.correct) > 1
            or next(iter(self.correct.values())).ndim != 2
        ):
            return []
        part, words = region
        found = []
        for row in self._singles(part):
            if row.found.all and not HYPOTHESES[row.misreading.hypothesis].benign:
                bits = 8 * next(iter(self.observation.outputs.values())).itemsize * self.elements
                everywhere = Agreement(self.elements, self.elements, 0.0, bits, self.elements)
                cause = f"{words} only, {row.misreading.cause}"
                found.append(Ranked(replace(row.misreading, cause=cause), everywhere, True))
        return found

    def _until_confirmed(self) -> list[Ranked]:
        """Return every variant measured; where outputs are many, up to the first hypothesis that explains them all.

        Likelier hypotheses come first, so that what follows could only tie with it.
        """
        tried: list[Ranked] = []
        confirmed = ""
        for row in self._singles():
            if confirmed not in ("", row.misreading.hypothesis):
                break
            tried.append(row)
            if self.work > SMALL and row.found.all and not confirmed:
                self._confirmed([row])
                confirmed = row.misreading.hypothesis if row.found.all else ""
        return tried

    def gain(self) -> Gain | None:
        """Return the factor on the outputs that no right ones have, although each is within its bound; or None."""
        limits = self.observation.limits
        if limits is None:
            return None
        part = None if self.correct is not None else self.part
        observed, masks = self.observation.sample(self.state, part)
        cut = self.state if part is None else SAMPLERS[self.state.case.op].cut(self.state, part)
        peers = (compute(replace(cut, arithmetic=peer), None, observed) for peer in published_arithmetics(limits))
        exact = compute(replace(cut, arithmetic="exact"), None, observed)
        return next(iter(unexplained(observed, exact, masks, peers).values()), None)

    def measure(self, misreading: Misreading, part: Part | None) -> Agreement:
        """Return how far one misreading explains the observed outputs."""
        self.tried += 1
        with np.errstate(all="ignore"):  # values are misread on purpose
            wrong = misreading.change(self.state)
        if part is None and self.correct is not None and misreading.after is not None and wrong is self.state:
            predicted = dict(misreading.after(self.correct, self.observation.outputs))
            found = agree(self.observation.outputs, predicted, self.observation.defined)
            if found.all or self.observation.limits is None:
                return found
        return self.observation.against(self.state, wrong, misreading.after, part)

    def _singles(self, part: Part | None = None) -> Iterator[Ranked]:
        """Yield every variant measured, over `part` or the sample."""
        scene = Scene(self.state, self.observation.outputs, self.correct)
        for row in sorted(HYPOTHESES.values(), key=lambda row: -row.likelihood):
            for misreading in _variants(row, scene):
                yield from self._one(misreading, part)

    def _one(self, misreading: Misreading, part: Part | None = None) -> Iterator[Ranked]:
        """Yield the measured variant, or nothing where it does not fit or time has run out."""
        whole = misreading.after is not None and not misreading.elementwise
        if time.perf_counter() > self.deadline or (whole and (self.correct is None or part is not None)):
            return
        try:
            yield Ranked(misreading, self.measure(misreading, None if whole else part or self.part), whole)
        except _REFUSED:
            return

    def _pairs(self, tried: list[Ranked], slight: float) -> Iterator[Ranked]:
        """Yield second faults on top of the single ones that explain most, up to a pair that explains the sample.

        What should come out is taken anew after each first fault, so that a second one is measured against it. A pair
        must explain every output, or clearly more than any single fault that leaves more than a `slight` error.
        """
        faults = [row for row in tried if not HYPOTHESES[row.misreading.hypothesis].benign]
        least = min((row.found.error for row in tried), default=1.0)
        for first in sorted(faults, key=lambda row: row.found.error)[:_PAIRED]:
            one = first.misreading
            for second in self._seconds(one):
                if second.misreading.hypothesis != one.hypothesis or second.misreading.site != one.site:
                    for pair in self._one(one.then(second.misreading)):
                        if pair.found.all or (slight < least and pair.found.error < _CLEARLY * least):
                            yield pair
                        if pair.found.all:
                            return

    def _seconds(self, first: Misreading) -> Iterator[Ranked]:
        """Yield every fault that may come on top of a first one, unmeasured."""
        if first.after is not None:
            return
        state = first.change(self.state)
        scene = Scene(state, self.observation.outputs, None if self.correct is None else compute(state))
        for row in sorted(HYPOTHESES.values(), key=lambda row: -row.likelihood):
            if row.combines and not row.benign:
                yield from (Ranked(misreading, _UNMEASURED) for misreading in _variants(row, scene))

    def _confirmed(self, tried: list[Ranked]) -> list[Ranked]:
        """Measure what agrees on the sample on everything, best first; what then fails falls back."""
        tried = sorted(tried, key=lambda row: (row.order, not row.whole))
        for row in tried:
            if row.found.all and not row.whole:
                if self.work > SMALL and tried[0].whole:
                    continue  # a rival of what explains everything: the sample is enough
                row.found, row.whole = self._everywhere(row.misreading, row.found), True
        return sorted(tried, key=lambda row: row.order)

    def _everywhere(self, misreading: Misreading, sampled: Agreement) -> Agreement:
        """Return the agreement on every output, or on as many rows as the budget allows."""
        if self.work <= SMALL or self.state.case.op not in SAMPLERS:
            return self.measure(misreading, None)
        rows, columns = SAMPLERS[self.state.case.op].extents(self.state)
        wrong, total, top = misreading.change(self.state), None, 0
        step, started = max(1, int(rows * _STRIP // self.work)), time.perf_counter()
        while top < rows:
            part = Part(np.arange(top, min(top + step, rows)), np.arange(columns))
            found = self.observation.against(self.state, wrong, misreading.after, part)
            total = found if total is None else total.plus(found)
            top += part.rows.size
            now = time.perf_counter()
            each = (now - started) / top  # seconds a row
            if not found.all or now + each * step > self.deadline:
                break
            step = max(step, min(2 * step, int((self.deadline - now) / (2 * each))))
        return total or sampled


def _variants(row: Hypothesis, scene: Scene) -> list[Misreading]:
    """Return the variants of a hypothesis that fit the scene; none where it cannot read it."""
    try:
        with np.errstate(all="ignore"):
            return list(row.misreadings(scene))
    except _REFUSED:
        return []
