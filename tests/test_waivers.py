"""Waivers are debts: they excuse a failure until a day, and nothing else."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import runner, waivers
from dgref.errors import DgrefError, SuiteError
from dgref.results import Result
from dgref.waivers import Waiver
from tests import samples

TODAY = date(2026, 6, 1)
WAIVER = Waiver("sample/*", "mine", "known", "https://example.org/1", date(2026, 6, 1))
GOOD = """
[[waiver]]
case = "sample/*"
backend = "misbehaving/one_bit"
reason = "flips a bit"
link = "https://example.org/1"
expires = 2999-01-31
"""


@pytest.mark.parametrize(
    ("status", "today", "after"),
    [
        ("fail", TODAY, "waived"),
        ("crash", TODAY, "waived"),
        ("fail", date(2026, 6, 2), "expired_waiver"),
        ("pass", TODAY, "unexpected_pass"),
        ("pass", date(2026, 6, 2), "unexpected_pass"),
        ("unsupported", TODAY, "unsupported"),
        ("skipped", date(2026, 6, 2), "skipped"),
    ],
)
def test_a_waiver_changes_a_status_as_its_day_says(status: str, today: date, after: str) -> None:
    result = waivers.apply(Result("sample/x", "mine", status, "why"), [WAIVER], today)
    assert result.status == after
    assert (after == status) or "https://example.org/1" in result.reason


def test_a_waiver_of_another_backend_changes_nothing() -> None:
    assert waivers.apply(Result("sample/x", "other", "fail"), [WAIVER], TODAY).status == "fail"


def test_the_shipped_waivers_can_be_read() -> None:
    assert all(row.link and row.reason for row in waivers.load())


def test_a_run_takes_a_file_of_waivers(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    runner.select([samples.MISBEHAVING])
    options = {"isolate": False, "settings": runner.Settings(diagnose=False)}
    results = runner.run([samples.suite()], ["misbehaving/one_bit"], waiver_file=path, **options)
    assert (results.results[0].status, results.exit_code) == ("waived", 0)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("expires = 2999-01-31", "", "waiver #1 fields: got no expires, need case, backend, reason, link, expires"),
        ("link =", "href =", "waiver #1 fields: got no link and also href"),
        ("2999-01-31", "2999-01-31T00:00:00", "need a date such as"),
        ("2999-01-31", '"soon"', "need a date such as"),
        ('"flips a bit"', '""', "field 'reason'"),
        ("[[waiver]]", "[[waive]]", "tables under [[waiver]]"),
        ("[[waiver]]", "[waiver]", "tables under [[waiver]]"),
    ],
)
def test_a_waiver_that_cannot_be_used_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(SuiteError, match=re.escape(words)):
        waivers.load(path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sample/*", "sample/*", None),
        (
            "sample/*",
            "sample/csae-*",
            "case of the waiver of sample/csae-* on misbehaving/one_bit: got 'sample/csae-*', which matches no case, "
            "need a name or pattern of one of 1 case of sample (near names: sample/case-0)",
        ),
        (
            "sample/*",
            "nowhere/*",
            "suite of the waiver of nowhere/* on misbehaving/one_bit: got 'nowhere'",
        ),
        (
            "sample/*",
            "smokey/bf16",
            "suite of the waiver of smokey/bf16 on misbehaving/one_bit: got 'smokey'",
        ),
        (
            "sample/*",
            "*/csae-0",
            "case of the waiver of */csae-0 on misbehaving/one_bit: got '*/csae-0', which matches no case",
        ),
        ("sample/*", "mqa/paged-*", None),  # of a suite that this run leaves out
        ("sample/*", "mqa/pegad-*", "case of the waiver of mqa/pegad-* on misbehaving/one_bit: got 'mqa/pegad-*'"),
        ("sample/*", "mqa*paged*", None),  # a star goes beyond the slash
        (
            "misbehaving/one_bit",
            "misbehaving/one_bti",
            "backend of the waiver of sample/* on misbehaving/one_bti: got 'misbehaving/one_bti', need misbehav",
        ),
        ("misbehaving/one_bit", "torch/cpu", None),
    ],
)
def test_a_waiver_that_can_match_nothing_is_a_warning(tmp_path: Path, old: str, new: str, words: str | None) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(old, new, 1))
    runner.select([samples.MISBEHAVING])
    options = {"isolate": False, "settings": runner.Settings(diagnose=False)}
    results = runner.run([samples.suite()], ["misbehaving/correct"], waiver_file=path, **options)
    assert results.exit_code == 0
    assert [words in line for line in results.warnings] == [True] * (words is not None)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DgrefError, match="readable file of waivers"):
        waivers.load(tmp_path / "absent.toml")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("waivers") / "any.toml"
    path.write_text("waiver = " + text, encoding="utf-8")
    try:
        waivers.load(path)
    except DgrefError as error:
        assert "any.toml" in str(error)
