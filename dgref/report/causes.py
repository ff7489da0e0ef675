"""What is wrong in a run, grouped by why: the diagnosed fault, or how a result came to be bad; and what was not run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dgref.errors import counted
from dgref.results import Result

UNKNOWN = "no cause found"
UNSOUGHT = "not diagnosed"
CRASHED = "the search for a cause failed"
_RAISED = re.compile(r"(\w+(?:Error|Exception)): ")


@dataclass(frozen=True)
class Cause:
    """Bad results of one cause, in the order of the run."""

    name: str
    rows: tuple[Result, ...]


def causes(results: Iterable[Result]) -> list[Cause]:
    """Return every cause of bad results, the most frequent first; among equals the one that was met first."""
    groups: dict[str, list[Result]] = {}
    for row in results:
        if row.bad:
            groups.setdefault(cause_of(row), []).append(row)
    found = [Cause(name, tuple(rows)) for name, rows in groups.items()]
    return sorted(found, key=lambda cause: -len(cause.rows))


@dataclass(frozen=True)
class Reason:
    """Why results were not run, how many, and on which backends."""

    text: str
    count: int
    backends: tuple[str, ...]


def reasons_not_run(results: Iterable[Result]) -> list[Reason]:
    """Return every reason why results were not run, the most frequent first."""
    named: dict[str, list[str]] = {}
    for row in results:
        if not row.ran:
            named.setdefault(row.reason or row.status, []).append(row.backend)
    found = [Reason(text, len(names), tuple(dict.fromkeys(names))) for text, names in named.items()]
    return sorted(found, key=lambda reason: -reason.count)


def known_failures(count: int) -> str:
    """Return the words for results that are wrong, as a waiver says."""
    return f"{counted(count, 'known failure')} waived"


def cause_of(row: Result) -> str:
    """Return the name of the diagnosed fault; where there is none, how the result came to be bad."""
    diagnosis = row.diagnosis or {}
    if diagnosis.get("hypothesis") and diagnosis.get("status") != "none":
        parts = str(diagnosis["hypothesis"]).replace("_", " ").split("+")  # one fault in both operands is one cause
        return " + ".join(dict.fromkeys(parts))
    raised = _RAISED.match(row.reason) if row.status == "error" else None
    status = row.status.replace("_", " ")
    unnamed = CRASHED if not diagnosis and row.explanation else status
    if row.status == "fail" and unnamed == status:
        unnamed = UNKNOWN if diagnosis else UNSOUGHT
    return f"error: {raised[1]}" if raised else unnamed
