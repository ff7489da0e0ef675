"""Explanations that fit equally well: which they are, and a case whose outputs would tell them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from dgref.compare.examination import SMALL
from dgref.compare.hypotheses.base import Misreading, State
from dgref.compare.prediction import compute
from dgref.compare.search import Ranked
from dgref.compare.verdict import same
from dgref.errors import DgrefError
from dgref.ops import OPS
from dgref.suite import Case, InputChoice

TELLING = (("coordinate_exponents", 0), ("wide", 1), ("model_like", 2), ("normal", 3), ("coordinate_exponents", 4))
_REFUSED = (DgrefError, ArithmeticError, ValueError, IndexError, KeyError, AttributeError)


def rivals(tried: list[Ranked]) -> list[Ranked]:
    """Return what explains every output as well as the best answer does, each cause once."""
    best, found = tried[0], {}
    for row in tried[1:]:
        if (
            row.found.all
            and best.found.all
            and row.exact == best.exact
            and row.misreading.cause != best.misreading.cause
        ):
            found.setdefault(row.misreading.cause, row)
    return list(found.values())


def telling_case(state: State, first: Misreading, second: Misreading) -> Case | None:
    """Return the same case with inputs under which two misreadings give different bits; None where none was found."""
    if OPS[state.case.op].flops(state.case, state.inputs) // 2 > SMALL:
        return None
    for kind, seed in TELLING:
        case = replace(state.case, id=f"tell-{kind.replace('_', '-')}-{seed}", inputs=InputChoice(kind, seed))
        try:
            with np.errstate(all="ignore"):
                other = State(case, case.make_inputs(), state.arithmetic)
                one, two = (compute(row.change(other), row.after, compute(other)) for row in (first, second))
        except _REFUSED:
            continue
        if any(not same(one[name], two[name], nan_equal=True).all() for name in one):
            return replace(case, suite="", home="", why="tells two explanations of a wrong output apart")
    return None


def doubts(causes: list[str], telling: Case | None) -> str:
    """Return how a sentence goes on after the best cause: the others, and which inputs would tell."""
    if not causes:
        return ""
    more = f", or {causes[1]}" if len(causes) == 2 else f", or one of {len(causes) - 1} more" if causes[1:] else ""
    would = f"; inputs = {_inline(asdict(telling.inputs))} would" if telling else ""
    return f", or {causes[0]}{more} (the outputs cannot tell which{would})"


def advice(telling: Case | None) -> list[str]:
    """Return what to do to tell two explanations apart."""
    if telling is None:
        return []
    return [f"to tell them apart: put inputs = {_inline(asdict(telling.inputs))} into the case, or save `separate` of "
            "the JSON as separate.toml, and run `dgref run separate.toml`"]  # fmt: skip


def as_toml(case: Case) -> str:
    """Return a case as a suite of its own."""
    rows = {key: value for key, value in case.to_dict().items() if key not in ("suite", "home")}
    lines = [f"{key} = {_inline(value)}" for key, value in rows.items() if value is not None]
    return "\n".join([f"description = {json.dumps(case.why)}", "", "[[case]]", *lines, ""])


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items() if item is not None) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)
