"""Why an output is wrong: hypotheses recomputed on a sample, the best confirmed on everything, said in a sentence.

A hypothesis is confirmed only when recomputing under it makes the observed bits agree (or, where no arithmetic is
declared, puts every output within the derived bound). Anything less is a suspicion, ranked by the error it explains.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dgref.compare.declaration import FINER, OTHER, Within, other_arithmetic, within_any
from dgref.compare.hypotheses import HYPOTHESES, Misreading
from dgref.compare.prediction import Agreement
from dgref.compare.runner_evidence import UNWRITTEN, Finding, findings, lines, poisoned
from dgref.compare.search import ROUNDINGS, Ranked, Search
from dgref.compare.separation import advice, as_toml, doubts, rivals, telling_case
from dgref.errors import InputError, ShapeError, counted, every, expected, instance, seconds, shown, unknown_name
from dgref.formats.native import to_numpy
from dgref.given import described, output_format
from dgref.ops import OPS
from dgref.ops.typical import bound_of
from dgref.reference.dispatch import resolve
from dgref.suite import Case

_SHOWN = 8
_SHOWN_FIXES = 2  # beside the first
_SUSPICION = 0.5  # share of the error that a suspicion must explain
_WIDTH = ("infinitely_precise", "accumulator_width")  # hypotheses about nothing but the width of sums
_WORTH_NAMING = 0.01  # share that the nearest misreading must explain, so that it is no chance


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
    rivals: list[Ranked] = field(default_factory=list)  # what explains every output just as well
    separate: Case | None = None  # a case that would tell the answer from its first rival
    ask: str = ""  # a command that tells more

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
            "ask": self.ask,
            "hypothesis": self.hypothesis,
            "status": self.status,
            "benign": self.benign,
            "evidence": self.evidence,
            "agreed": self.agreed,
            "total": self.total,
            "ranked": [row.to_dict() for row in self.ranked[:_SHOWN]],
            "rivals": [row.to_dict() for row in self.rivals[:_SHOWN]],
            "separate": None if self.separate is None else as_toml(self.separate),
            "seconds": round(self.seconds, 3),
        }


def diagnose(
    case: Any,
    inputs: Mapping[str, Any],
    outputs: Any,
    arithmetic: Any = None,
    evidence: Mapping[str, Any] | None = None,
    budget: float = 30.0,
    limits: Any = None,
) -> Diagnosis:
    """Return why `outputs` of a case are wrong: an array, or one for each output's name.

    `case` is a case, or the name of its op where `inputs` hold its parameters too, such as {"a": a, "b": b}.
    `arithmetic` is what the implementation declares; without it outputs are held to the derived bound. `evidence` is
    what a run showed: `differing` launches, `provenance`. `budget` is in seconds; an answer found on a sample is
    confirmed on as many outputs as the rest of it allows. `limits` is the arithmetic whose bound outputs without a
    declared one are held to: unless given, the widest that hardware has.
    """
    started = time.perf_counter()
    _check(case, inputs, arithmetic, evidence, budget, limits)
    case, inputs = _described(case, inputs, outputs)
    observed = _named(case, outputs)
    misshapen = _misshapen(case, inputs, observed)
    if misshapen is not None:
        return misshapen
    shown = list(findings(evidence or {}))
    search = Search(started + budget, case, inputs, observed, arithmetic, limits, poisoned(evidence or {}))
    answer = _from_evidence(shown, search, evidence or {}) if shown else _from_search(search)
    answer.seconds = time.perf_counter() - started
    return answer


def _check(case: Any, inputs: Any, arithmetic: Any, evidence: Any, budget: Any, limits: Any) -> None:
    if not isinstance(case, str) and (not hasattr(case, "op") or case.op not in OPS):
        raise InputError(expected("case", shown(case), "a Case, or the name of an op"))
    instance("inputs", inputs, Mapping, "a mapping of operands by name")
    instance("evidence", evidence, Mapping | None, "a mapping, or None")
    seconds("budget", budget)
    for named in (arithmetic, limits):
        if named is not None:
            resolve(named)


def _described(case: Any, inputs: Mapping[str, Any], outputs: Any) -> tuple[Any, Mapping[str, Any]]:
    """Return the case, and its inputs as NumPy arrays; an op's name and operands are one whose recipes are known."""
    out = output_format(case, outputs) if isinstance(case, str) else None
    found = described(case, inputs, out)
    if isinstance(case, str):
        found.op.accept(found.case, found.inputs)
    if found.undescribed:
        raise InputError(expected(" and ".join(found.undescribed), "scales of no recipe", "those of one, or a Case"))
    return found.case, found.inputs


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


