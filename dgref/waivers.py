"""Known failures of backends, as data beside the suites: id, backend, reason, link, expiry date.

A waived case that passes, or whose waiver has expired, fails the run: waivers are debts, not excuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dgref.backends import backends
from dgref.errors import SuiteError, counted, expected, near_names, shown, unknown_name
from dgref.files import as_path, read_toml
from dgref.results import Result
from dgref.suite import Suite, folder, names
from dgref.suite import load as load_suite

WAIVABLE = frozenset({"fail", "nondeterministic", "error", "crash", "timeout", "out_of_memory"})


@dataclass(frozen=True)
class Waiver:
    """One known failure; `case` and `backend` may hold `*`."""

    case: str
    backend: str
    reason: str
    link: str
    expires: date

    def covers(self, result: Result) -> bool:
        """Say whether this waiver is about that case and backend."""
        return fnmatchcase(result.case, self.case) and fnmatchcase(result.backend, self.backend)


def load(path: Path | None = None) -> list[Waiver]:
    """Return the waivers of a TOML file; without a path, those that ship beside the suites, if there are any."""
    shipped = folder() / "waivers" / "waivers.toml"
    if path is None and not shipped.is_file():
        return []
    path = shipped if path is None else as_path("waivers", path)
    data = read_toml(path, "a readable file of waivers")
    rows = data.get("waiver", [])
    if set(data) - {"waiver"} or not isinstance(rows, list):
        raise SuiteError(expected(path.name, ", ".join(data), "tables under [[waiver]] and nothing else"))
    return [_waiver(row, f"{path.name} waiver #{i}") for i, row in enumerate(rows, 1)]


def _waiver(row: Any, context: str) -> Waiver:
    names = [f.name for f in fields(Waiver)]
    if not isinstance(row, dict):
        raise SuiteError(expected(context, shown(row), f"a table of {', '.join(names)}"))
    missing, other = (", ".join(name for name in one if name not in two) for one, two in ((names, row), (row, names)))
    found = [*([f"no {missing}"] if missing else []), *([f"also {other}"] if other else [])]
    if found:
        raise SuiteError(expected(f"{context} fields", " and ".join(found), f"{', '.join(names)}, and no other"))
    for name, value in row.items():
        kind, need = (date, "a date such as 2027-01-31") if name == "expires" else (str, "a text")
        if type(value) is not kind or not value:
            raise SuiteError(expected(f"{context} field {name!r}", repr(value), need))
    return Waiver(**row)


def idle(waivers: Sequence[Waiver], suites: Sequence[Suite], run: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each waiver that can match no result: no suite, no case of it, or no backend is called so.

    A waiver of a shipped suite or a known backend that this run leaves out is no concern of it.
    """
    if not waivers:
        return
    held = {row.name: [case.name for case in row.cases] for row in (*map(load_suite, names()), *suites)}
    called = {*backends(), *run}
    for waiver in waivers:
        about = f"of the waiver of {waiver.case} on {waiver.backend}"
        if not any(fnmatchcase(case, waiver.case) for cases in held.values() for case in cases):
            yield _unmatched(waiver.case, about, held)
        elif not any(fnmatchcase(name, waiver.backend) for name in called):
            yield str(unknown_name(f"backend {about}", waiver.backend, called))


def _unmatched(pattern: str, about: str, held: Mapping[str, Sequence[str]]) -> str:
    suite = pattern.partition("/")[0]
    meant = [name for name in held if fnmatchcase(name, suite)]
    if not meant:
        return str(unknown_name(f"suite {about}", suite, held))
    cases = [case for name in meant for case in held[name]]
    where = meant[0] if len(meant) == 1 else counted(len(meant), "suite")
    near = " or ".join(near_names(pattern.lower(), sorted(cases)))
    need = f"a name or pattern of one of {counted(len(cases), 'case')} of {where}{near and f' (near names: {near})'}"
    return expected(f"case {about}", f"{pattern!r}, which matches no case", need)


def apply(result: Result, waivers: list[Waiver], today: date | None = None) -> Result:
    """Return the result with its status changed as the first waiver that covers it says."""
    waiver = next((row for row in waivers if row.covers(result)), None)
    if waiver is None:
        return result
    note = f"{waiver.reason} ({waiver.link})"
    if result.status == "pass":
        reason = f"waived as failing, but it passes: remove the waiver: {note}"
        return replace(result, status="unexpected_pass", reason=reason)
    if result.status not in WAIVABLE:
        return result
    if waiver.expires < (today or date.today()):
        reason = f"{result.reason}; waiver expired on {waiver.expires}: {note}"
        return replace(result, status="expired_waiver", reason=reason)
    return replace(result, status="waived", reason=f"{result.reason}; waived until {waiver.expires}: {note}")
