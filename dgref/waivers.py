"""Known failures of backends, as data beside the suites: id, backend, reason, link, expiry date.

A waived case that passes, or whose waiver has expired, fails the run: waivers are debts, not excuses.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dgref.errors import SuiteError, expected
from dgref.files import as_path, read_toml
from dgref.results import Result
from dgref.suite import folder

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
    found = sorted(row) if isinstance(row, dict) else repr(row)
    if found != sorted(names):
        raise SuiteError(expected(f"{context} fields", found, f"exactly {sorted(names)}"))
    for name, value in row.items():
        kind, need = (date, "a date such as 2027-01-31") if name == "expires" else (str, "a text")
        if type(value) is not kind or not value:
            raise SuiteError(expected(f"{context} field {name!r}", repr(value), need))
    return Waiver(**row)


def apply(result: Result, waivers: list[Waiver], today: date | None = None) -> Result:
    """Return the result with its status changed as the first waiver that covers it says."""
    waiver = next((row for row in waivers if row.covers(result)), None)
    if waiver is None:
        return result
    note = f"{waiver.reason} ({waiver.link})"
    if result.status == "pass":
        result.status, result.reason = "unexpected_pass", f"waived as failing, but it passes: remove the waiver: {note}"
    elif result.status in WAIVABLE and waiver.expires < (today or date.today()):
        result.status, result.reason = "expired_waiver", f"{result.reason}; waiver expired on {waiver.expires}: {note}"
    elif result.status in WAIVABLE:
        result.status, result.reason = "waived", f"{result.reason}; waived until {waiver.expires}: {note}"
    return result
