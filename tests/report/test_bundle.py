"""A bundle can be trusted: what changed, what is missing and what has expired is said."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from dgref.errors import FileError
from dgref.report import write_bundle
from dgref.report.bundle import check, must_pass, not_judged
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
    assert "suite smoke: got no conforming result for 2 of" in problem
    assert "1 of them absent" in problem


@pytest.mark.parametrize("flags", [{}, {"suites": ["smoke"]}])
def test_a_bundle_is_held_to_the_suites_it_claims_and_says_which_it_does_not(tmp_path: Path, flags: dict) -> None:
    results = conforming("smoke")
    results.flags = flags
    write_bundle(results, tmp_path)
    assert check(tmp_path) == []
    lines = list(not_judged(results))
    assert len(lines) == len(must_pass()) - 1
    assert f"not claimed by this bundle: gemm, {len(load('gemm'))} must-pass cases" in lines


def test_a_suite_that_was_asked_for_and_gave_nothing_is_a_problem(tmp_path: Path) -> None:
    results = conforming("smoke")
    results.flags = {"suites": ["smoke", "moe"]}
    write_bundle(results, tmp_path)
    (problem,) = check(tmp_path)
    assert problem.startswith("suite moe: got no conforming result")


def test_a_case_that_every_backend_refuses_is_counted_and_required_only_by_name(tmp_path: Path) -> None:
    results = conforming("smoke")
    results.flags = {"suites": ["smoke"]}
    results.results[0].status = "unsupported"
    write_bundle(results, tmp_path)
    assert check(tmp_path) == []
    assert f"served by no backend of this bundle: 1 of the {len(load('smoke'))} cases of smoke" in not_judged(results)
    (problem,) = check(tmp_path, ["smoke"])
    assert "no conforming result for 1 of" in problem


def test_a_suite_off_the_must_pass_list_is_counted_and_not_required() -> None:
    results = Results([Result("deepseek/x", "mine", "pass"), Result("deepseek/y", "mine", "unsupported")])
    assert "not on the must-pass list: deepseek, 1 of the bundle's 2 cases conforms" in list(not_judged(results))


def test_what_picked_some_cases_of_a_suite_is_told_how_to_gate_them(tmp_path: Path) -> None:
    results = conforming("smoke")
    del results.results[1:]
    results.flags = {"suites": ["smoke"]}
    write_bundle(results, tmp_path)
    (problem,) = check(tmp_path)
    assert "of a run of some cases only (-k, --case) the exit code decides" in problem


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
