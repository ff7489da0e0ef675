"""JUnit and GitHub annotations: what CI systems parse stays parseable whatever a reason says."""

from __future__ import annotations

from datetime import date
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import waivers
from dgref.report import html, junit, terminal
from dgref.results import STATUSES, Result, Results
from tests import samples


def test_junit_counts_what_failed_erred_and_was_skipped() -> None:
    rows = [Result(f"s/{status}", "b", status, "why") for status in STATUSES]
    (suite,) = ElementTree.fromstring(junit.render(Results(rows)))
    assert suite.get("name") == "b"
    assert int(suite.get("tests")) == len(STATUSES) == len(suite)
    assert (suite.get("skipped"), suite.get("errors")) == ("4", "2")
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == 7


def test_known_failures_stay_visible_and_fail_nothing(capsys: pytest.CaptureFixture) -> None:
    waiver = waivers.Waiver("s/*", "b", "the last tile is lost", "https://example.org/12", date(2999, 1, 31))
    row = waivers.apply(Result("s/x", "b", "fail", "d: 4 of 128 differ"), [waiver])
    said = "d: 4 of 128 differ; waived until 2999-01-31: the last tile is lost (https://example.org/12)"
    (suite,) = ElementTree.fromstring(junit.render(Results([row])))
    assert (suite.get("skipped"), suite.get("failures")) == ("1", "0")
    assert suite.find("testcase/skipped").get("message") == f"waived: {said}"
    terminal.github_annotations(Results([row]))
    assert capsys.readouterr().out == f"::warning title=s/x on b::{said}\n"


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_junit_is_xml_whatever_a_reason_says(reason: str) -> None:
    root = ElementTree.fromstring(junit.render(Results([Result("s/x", "b", "fail", reason, reproduce=reason)])))
    assert root.find("testsuite/testcase/failure") is not None


def test_annotations_are_one_line_each_and_escaped(capsys: pytest.CaptureFixture) -> None:
    row = Result("s/x,y:z", "b", "fail", "100% wrong\nsecond line", reproduce="dgref run s")
    terminal.github_annotations(Results([row, Result("s/good", "b", "pass")]))
    assert capsys.readouterr().out == (
        "::error title=s/x%2Cy%3Az on b::100%25 wrong%0Asecond line | again: dgref run s\n"
    )


RAISED = Result(
    "s/x", "b", "error", "ValueError: no",
    evidence={"raised": "mine.py, line 5, in prepare", "traceback": "Traceback ..."},
    diagnosis={"sentence": "it is so", "fix": "do this"}, reproduce="dgref run s",
)  # fmt: skip
NOTES = ["at: mine.py, line 5, in prepare", "cause: it is so", "fix: do this", "again: dgref run s"]


def test_every_report_says_where_why_and_what_to_do(capsys: pytest.CaptureFixture) -> None:
    (case,) = ElementTree.fromstring(junit.render(Results([RAISED])))[0]
    assert case[0].text.splitlines() == ["ValueError: no", *NOTES, "Traceback ..."]
    terminal.github_annotations(Results([RAISED]))
    assert capsys.readouterr().out == f"::error title=s/x on b::{' | '.join(['ValueError: no', *NOTES])}\n"
    terminal.summary(Results([RAISED]))
    shown = capsys.readouterr().out
    assert all(f"  {line}\n" in shown for line in NOTES)
    page = html.render(Results([RAISED]))
    assert "(mine.py, line 5, in prepare)" in page
    assert "<summary>traceback</summary><pre>Traceback ...</pre>" in page


def test_the_summary_names_what_is_wrong_and_how_to_see_it_again(capsys: pytest.CaptureFixture) -> None:
    terminal.summary(samples.results())
    text = capsys.readouterr().out
    for words in (
        "sample/case-0 on mine",
        "the scales are transposed",
        "again: dgref run sample",
        "something is wrong",
    ):
        assert words in text


def test_plain_progress_is_lines_and_names_what_is_wrong(capsys: pytest.CaptureFixture) -> None:
    with terminal.Progress() as progress:
        for number, row in enumerate(samples.results(30), 1):
            progress(number, 30, row)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1/30 done, 1 bad  fail: sample/case-0 on mine"
    assert lines[-1].startswith("30/30 done, 1 bad")
    assert len(lines) == 3
