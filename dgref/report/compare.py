"""Two runs against each other: what became wrong, weaker, slower or absent, and what changed without being wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dgref.results import Result, Results
from dgref.suite import LEVELS

SPEED_TOLERANCE = 0.05  # medians of one kernel on one machine move a few percent between runs
REGRESSIONS = ("wrong", "weaker", "slower", "absent")


@dataclass(frozen=True)
class Change:
    """One case and backend of which two runs say different things."""

    kind: str  # wrong, weaker, slower, absent; better, faster, new; bits
    case: str
    backend: str
    before: str
    after: str

    @property
    def regression(self) -> bool:
        """Whether this change must turn a gate red."""
        return self.kind in REGRESSIONS


def compare(before: Results, after: Results, tolerance: float = SPEED_TOLERANCE) -> list[Change]:
    """Return every change, regressions first. What ran before and does not run now is absent: a regression."""
    old = {(row.case, row.backend): row for row in before}
    new = {(row.case, row.backend): row for row in after}
    changes = [change for key in old | new for change in _changes(old.get(key), new.get(key), tolerance)]
    order = [*REGRESSIONS, "bits", "better", "faster", "new"]
    return sorted(changes, key=lambda change: (order.index(change.kind), change.case, change.backend))


def _changes(old: Result | None, new: Result | None, tolerance: float) -> Iterator[Change]:
    row = new or old
    if row is None:
        return
    before, after = _described(old), _described(new)
    ran_before, ran_after = old is not None and old.ran, new is not None and new.ran
    if ran_before != ran_after:
        yield Change("new" if ran_after else "absent", row.case, row.backend, before, after)
    elif ran_before and old and new:
        kind = _kind(old, new)
        if kind:
            yield Change(kind, row.case, row.backend, before, after)
        yield from _speed(old, new, tolerance)


def _described(row: Result | None) -> str:
    if row is None:
        return "not in the run"
    return f"{row.status} ({row.level})" if row.level and row.ran else row.status


def _kind(old: Result, new: Result) -> str | None:
    if old.bad != new.bad:
        return "wrong" if new.bad else "better"
    if _rank(new) != _rank(old):
        return "better" if _rank(new) < _rank(old) else "weaker"
    bits = old.evidence.get("bits"), new.evidence.get("bits")
    return "bits" if None not in bits and bits[0] != bits[1] else None


def _rank(row: Result) -> int:
    """Return the place of a result's level, 0 for the strongest; no level is no better than a wrong one."""
    return LEVELS.index(row.level if row.level in LEVELS else "wrong")


def _speed(old: Result, new: Result, tolerance: float) -> Iterator[Change]:
    before, after = old.throughput.get("microseconds"), new.throughput.get("microseconds")
    if not before or not after:
        return
    ratio = after / before
    if ratio > 1 + tolerance or ratio < 1 / (1 + tolerance):
        kind = "slower" if ratio > 1 else "faster"
        yield Change(kind, new.case, new.backend, f"{before:.1f} us", f"{after:.1f} us ({ratio:.2f}x)")