def _misshapen(case: Any, inputs: Mapping[str, Any], observed: Mapping[str, np.ndarray]) -> Diagnosis | None:
    for name, array in OPS[case.op].allocate(case, inputs=inputs).items():
        if name in observed and (observed[name].shape, observed[name].dtype) != (array.shape, array.dtype):
            got = f"{observed[name].shape} of {observed[name].dtype}"
            need = f"{array.shape} of {array.dtype}"
            sentence = expected(f"output {name}", got, need, case.id)
            return Diagnosis(sentence, "output_shape", "confirmed", f"return {need}", total=array.size)
    return None


def _from_evidence(shown: list[Finding], search: Search, evidence: Mapping[str, Any]) -> Diagnosis:
    first = shown[0]
    if first is UNWRITTEN:
        found = _from_search(search)
        if found.status == "confirmed" and not found.benign:  # which part it is, and why
            found.evidence = [*lines(evidence), *(finding.sentence for finding in shown[1:]), *found.evidence]
            return found
    details = [*lines(evidence), *(finding.sentence for finding in shown[1:]), *search.where]
    return Diagnosis(first.sentence, first.hypothesis, "confirmed", first.fix, details, total=search.elements)


def _from_search(search: Search) -> Diagnosis:
    if search.elements == 0:
        return Diagnosis("nothing is wrong: there is no output that the operation defines", benign=True)
    baseline = search.baseline(search.correct is not None)
    if baseline.all:
        return _nothing_wrong(search, baseline)
    at_once = search.name == "exact"  # no fault gives the bits of an arithmetic that loses something
    if at_once and (row := other_arithmetic(search)):
        return _declared_otherwise(search, row)
    tried = search.run()
    if search.declared and not (tried and tried[0].found.all):
        if not at_once and (row := other_arithmetic(search)):
            return _declared_otherwise(search, row)
        held = within_any(search)
        if held and (_of_width(tried) if held.finer else not _telling(search, tried)):
            return _within_any(search, held, baseline)
    if not tried:
        sentence = "no hypothesis was tried: none fits this operation, or the budget ran out first"
        return Diagnosis(sentence, evidence=search.where, total=baseline.total)
    return _concluded(search, tried)


def _of_width(tried: list[Ranked]) -> bool:
    """Return whether no suspicion is about anything but how wide sums are."""
    suspected = [row.misreading.hypothesis for row in tried[:1] if 1 - row.left > _SUSPICION]
    return all(hypothesis in _WIDTH for hypothesis in suspected)


def _telling(search: Search, tried: list[Ranked]) -> bool:
    """Return whether there is something to say of the cause: a suspicion, or what all differing outputs share."""
    return bool((tried and 1 - tried[0].left > _SUSPICION) or search.relation)


def _declared_otherwise(search: Search, row: Ranked) -> Diagnosis:
    name, found = row.misreading.cause, row.found
    have = "has" if found.total == 1 else "have"
    sentence = f"{_outputs(search, found)} {have} the bits of {name}; declare that, not {search.name}"
    fix = f"declare {name}, or make the kernel add so"
    return Diagnosis(sentence, OTHER, "confirmed", fix, search.where, found.agreed, found.total)


def _within_any(search: Search, held: Within, declared: Agreement) -> Diagnosis:
    found = held.found
    outputs = f"{_outputs(search, found)} {'is' if found.total == 1 else 'are'} within {bound_of(held.limits)}"
    fix = "declare no arithmetic, or what dgref.infer_arithmetic finds"
    if held.finer:
        fix += "; where an element of K can be small beside others, `dgref fingerprint` says whether all are added"
        sentence = f"sums are more precise than {search.name}, which is declared: {outputs}, and far nearer to exact"
        return Diagnosis(sentence, FINER, "suspicion", fix, search.where, found.agreed, found.total)
    sentence = f"no hypothesis explains it; {outputs}, as is asked where no arithmetic is declared"
    fix = "" if 2 * declared.agreed > declared.total else f"if {search.name} was a guess, {fix}"
    evidence = [*search.where, counted(search.tried, "recomputation")]
    return Diagnosis(sentence, None, "none", fix, evidence, found.equal, found.total)


