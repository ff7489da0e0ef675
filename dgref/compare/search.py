"""The search behind a diagnosis: hypotheses measured on a sample, likeliest first, then on everything; then pairs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgref.compare.examination import SMALL, Examination
from dgref.compare.hypotheses import HYPOTHESES, Hypothesis, Misreading, Scene
from dgref.compare.prediction import Agreement, compute
from dgref.compare.readdressed import readdressed
from dgref.compare.suspects import TELLING, rectangle, suspect_places
from dgref.errors import DgrefError
from dgref.ops import Part

_STRIP = 1 << 29  # multiply-adds before the first look at the clock
_PAIRED = 6  # single faults that a second one is tried on
ROUNDINGS = 0.01  # of the error: where a single fault leaves less, it is roundings that are left
_CLEARLY = 0.75  # of the error of its first part: what a pair may leave
_REFUSED = (DgrefError, ArithmeticError, ValueError, IndexError, KeyError)  # a variant that does not fit its operands
_UNMEASURED = Agreement(0, 0, 1.0, 0, 0)


@dataclass
class Ranked:
    """One variant and how well it explains what was observed."""

    misreading: Misreading
    found: Agreement
    whole: bool = False  # measured on every output, not on a sample
    left: float = 0.0  # share of the error of what it was measured on that it does not explain

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
            -(self.misreading.likelihood or 0.0) if self.found.all else self.left,
            -self.found.equal,
            "+" in self.misreading.hypothesis,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        row = self.misreading
        counts = {"agreed": self.found.agreed, "total": self.found.total, "whole": self.whole}
        return {"hypothesis": row.hypothesis, "site": row.site, "cause": row.cause, **counts}


class Search(Examination):
    """One diagnosis under way, until a deadline."""

    def __init__(self, deadline: float, *examined: Any):
        super().__init__(*examined)
        self.deadline = deadline

    def run(self) -> list[Ranked]:
        """Return every variant that was tried, the best first: cheapest and likeliest first, within the budget."""
        tried = self._confirmed(self._until_confirmed())
        if not (tried and tried[0].found.all):
            tried = sorted([*self._local(), *tried], key=lambda row: row.order)
        if not (tried and tried[0].found.all):
            tried = [*self._readdressed(), *tried]
        if not (tried and tried[0].found.all):
            tried = sorted([*self._confirmed(list(self._pairs(tried))), *tried], key=lambda row: row.order)
        return tried

    def confirmed(self, misreading: Misreading) -> Ranked | None:
        """Return one misreading measured on everything, where it explains every output; else None."""
        rows = self._confirmed(list(self._one(misreading)))
        return next((row for row in rows if row.found.all), None)

    def _local(self) -> list[Ranked]:
        """Return what explains every difference where all lie in one rectangle, as a single tile or group is wrong.

        Everything outside must be as it should be, and enough be wrong inside that no variant fits it by chance.
        """
        region = rectangle(suspect_places(self.suspects)) if self.divisible else None
        if region is None:
            return []
        part, words = region
        inside, outside = self.divided(part)
        if not outside.all or inside.total - inside.equal < TELLING:
            return []
        found = []
        for row in self._singles(part):
            if row.found.all and not HYPOTHESES[row.misreading.hypothesis].benign:
                cause = f"{words} only, {row.misreading.cause}"
                found.append(Ranked(replace(row.misreading, cause=cause), outside.plus(row.found), True))
        return found

    def _readdressed(self) -> list[Ranked]:
        """Return scales that the outputs themselves say were read elsewhere, where those explain every output."""
        misreadings = () if self.correct is None else readdressed(self.state, self.observation.outputs)
        rows = [row for misreading in misreadings for row in self._one(misreading)]
        return [row for row in self._confirmed(rows) if row.found.all]

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

    def _singles(self, part: Part | None = None) -> Iterator[Ranked]:
        """Yield every variant measured, over `part` or the sample."""
        scene = Scene(self.state, self.observation.outputs, self.correct, self.poisoned)
        for row in sorted(HYPOTHESES.values(), key=lambda row: -row.likelihood):
            for misreading in _variants(row, scene):
                yield from self._one(misreading, part)

    def _one(self, misreading: Misreading, part: Part | None = None) -> Iterator[Ranked]:
        """Yield the measured variant, or nothing where it does not fit or time has run out."""
        whole = misreading.after is not None and not misreading.elementwise
        if time.perf_counter() > self.deadline or (whole and (self.correct is None or part is not None)):
            return
        try:
            found = self.measure(misreading, None if whole else part or self.part)
        except _REFUSED:
            return
        yield Ranked(misreading, found, whole, self.left(found, whole))

    def _pairs(self, tried: list[Ranked]) -> Iterator[Ranked]:
        """Yield second faults on top of the single ones that explain most, up to a pair that explains the sample.

        What should come out is taken anew after each first fault, so that a second one is measured against it. A pair
        must explain every output, or clearly more than any single fault, where all of those leave more than roundings.
        """
        faults = [row for row in tried if not HYPOTHESES[row.misreading.hypothesis].benign]
        least = min((row.left for row in tried), default=1.0)
        for first in sorted(faults, key=lambda row: row.left)[:_PAIRED]:
            one = first.misreading
            for second in self._seconds(one):
                if second.misreading.hypothesis != one.hypothesis or second.misreading.site != one.site:
                    for pair in self._one(one.then(second.misreading)):
                        if pair.found.all or (least > ROUNDINGS and pair.left < _CLEARLY * least):
                            yield pair
                        if pair.found.all:
                            return

    def _seconds(self, first: Misreading) -> Iterator[Ranked]:
        """Yield every fault that may come on top of a first one, unmeasured."""
        if first.after is not None:
            return
        state = first.change(self.state)
        correct = None if self.correct is None else compute(state)
        scene = Scene(state, self.observation.outputs, correct, self.poisoned)
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
                row.left = self.left(row.found, True)
        return sorted(tried, key=lambda row: row.order)

    def _everywhere(self, misreading: Misreading, sampled: Agreement) -> Agreement:
        """Return the agreement on every output, or on as many rows as the budget allows."""
        if self.work <= SMALL or self.op.sampler is None:
            return self.measure(misreading, None)
        rows, columns = self.op.rows_and_columns(self.state.case)
        wrong, total, top = misreading.change(self.state), None, 0
        step, started = max(1, int(rows * _STRIP // self.work)), time.perf_counter()
        while top < rows:
            part = Part(np.arange(top, min(top + step, rows)), np.arange(columns))
            found = self.observation.against(wrong, misreading.after, part)
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
