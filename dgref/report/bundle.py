"""A bundle: the files of one report with their hashes, so that it can be committed, moved and trusted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from dgref import suite, waivers
from dgref.compare.verdict import LEVELS
from dgref.errors import FileError, expected
from dgref.files import write_atomically
from dgref.results import UNJUDGED, Result, Results, load_results

SCHEMA = "dgref.bundle/1"
MANIFEST = "manifest.json"
FILES = ("results.json", "junit.xml", "index.html")


def write_bundle(results: Results, folder: Path) -> Path:
    """Write results.json, junit.xml, index.html and their manifest into a folder; return the page's path."""
    from dgref.report import html, junit

    results.save(folder / "results.json")
    write_atomically(folder / "junit.xml", junit.render(results))
    page = write_atomically(folder / "index.html", html.render(results))
    manifest = {"schema": SCHEMA, "files": {name: _facts(folder / name) for name in FILES}}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))
    return page


def _facts(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def must_pass() -> list[str]:
    """Return the suites whose every case a complete bundle holds: those with `default = true`."""
    return [name for name in suite.names() if suite.load(name).default]


def check(
    folder: Path, suites: Iterable[str] | None = None, waiver_file: Path | None = None, today: date | None = None
) -> list[str]:
    """Return a sentence for everything that is wrong with a bundle; an empty list where nothing is.

    Every file has the hash that the manifest says; every case of the suites (by default those of `must_pass`) has a
    result that conforms; no result is wrong; no waiver of the bundle's results has expired.
    """
    problems = list(_files(folder))
    results = load_results(folder)
    problems += [f"{row.case} on {row.backend}: {row.status}: {row.reason}" for row in results if row.bad]
    problems += [sentence for row in results for sentence in _contradiction(row)]
    problems += _missing(results, must_pass() if suites is None else suites)
    return problems + list(_expired(results, waivers.load(waiver_file), today or date.today()))


def _contradiction(row: Result) -> Iterator[str]:
    """Yield what is impossible about a result: a pass whose level does not reach what was required."""
    if row.status != "pass" or not row.required or row.reason == UNJUDGED:
        return
    if row.level not in LEVELS or LEVELS.index(row.level) > LEVELS.index(row.required):
        yield f"{row.case} on {row.backend}: got a pass at level {row.level}, need {row.required}: the file was changed"


def _files(folder: Path) -> Iterator[str]:
    listed = _manifest(folder)
    for name in sorted(listed.keys() | set(FILES)):
        path, facts = folder / name, listed.get(name)
        if not isinstance(facts, dict):
            yield expected(name, "no entry in the manifest", "its hash")
        elif not path.is_file():
            yield expected(name, "no such file", "the file that the manifest lists")
        elif _facts(path) != facts:
            yield expected(name, "other bytes", "those whose hash the manifest holds: changed after the run")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(expected(str(path), error.strerror, "the manifest of a bundle")) from error
    except ValueError as error:
        raise FileError(expected(str(path), f"invalid JSON ({error})", "the manifest of a bundle")) from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("files"), dict):
        raise FileError(expected(str(path), "another file", f"a manifest of schema {SCHEMA}"))
    if any(Path(name).name != name for name in data["files"]):
        raise FileError(expected(str(path), "a path among its files", "names without a folder"))
    return data["files"]


def _missing(results: Results, suites: Iterable[str]) -> list[str]:
    conforming = {row.case for row in results if row.ran and not row.bad}
    wanted = [case.name for name in suites for case in suite.load(name).cases]
    missing = [name for name in wanted if name not in conforming]
    if not missing:
        return []
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return [expected("must-pass cases", f"no conforming result for {len(missing)} of {len(wanted)}: {shown}", "all")]


def _expired(results: Results, known: list[waivers.Waiver], today: date) -> Iterator[str]:
    for waiver in known:
        used = any(row.status == "waived" and waiver.covers(row) for row in results)
        if used and waiver.expires < today:
            yield expected(f"waiver of {waiver.case} on {waiver.backend}", f"expired on {waiver.expires}", "a fix")
