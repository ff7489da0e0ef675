"""A bundle can be trusted: what changed, what is missing and what has expired is said."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from dgref.errors import FileError
from dgref.report import write_bundle
from dgref.report.bundle import check, must_pass
from dgref.results import Result, Results
from dgref.suite import load
from tests import samples

WAIVED = """
[[waiver]]
case = "smoke/*"
backend = "mine"
reason = "known"
link = "https://example.org/1"
expires = 2026-01-31
"""


def conforming(suite: str, status: str = "pass") -> Results:
    rows = [Result(case.name, "mine", status, level="model") for case in load(suite).cases]
    return Results(rows, {"processor": "a CPU"})


def test_a_complete_bundle_has_no_problem(tmp_path: Path) -> None:
    write_bundle(conforming("smoke"), tmp_path)
    assert check(tmp_path, ["smoke"]) == []


@pytest.mark.parametrize("name", ["results.json", "junit.xml", "index.html"])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_bundle(conforming("smoke"), tmp_path)
    with (tmp_path / name).open("a") as file:
        file.write(" ")
    assert check(tmp_path, ["smoke"]) == [
        f"{name}: got other bytes, need those whose hash the manifest holds: changed after the run"
    ]
    if name != "results.json":
        (tmp_path / name).unlink()
        assert "no such file" in check(tmp_path, ["smoke"])[0]


def test_cases_that_did_not_conform_are_counted_against_the_must_pass_list(tmp_path: Path) -> None:
    results = conforming("smoke")
    results.results[0].status = "unsupported"
    del results.results[1]
    write_bundle(results, tmp_path)
    (problem,) = check(tmp_path, ["smoke"])
    assert "no conforming result for 2 of" in problem


def test_wrong_results_are_problems(tmp_path: Path) -> None:
    write_bundle(samples.results(2, wrong=1), tmp_path)
    assert check(tmp_path, [])[0].startswith("sample/case-0 on mine: fail")


def test_waivers_that_have_expired_since_are_problems(tmp_path: Path) -> None:
    path = tmp_path / "waivers.toml"
    path.write_text(WAIVED)
    write_bundle(conforming("smoke", "waived"), tmp_path / "x")
    assert check(tmp_path / "x", ["smoke"], path, today=date(2026, 1, 31)) == []
    assert "expired on 2026-01-31" in check(tmp_path / "x", ["smoke"], path, today=date(2026, 2, 1))[0]


def test_the_must_pass_list_is_the_default_suites() -> None:
    assert "smoke" in must_pass()
    assert all(load(name).default for name in must_pass())


@pytest.mark.parametrize("text", [None, "", "{}", '{"schema": "dgref.bundle/1", "files": {"../x": {}}}'])
def test_a_folder_that_is_no_bundle_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FileError, match=r"manifest\.json"):
        check(tmp_path)


def test_the_manifest_lists_every_file_with_its_size(tmp_path: Path) -> None:
    write_bundle(samples.results(), tmp_path)
    listed = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert {name: row["bytes"] for name, row in listed.items()} == {
        path.name: path.stat().st_size for path in tmp_path.iterdir() if path.name != "manifest.json"
    }
