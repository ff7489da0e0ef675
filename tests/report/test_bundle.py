"""A bundle can be trusted: what changed, what is missing and what has expired is said."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from dgref.errors import FileError
from dgref.report import write_bundle
from dgref.report.bundle import check, must_pass, not_judged, remarks
from dgref.results import UNJUDGED, Result, Results
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
    rows = [Result("deepseek/x", "mine", "pass", level="model"), Result("deepseek/y", "mine", "unsupported")]
    assert "not on the must-pass list: deepseek, 1 of the bundle's 2 cases conforms" in list(not_judged(Results(rows)))


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
    results = conforming("smoke", "waived")
    write_bundle(results, tmp_path / "x")
    assert check(tmp_path / "x", ["smoke"], path, today=date(2026, 1, 31)) == []
    assert "expired on 2026-01-31" in check(tmp_path / "x", ["smoke"], path, today=date(2026, 2, 1))[0]
    (line,) = remarks(results, path)
    assert line.startswith(f"waived until 2026-01-31, not conforming: {len(results)} results: smoke/")


def test_a_waived_result_that_no_waiver_covers_is_a_problem_and_no_waived_case_conforms(tmp_path: Path) -> None:
    rows = [Result(f"own/{number}", "mine", "waived", "known", "bounded") for number in range(4)]
    write_bundle(Results(rows), tmp_path)
    assert check(tmp_path) == [
        "waived results: got no waiver that covers 4 results: own/0 on mine, own/1 on mine, own/2 on mine and 1 more, "
        "need the waivers of the run: --waivers FILE"
    ]
    assert "not on the must-pass list: own, 0 of the bundle's 4 cases conform" in not_judged(Results(rows))


def test_what_was_only_timed_is_counted_and_makes_no_case_conform(tmp_path: Path) -> None:
    results = conforming("smoke")
    results.results[0] = Result(results.results[0].case, "mine", "pass", UNJUDGED)
    write_bundle(results, tmp_path)
    (problem,) = check(tmp_path)
    assert f"no conforming result for 1 of {len(results)} cases, 0 of them absent: {results.results[0].case}" in problem
    assert list(remarks(results)) == [f"timed, not judged: 1 result: {results.results[0].case} on mine"]


@pytest.mark.parametrize(
    ("rows", "statuses"),
    [
        ([], ""),
        ([Result("own/x", "mine", "unsupported"), Result("own/y", "mine", "skipped")], " (1 unsupported, 1 skipped)"),
        ([Result("own/x", "mine", "pass", UNJUDGED)], " (1 pass)"),
    ],
)
def test_a_bundle_in_which_nothing_was_judged_is_a_problem(tmp_path: Path, rows: list[Result], statuses: str) -> None:
    write_bundle(Results(rows), tmp_path)
    assert check(tmp_path) == [f"results: got none that was judged{statuses}, need at least one"]


def test_a_required_backend_that_judged_nothing_is_a_problem(tmp_path: Path) -> None:
    rows = [Result("own/x", "mine", "pass", level="exact"), Result("own/x", "cuda", "unavailable", "no device")]
    write_bundle(Results(rows, flags={"required": {"cuda": ["cuda"]}}), tmp_path)
    said = "required backend cuda: got no judged result (no device), need at least one"
    assert check(tmp_path) == [said]


@pytest.mark.parametrize(
    ("level", "required", "reason"),
    [
        ("wrong", None, ""), (None, None, ""), (None, "", ""), ("wrong", "", ""), ("bounded", "model", ""),
        ("bounded", "wrong", ""), ("wrong", None, UNJUDGED),
    ],
)  # fmt: skip
def test_a_pass_at_no_level_that_it_could_have_is_a_contradiction(
    tmp_path: Path, level: str | None, required: str | None, reason: str
) -> None:
    rows = [Result("own/x", "mine", "pass", reason, level, required), Result("own/y", "mine", "pass", level="exact")]
    write_bundle(Results(rows), tmp_path)
    (problem,) = check(tmp_path)
    assert problem.startswith(f"own/x on mine: got a pass at level {level or 'none'}, need ")


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
