"""Results as JSON lines, each complete when written: what a killed run leaves, to go on from or to report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgref.errors import FileError, InputError, counted, expected
from dgref.files import as_path, write_atomically
from dgref.results import SCHEMA, Result, Results, contradiction, parse_results
from dgref.suite import Case

Header = Mapping[str, Any]


class Journal:
    """A file that grows by one line a result; without a path it holds nothing.

    The first line says what all results depend on: a run of which any of that has changed does not resume. Each other
    line names its case by a hash: a result of a case that has changed since, or that `usable` refuses, is left out, so
    that it runs again.
    """

    def __init__(
        self,
        path: Path | None,
        header: Header,
        resume: bool,
        cases: Iterable[Case] = (),
        usable: Callable[[Result], bool] | None = None,
    ):
        self.done: dict[tuple[str, str], Result] = {}
        self._file: Any = None
        self._hashes = {case.name: _hash(case) for case in cases}
        if path is None:
            return
        path = as_path("journal", path)
        lines = [json.dumps({"schema": SCHEMA, **header}, sort_keys=True)]
        if resume and path.exists():
            kept = [row for row in _read(path, lines[0], self._hashes) if contradiction(row) is None]
            kept = list(filter(usable, kept)) if usable else kept
            self.done = {(row.case, row.backend): row for row in kept}
            lines += map(self._line, kept)
        write_atomically(path, "".join(f"{line}\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")

    def append(self, result: Result) -> None:
        """Write one result through to the file."""
        if self._file is not None:
            try:
                self._file.write(self._line(result) + "\n")
                self._file.flush()
            except OSError as error:
                raise FileError(expected(self._file.name, error.strerror, "a journal that can be written")) from error

    def _line(self, result: Result) -> str:
        return json.dumps({"hash": self._hashes.get(result.case), **asdict(result)}, default=str)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *details: Any) -> None:
        if self._file is not None:
            with suppress(OSError):  # nothing is left to write, unless the last result could not be
                self._file.close()


def _hash(case: Case) -> str:
    return hashlib.sha256(json.dumps(case.to_dict(), sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(path: Path, header: str, hashes: Mapping[str, str]) -> list[Result]:
    """Return the results of an interrupted run; a line that is half written, as the last may be, is left out."""
    first, *rest = _lines(path) or [header]
    changed = list(_changed(_parsed(first), json.loads(header)))
    if changed:
        need = "what the interrupted run had; start again without --resume"
        raise InputError(expected(f"--resume of {path}", f"another run's journal, of other {', '.join(changed)}", need))
    rows = _whole(rest)
    rows = [row for row in rows if not isinstance(row, dict) or row.get("hash") == hashes.get(str(row.get("case")))]
    return parse_results({"schema": SCHEMA, "results": rows}, str(path)).results


def load_journal(path: Path) -> Results:
    """Return what a run had found when it was cut off, with a warning that says so; waivers are not applied."""
    first, *rest = _lines(path) or [""]
    header, rows = _parsed(first), _whole(rest)
    about = header if isinstance(header, dict) else {}
    flags = {name: about[name] for name in ("backends", "settings") if name in about}
    got = f"{counted(len(rows), 'result')} that came before it was cut off"
    warning = expected("an interrupted run", got, "all: add --resume to its command")
    data = {
        "schema": about.get("schema", "no schema"),
        "machine": about.get("machine"),
        "flags": flags,
        "warnings": [warning],
    }
    return parse_results({**data, "results": rows}, str(path))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FileError(expected(str(path), error.strerror, "a readable journal")) from error


def _whole(lines: Iterable[str]) -> list[Any]:
    """Return what the lines hold that are whole."""
    return [row for row in map(_parsed, lines) if row is not None]


def _parsed(line: str) -> Any:
    """Return what a line holds; None where it is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _changed(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield the name of everything that two headers say differently."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _changed(before.get(key), now.get(key), f"{name}: {key}" if name else key)
    elif before != now:
        yield name or "contents"
