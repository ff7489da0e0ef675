"""Outputs that are right, though not as declared: the bits of another arithmetic, or sums within the bound of any."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgref.compare.examination import SMALL
from dgref.compare.hypotheses import Misreading
from dgref.compare.inference import describe, named, plain
from dgref.compare.prediction import Agreement, Outputs, agree, compute, cut
from dgref.compare.search import Ranked, Search
from dgref.errors import DgrefError
from dgref.ops.typical import limit_arithmetic, operands_of, typical_arithmetic
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic

OTHER, FINER = "other_arithmetic", "more_precise_than_declared"
_USUAL, _LARGEST = 0.01, 0.1  # of the declared errors: their root mean square, and the largest of all


@dataclass(frozen=True)
class Within:
    """Every output is within the bound of an accumulator that nobody declared."""

    limits: Arithmetic
    found: Agreement
    finer: bool  # far nearer to exact than declared


def other_arithmetic(search: Search) -> Ranked | None:
    """Return the known arithmetic that gives every observed bit, where another is declared; None where none does."""
    if not search.op.takes_arithmetic:
        return None
    for row in _known(search):
        name = row.name if row.name in ARITHMETICS else describe(row)
        meant = Misreading(name, lambda state, row=row: replace(state, arithmetic=row), hypothesis=OTHER)
        if (found := search.confirmed(meant)) is not None:
            return found
    return None


def _known(search: Search) -> list[Arithmetic]:
    """Return every arithmetic with a name but the declared one, the one that most likely runs the case first."""
    case, declared = search.state.case, search.state.arithmetic
    declared = ARITHMETICS.get(declared, declared)
    likeliest = named(typical_arithmetic(case.op, operands_of(case)))
    rows: dict[Arithmetic, Arithmetic] = {}
    for row in (likeliest, *ARITHMETICS.values()):
        rows.setdefault(plain(row), row)
    if isinstance(declared, Arithmetic):
        rows.pop(plain(declared), None)
    return list(rows.values())


def within_any(search: Search) -> Within | None:
    """Return the bound that every output is within where nothing is declared, the narrowest first."""
    if not search.op.takes_arithmetic:
        return None
    part = search.part if search.work > SMALL else None
    observed, masks = search.observation.sample(part)
    declared = cut(search.state, part)
    exact = compute(replace(declared, arithmetic="exact"), None, observed)
    equal = agree(observed, exact, masks).equal
    for narrow in (False, True):
        limits = limit_arithmetic(search.state.case.op, operands_of(search.state.case), narrow)
        try:
            bound = search.op.bound(declared.case, declared.inputs, limits)
        except DgrefError:
            continue  # an accumulator that does not take these operands
        found = agree(observed, exact, masks, bound, equal)
        if found.all:
            model = compute(declared, None, observed)
            return Within(limits, found, not narrow and _far_nearer(observed, model, exact, masks))
    return None


def _far_nearer(observed: Outputs, declared: Outputs, exact: Outputs, masks: Any) -> bool:
    """Say whether errors are out of all proportion to those that are declared, and no single one comes near them.

    A part of K that is lost, or one element that is wrong, leaves an error that can be measured in theirs.
    """
    ours, theirs = (_errors(side, exact, masks) for side in (observed, declared))
    with np.errstate(all="ignore"):
        largest, usual = (of(ours) / of(theirs) for of in (np.max, np.linalg.norm))
    return bool(largest < _LARGEST and usual < _USUAL)


def _errors(outputs: Outputs, exact: Outputs, masks: Any) -> np.ndarray:
    parts = []
    for name, truth in exact.items():
        kept = slice(None) if masks.get(name) is None else masks[name]
        apart = np.asarray(outputs[name], np.float64) - np.asarray(truth, np.float64)
        parts.append(np.abs(apart)[kept].ravel())
    return np.concatenate(parts)
