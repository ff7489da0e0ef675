"""Results as JSON lines, each complete when written: what a killed run leaves for `--resume`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dgref.errors import FileError, InputError, expected
from dgref.files import as_path, write_atomically
from dgref.results import SCHEMA, Result, parse_results


class Journal:
    """A file that grows by one line a result; without a path it holds nothing.

    The first line says what the results depend on; a run with other settings or another commit does not resume.
    """

    def __init__(self, path: Path | None, header: dict[str, Any], resume: bool):
        self.done: dict[tuple[str, str], Result] = {}
        self._file: Any = None
        if path is None:
            return
        path = as_path("journal", path)
        lines = [json.dumps({"schema": SCHEMA, **header}, sort_keys=True)]
        if resume and path.exists():
            kept = _read(path, lines[0])
            self.done = {(row.case, row.backend): row for row in kept}
            lines += [_line(row) for row in kept]
        write_atomically(path, "".join(f"{line}\n" for line in lines))
        self._file = path.open("a", encoding="utf-8")

    def append(self, result: Result) -> None:
        """Write one result through to the file."""
        if self._file is not None:
            try:
                self._file.write(_line(result) + "\n")
                self._file.flush()
            except OSError as error:
                raise FileError(expected(self._file.name, error.strerror, "a journal that can be written")) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *details: Any) -> None:
        if self._file is not None:
            with suppress(OSError):  # nothing is left to write, unless the last result could not be
                self._file.close()


def _line(result: Result) -> str:
    return json.dumps(asdict(result), default=str)


def _read(path: Path, header: str) -> list[Result]:
    """Return the results of an interrupted run; a line that is half written, as the last may be, is left out."""
    try:
        first, *rest = path.read_bytes().decode("utf-8", errors="replace").splitlines() or [header]
    except OSError as error:
        raise FileError(expected(str(path), error.strerror, "a readable journal")) from error
    if first != header:
        need = "the settings, backends and commit of the interrupted run; start again without --resume"
        raise InputError(expected(f"--resume of {path}", "another run's journal", need))
    rows = []
    for line in rest:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return parse_results({"schema": SCHEMA, "results": rows}, str(path)).results
