"""Why an output is wrong: hypotheses recomputed on a sample, the best confirmed on everything, said in a sentence.

A hypothesis is confirmed only when recomputing under it makes the observed bits agree (or, where no arithmetic is
declared, puts every output within the derived bound). Anything less is a suspicion, ranked by the error it explains.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from dgref.compare.hypotheses import HYPOTHESES, Misreading, Scene, State
from dgref.compare.prediction import SAMPLERS, Agreement, Observation, Part, agree, compute
from dgref.compare.runner_evidence import Finding, findings, lines
from dgref.compare.suspects import choose_part, projected_places, sentence_of, suspect_places
from dgref.errors import DgrefError, ShapeError, expected, unknown_name
from dgref.formats.native import to_numpy
from dgref.ops import OPS
from dgref.ops.typical import limit_arithmetic, operands_of, typical_arithmetic

SMALL = 1 << 27  # multiply-adds that are recomputed whole before anything else: a tenth of a second
_STRIP = 1 << 29  # multiply-adds before the first look at the clock
_SHOWN = 8
_SUSPICION = 0.5  # share of the error that a suspicion must explain
_PAIRED = 6  # single faults that a second one is tried on
_CLEARLY = 0.75
_REFUSED = (DgrefError, ArithmeticError, ValueError, IndexError, KeyError)  # a variant that does not fit its operands


@dataclass
class Ranked:
    """One variant and how well it explains what was observed."""

    misreading: Misreading
    found: Agreement
    whole: bool = False  # measured on every output, not on a sample

    @property
    def order(self) -> tuple[bool, float, float]:
        """The key that puts the best answer first."""
        return (
            not self.found.all,
            -(self.misreading.likelihood or 0.0) if self.found.all else self.found.error,
            -self.found.equal,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        row = self.misreading
        counts = {"agreed": self.found.agreed, "total": self.found.total, "whole": self.whole}
        return {"hypothesis": row.hypothesis, "site": row.site, "cause": row.cause, **counts}


_UNMEASURED = Agreement(0, 0, 1.0, 0, 0)


@dataclass
class Diagnosis:
    """One sentence, the evidence for it, and what to do. `agreed` of `total` outputs are explained."""

    sentence: str
    hypothesis: str | None = None
    status: Literal["confirmed", "suspicion", "none"] = "none"
    fix: str = ""
    evidence: list[str] = field(default_factory=list)
    agreed: int = 0
    total: int = 0
    benign: bool = False  # the outputs are right, by another order or precision
    ranked: list[Ranked] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def names(self) -> list[str]:
        """The hypotheses from best to worst, each once."""
        found = [self.hypothesis] if self.hypothesis else []
        return list(dict.fromkeys([*found, *(row.misreading.hypothesis for row in self.ranked)]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, small enough for a report."""
        return {
            "sentence": self.sentence,
            "fix": self.fix,
            "hypothesis": self.hypothesis,
            "status": self.status,
            "benign": self.benign,
            "evidence": self.evidence,
            "agreed": self.agreed,
            "total": self.total,
            "ranked": [row.to_dict() for row in self.ranked[:_SHOWN]],
            "seconds": round(self.seconds, 3),
        }


def diagnose(
    case: Any,
    inputs: Mapping[str, Any],
    outputs: Any,
    arithmetic: Any = None,
    evidence: Mapping[str, Any] | None = None,
    budget: float = 30.0,
) -> Diagnosis:
    """Return why `outputs` of a case are wrong: an array, or one for each output's name.

    `arithmetic` is what the implementation declares; without it outputs are held to the derived bound. `evidence` is
    what a run showed: `differing` launches, `provenance`. `budget` is in seconds; an answer found on a sample is
    confirmed on as many outputs as the rest of it allows.
    """
    started = time.perf_counter()
    observed = _named(case, outputs)
    misshapen = _misshapen(case, observed)
    if misshapen is not None:
        return misshapen
    shown = list(findings(evidence or {}))
    search = Search(case, inputs, observed, arithmetic, started + budget)
    answer = _from_evidence(shown, search, evidence or {}) if shown else search.answer()
    answer.seconds = time.perf_counter() - started
    return answer


def _named(case: Any, outputs: Any) -> dict[str, np.ndarray]:
    names = list(OPS[case.op].output_shapes(case))
    if not isinstance(outputs, Mapping):
        outputs = {names[0]: outputs}
    for name in outputs:
        if name not in names:
            raise unknown_name(f"output of {case.op}", name, names)
    if not outputs:
        raise ShapeError(expected("outputs", "none", " and ".join(names), case.id))
    return {name: to_numpy(array, name) for name, array in outputs.items()}


def _misshapen(case: Any, observed: Mapping[str, np.ndarray]) -> Diagnosis | None:
    for name, array in OPS[case.op].allocate(case).items():
        if name in observed and (observed[name].shape, observed[name].dtype) != (array.shape, array.dtype):
            got = f"{observed[name].shape} of {observed[name].dtype}"
            need = f"{array.shape} of {array.dtype}"
            sentence = expected(f"output {name}", got, need, case.id)
            return Diagnosis(sentence, "output_shape", "confirmed", f"return {need}", total=array.size)
    return None


