"""A bundle: the files of one report with their hashes, so that it can be committed, moved and trusted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from dgref import suite, waivers
from dgref.errors import FileError, counted, expected
from dgref.files import read_json, write_atomically
from dgref.merging import missing_shards
from dgref.results import UNJUDGED, Result, Results, contradiction, load_results

SCHEMA = "dgref.bundle/1"
MANIFEST = "manifest.json"
_SUBSET = (
    "all: of a run of some cases only (-k, --case) the exit code decides, or a suite of your own that holds only them, "
    "or --suite with suites that ran whole"
)
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


def claims(results: Results) -> list[str]:
    """Return the suites that a run was asked for; of results that do not say it, those that their cases are of."""
    named = results.flags.get("suites")
    return named if isinstance(named, list) else list(dict.fromkeys(row.case.split("/")[0] for row in results))


def not_judged(results: Results) -> Iterator[str]:
    """Yield a line for each suite not judged whole: refused in part, not claimed, or not on the must-pass list."""
    listed, claimed = must_pass(), claims(results)
    for name in (name for name in listed if name in claimed):
        if count := len(_refused(results, name)):
            cases = counted(len(suite.load(name)), "case")
            yield f"served by no backend of this bundle: {count:,} of the {cases} of {name}"
    for name in (name for name in listed if name not in claimed):
        yield f"not claimed by this bundle: {name}, {counted(len(suite.load(name)), 'must-pass case')}"
    conforming = _conforming(results)
    for name in (name for name in claimed if name not in listed):
        held = sum(case.startswith(f"{name}/") for case in conforming)
        cases = {row.case for row in results if row.case.startswith(f"{name}/")}
        of = counted(len(cases), "case")
        yield f"not on the must-pass list: {name}, {held:,} of the bundle's {of} conform{'s' * (held == 1)}"


def remarks(results: Results, waiver_file: Path | None = None) -> Iterator[str]:
    """Yield a line for what is accepted and proves nothing: results that a waiver covers, and those only timed."""
    for waiver, rows in _by_waiver(results, waivers.load(waiver_file)):
        if waiver is not None:
            yield f"waived until {waiver.expires}, not conforming: {_listed(rows)}: {waiver.reason} ({waiver.link})"
    if rows := [row for row in results if row.ran and not row.judged]:
        yield f"{UNJUDGED}: {_listed(rows)}"


def check(
    folder: Path, suites: Iterable[str] | None = None, waiver_file: Path | None = None, today: date | None = None
) -> list[str]:
    """Return a sentence for everything that is wrong with a bundle; an empty list where nothing is.

    Every file has the hash that the manifest says; every case of `suites` has a result that conforms; something was
    judged and no result is wrong; no shard is missing; every waived result has a waiver that has not expired. Without
    `suites`, those of `must_pass` that the bundle claims are held to what their backends serve: a case that all of them
    refuse, each with its reason, is no problem.
    """
    problems = list(_files(folder))
    results = load_results(folder)
    claimed = [name for name in must_pass() if name in claims(results)]
    problems += [f"{row.case} on {row.backend}: {row.status}: {row.reason}" for row in results if row.bad]
    problems += [*filter(None, map(contradiction, results)), *missing_shards(results), *_unproven(results)]
    for name in claimed if suites is None else suites:
        problems += _missing(results, name, _refused(results, name) if suites is None else set())
    return problems + list(_unwaived(results, waivers.load(waiver_file), today or date.today()))


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
    data = read_json(path, "the manifest of a bundle")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("files"), dict):
        raise FileError(expected(str(path), "another file", f"a manifest of schema {SCHEMA}"))
    if any(Path(name).name != name for name in data["files"]):
        raise FileError(expected(str(path), "a path among its files", "names without a folder"))
    return data["files"]


def _conforming(results: Results) -> set[str]:
    return {row.case for row in results if row.conforms}


def _refused(results: Results, name: str) -> set[str]:
    """Return the cases of a suite that were tried and that no backend serves."""
    rows = [row for row in results if row.case.startswith(f"{name}/")]
    served = {row.case for row in rows if row.status not in ("unsupported", "unavailable")}
    # A suite of which nothing at all was served is claimed in name only.
    return {row.case for row in rows} - served if served else set()


def _missing(results: Results, name: str, excused: set[str]) -> Iterator[str]:
    """Yield a line for a suite of which a case that is neither excused nor waived has no conforming result."""
    held = _conforming(results) | {row.case for row in results if row.status == "waived"} | excused
    present = {row.case for row in results}
    cases = [case.name for case in suite.load(name).cases]
    if missing := [case for case in cases if case not in held]:
        absent = sum(case not in present for case in missing)
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        got = f"no conforming result for {len(missing):,} of {counted(len(cases), 'case')}, {absent:,} of them absent"
        yield expected(f"suite {name}", f"{got}: {shown}", _SUBSET if 0 < absent < len(cases) else "all")


def _unproven(results: Results) -> Iterator[str]:
    if not any(row.judged for row in results):
        statuses = ", ".join(f"{count:,} {status}" for status, count in results.counts.items())
        yield expected("results", f"none that was judged{statuses and f' ({statuses})'}", "at least one")
    yield from results.unmet


def _by_waiver(results: Results, known: list[waivers.Waiver]) -> Iterator[tuple[waivers.Waiver | None, list[Result]]]:
    """Yield each waiver with the waived results that it is the first to cover; None with those that none covers."""
    covering: dict[waivers.Waiver | None, list[Result]] = {}
    for row in (row for row in results if row.status == "waived"):
        covering.setdefault(next((waiver for waiver in known if waiver.covers(row)), None), []).append(row)
    yield from covering.items()


def _unwaived(results: Results, known: list[waivers.Waiver], today: date) -> Iterator[str]:
    """Yield a line for waived results that no waiver covers, and for each waiver that has expired since."""
    for waiver, rows in _by_waiver(results, known):
        if waiver is None:
            got = f"no waiver that covers {_listed(rows)}"
            yield expected("waived results", got, "the waivers of the run: --waivers FILE")
        elif waiver.expires < today:
            yield expected(f"waiver of {waiver.case} on {waiver.backend}", f"expired on {waiver.expires}", "a fix")


def _listed(rows: list[Result]) -> str:
    """Return how many results these are, and the first of their names."""
    named = ", ".join(f"{row.case} on {row.backend}" for row in rows[:3])
    return f"{counted(len(rows), 'result')}: {named}" + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
