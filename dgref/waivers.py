"""Known failures of backends, as data beside the suites: id, backend, reason, link, expiry date.

A waived case that passes, or whose waiver has expired, fails the run: waivers are debts, not excuses.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from dgref.errors import SuiteError, expected
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
    """Return the waivers of a TOML file, by default `waivers.toml` beside the suites; none where it is absent."""
    path = path or folder() / "waivers" / "waivers.toml"
    if not path.is_file():
        return []
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8")).get("waiver", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(expected(path.name, error, "valid TOML in UTF-8")) from error
    return [_waiver(row, f"{path.name} waiver #{i}") for i, row in enumerate(rows, 1)]


def _waiver(row: dict, context: str) -> Waiver:
    names = [f.name for f in fields(Waiver)]
    if set(row) != set(names):
        raise SuiteError(expected(context, f"fields {sorted(row)}", f"exactly {sorted(names)}"))
    if not isinstance(row["expires"], date):
        raise SuiteError(expected(f"{context} field 'expires'", repr(row["expires"]), "a date such as 2027-01-31"))
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