def _from_evidence(shown: list[Finding], search: Search, evidence: Mapping[str, Any]) -> Diagnosis:
    first = shown[0]
    details = [*lines(evidence), *(finding.sentence for finding in shown[1:]), *search.where]
    return Diagnosis(first.sentence, first.hypothesis, "confirmed", first.fix, details, total=search.elements)


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
        against = "exact" if self.name == "exact" else f"the arithmetic {self.name}"
        compared = [
            compare(self.observation.outputs[n], array, mask=masks.get(n), against=against)
            for n, array in self.correct.items()
        ]
        return [f"{n}: {found.summary()}" for n, found in zip(self.correct, compared, strict=True)]

    def answer(self) -> Diagnosis:
        """Try everything, cheapest and likeliest first, within the budget."""
        baseline = self.measure(Misreading("nothing"), None if self.correct is not None else self.part)
        if baseline.all:
            return self._nothing_wrong(baseline)
        if self.part is not None:
            baseline = self.measure(Misreading("nothing"), self.part)
        tried = self._confirmed(self._until_confirmed())
        if not (tried and tried[0].found.all):
            tried = sorted([*self._confirmed(list(self._pairs(tried))), *tried], key=lambda row: row.order)
        return self._concluded(tried, baseline)

    def _until_confirmed(self) -> list[Ranked]:
        """Return every variant measured; where outputs are many, only up to the first that explains them all.

        Likelier hypotheses come first, so that what follows could only tie with it.
        """
        tried = []
        for row in self._singles():
            tried.append(row)
            if self.work > SMALL and row.found.all:
                self._confirmed([row])
                if row.found.all:
                    break
        return tried

    def measure(self, misreading: Misreading, part: Part | None) -> Agreement:
        """Return how far one misreading explains the observed outputs."""
        self.tried += 1
        wrong = misreading.change(self.state)
        if part is None and self.correct is not None and misreading.after is not None and wrong is self.state:
            predicted = dict(misreading.after(self.correct, self.observation.outputs))
            return agree(self.observation.outputs, predicted, self.observation.defined)
        return self.observation.against(self.state, wrong, misreading.after, part)

    def _singles(self) -> Iterator[Ranked]:
        scene = Scene(self.state, self.observation.outputs, self.correct)
        for row in sorted(HYPOTHESES.values(), key=lambda row: -row.likelihood):
            try:
                for misreading in row.misreadings(scene):
                    yield from self._one(misreading)
            except _REFUSED:
                continue

    def _one(self, misreading: Misreading) -> Iterator[Ranked]:
        """Yield the measured variant, or nothing where it does not fit or time has run out."""
        whole = misreading.after is not None and not misreading.elementwise
        if time.perf_counter() > self.deadline or (whole and self.correct is None):
            return
        try:
            with np.errstate(all="ignore"):
                yield Ranked(misreading, self.measure(misreading, None if whole else self.part), whole)
        except _REFUSED:
            return

    def _pairs(self, tried: list[Ranked]) -> Iterator[Ranked]:
        """Yield second faults on top of the single ones that explain most, up to a pair that explains the sample.

        What should come out is taken anew after each first fault, so that a second one is measured against it. A pair
        must explain clearly more than its first part, or one fault is the better answer.
        """
        faults = [row for row in tried if not HYPOTHESES[row.misreading.hypothesis].benign]
        for first in sorted(faults, key=lambda row: row.found.error)[:_PAIRED]:
            one = first.misreading
            for second in self._seconds(one):
                if second.misreading.hypothesis != one.hypothesis or second.misreading.site != one.site:
                    for pair in self._one(one.then(second.misreading)):
                        if pair.found.error < _CLEARLY * first.found.error:
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
            if not row.benign:
                try:
                    yield from (Ranked(misreading, _UNMEASURED) for misreading in row.misreadings(scene))
                except _REFUSED:
                    continue

    def _confirmed(self, tried: list[Ranked]) -> list[Ranked]:
        """Measure what agrees on the sample on everything, best first; what then fails falls back."""
        tried = sorted(tried, key=lambda row: row.order)
        for row in tried:
            if row.found.all and not row.whole:
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

    def _nothing_wrong(self, found: Agreement) -> Diagnosis:
        sampled = f" sampled of {self.elements:,}" if found.total < self.elements else ""
        how = f"equal in every bit under {self.name}" if found.equal == found.total else "within the derived bound"
        sentence = f"nothing is wrong: all {found.total:,} outputs{sampled} are {how}"
        fix = "a difference from an unquantised product is the recipe's own loss; compare with the quantised operands"
        return Diagnosis(sentence, None, "none", fix, agreed=found.agreed, total=found.total, benign=True)

    def _concluded(self, tried: list[Ranked], baseline: Agreement) -> Diagnosis:
        evidence = [*self.where, f"{self.tried} recomputations"]
        if not tried:
            return Diagnosis("no hypothesis fits this operation", evidence=evidence, total=baseline.total)
        best = tried[0]
        explained = 1 - best.found.error / baseline.error if baseline.error else 0.0
        status = "confirmed" if best.found.all else "suspicion" if explained > _SUSPICION else "none"
        benign = best.misreading.hypothesis in HYPOTHESES and HYPOTHESES[best.misreading.hypothesis].benign
        evidence = [*self._ties(tried), *evidence]
        name = best.misreading.hypothesis if status != "none" else None
        return Diagnosis(
            sentence_of(status, best.misreading, best.found, explained, self.elements, benign),
            name,
            status,
            best.misreading.fix if name else "",
            evidence,
            best.found.agreed,
            best.found.total,
            benign and status == "confirmed",
            tried,
        )

    def _ties(self, tried: list[Ranked]) -> list[str]:
        """Return what else explains every output: these inputs cannot tell the two apart."""
        rivals = [row for row in tried[1:] if tried[0].found.all and row.found.all]
        if not rivals:
            return []
        causes = "; ".join(dict.fromkeys(row.misreading.cause for row in rivals[:3]))
        return [f"these inputs cannot tell it from: {causes} (inputs of kind coordinate_exponents tell most apart)"]


def _best(row: Ranked) -> tuple:
    return row.order