def _nothing_wrong(search: Search, found: Agreement) -> Diagnosis:
    if search.excluded:
        sentence = f"every output has the bits of {search.name}, which are not all within {search.bound}"
        fix = f"declare {search.name}, or name the architecture that this ran on"
        return Diagnosis(sentence, None, "none", fix, agreed=found.agreed, total=found.total)
    if odd := search.odd_nans:
        sentence = f"every value is right, but {counted(odd, 'NaN')} {'has' if odd == 1 else 'have'} other bits than "
        fix = "write the NaN that the hardware writes, or declare no arithmetic: any NaN is then as good"
        return Diagnosis(f"{sentence}{search.name} gives", None, "none", fix, agreed=found.agreed, total=found.total)
    how = f"equal in every bit under {search.name}" if found.equal == found.total else f"within {search.bound}"
    gain = search.gain()
    remark = "" if gain is None else f"; {gain.sentence()}: declare the arithmetic to be sure"
    are = "is" if found.total == 1 else "are"
    sentence = f"nothing is wrong: {_outputs(search, found)} {are} {how}{remark}"
    note = "a difference from an unquantised product is the recipe's own loss; compare with the quantised operands"
    return Diagnosis(sentence, evidence=[note], agreed=found.agreed, total=found.total, benign=True)


def _outputs(search: Search, found: Agreement) -> str:
    sampled = f" sampled of {search.elements:,}" if found.total < search.elements else ""
    return f"{every(found.total, 'output')}{sampled}"


def _fixes(best: Misreading, others: list[Ranked]) -> str:
    """Return what to do: for each operand in which the same fault would explain the outputs as well."""
    alike = [row.misreading.fix for row in others if row.misreading.hypothesis == best.hypothesis]
    return "; or ".join(dict.fromkeys([best.fix, *alike[:_SHOWN_FIXES]]))


def _promising(row: Ranked) -> bool:
    """Return whether a suspicion is worth acting on: a fault that makes some output equal, or leaves roundings."""
    benign = row.misreading.hypothesis in HYPOTHESES and HYPOTHESES[row.misreading.hypothesis].benign
    return not benign and bool(row.found.agreed or row.left < ROUNDINGS)


def _concluded(search: Search, tried: list[Ranked]) -> Diagnosis:
    best = tried[0]
    row, others = best.misreading, rivals(tried)
    explained = 1 - best.left
    status = "confirmed" if best.found.all else "suspicion" if explained > _SUSPICION else "none"
    benign = status == "confirmed" and row.hypothesis in HYPOTHESES and HYPOTHESES[row.hypothesis].benign
    telling = None if benign or not others else telling_case(search.state, row, others[0].misreading)
    doubt = doubts([other.misreading.cause for other in others], telling)
    beside = search.relation if status == "none" else doubt
    return Diagnosis(
        _sentence(status, row, best.found, explained, search.elements, search.bound, benign, beside),
        row.hypothesis if status != "none" else None,
        status,
        _fixes(row, others) if status == "confirmed" or (status == "suspicion" and _promising(best)) else "",
        [
            *advice(telling),
            *search.where,
            *([] if best.found.all else search.where_in_k),
            counted(search.tried, "recomputation"),
        ],
        best.found.agreed,
        best.found.total,
        benign,
        tried,
        rivals=others,
        separate=telling,
    )


def _sentence(
    status: str,
    row: Misreading,
    found: Agreement,
    explained: float,
    elements: int,
    bound: str,
    benign: bool,
    beside: str = "",
) -> str:
    """Return the one sentence of a diagnosis.

    `bound` is what outputs that differ in some bits are within. `beside` follows the cause where others explain the
    outputs as well; without a cause it says what is known.
    """
    if status == "none":
        nearest = f"the nearest ({row.cause}) explains {explained:.0%} of the error"
        nearest = nearest if explained >= _WORTH_NAMING else "nothing that was tried explains any of the error"
        return f"no hypothesis explains it; {beside or nearest}"
    if status == "suspicion":
        counts = f"{found.agreed:,} of {counted(found.total, 'output')} equal"
        return f"suspicion: {row.cause}; {row.remedy} explains {explained:.0%} of the error and makes {counts}"
    result = _agreement(found, elements, bound)
    if benign:
        return f"nothing is wrong: the outputs follow another valid arithmetic ({row.cause}), which {result}"
    return f"{row.cause}{beside}; {row.remedy} {result}"


def _agreement(found: Agreement, elements: int, bound: str) -> str:
    whole = counted(elements, "output")
    checked = whole if found.total == elements else f"{found.total:,} checked of {whole}"
    if found.equal == found.total:
        return f"makes all {found.bits:,} output bits equal ({checked})"
    return f"puts every output ({checked}) within {bound}, {found.equal:,} of them equal in every bit"
