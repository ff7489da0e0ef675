"""Tables fit the terminal they are printed on; where words would break, each row becomes a record."""

from __future__ import annotations

import pytest
from rich.console import Console

from dgref.cli.list import TABLES
from dgref.report import html, junit, terminal
from dgref.report.causes import causes
from dgref.results import UNJUDGED, Result, Results
from dgref.tables import shorten, table
from tests import samples


def printed(renderable: object, width: int) -> list[str]:
    out = Console(width=width, highlight=False)
    with out.capture() as captured:
        out.print(renderable)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("name", TABLES)
def test_every_list_fits_and_no_word_of_it_breaks(name: str, width: int) -> None:
    rows = list(TABLES[name]())
    lines = printed(table(rows, width), width)
    assert max(map(len, lines)) <= width
    words = set(" ".join(lines).replace(";", " ").split())
    assert {str(row["name"]) for row in rows} <= words


def test_a_narrow_terminal_gets_records_that_leave_out_what_is_empty() -> None:
    rows = [{"name": "one", "bits": 8, "source": "x" * 40, "note": None}]
    assert printed(table(rows, 30), 30)[0].strip() == "one"
    assert "note" not in " ".join(printed(table(rows, 30), 30))
    assert "note" in printed(table(rows, 80), 80)[0]


@pytest.mark.parametrize(("width", "text"), [(9, "abcdefghi"), (8, "abcd…ghi"), (5, "ab…hi")])
def test_a_long_id_loses_its_middle(width: int, text: str) -> None:
    assert shorten("abcdefghi", width) == text


def wrong(case: str, status: str = "fail", reason: str = "", diagnosis: dict | None = None) -> Result:
    return Result(case, "recorded/" + "x" * 90, status, reason, diagnosis=diagnosis)


def swapped(status: str) -> dict:
    return {"hypothesis": "nibble_order", "status": status, "sentence": "nibbles are swapped", "fix": "swap them"}


FOUND = [
    wrong("s/" + "y" * 90, diagnosis=swapped("confirmed")),
    wrong("s/1", "error", "KeyError: 'a'"),
    wrong("s/2", diagnosis={**swapped("suspicion"), "hypothesis": "nibble_order+nibble_order"}),
    wrong("s/3", diagnosis=swapped("none")),
    wrong("s/4", "error", "KeyError: 'b'"),
    wrong("s/5", "error", "KeyError: 'b'"),
    wrong("s/6", "out_of_memory"),
    Result("s/7", "x", "pass"),
]


def test_causes_are_counted_the_most_frequent_first() -> None:
    names = [(cause.name, len(cause.rows)) for cause in causes(FOUND)]
    assert names == [("error: KeyError", 3), ("nibble order", 2), ("no cause found", 1), ("out of memory", 1)]


def test_what_nobody_looked_for_is_not_said_to_have_no_cause() -> None:
    assert [cause.name for cause in causes([wrong("s/1"), wrong("s/2", diagnosis=swapped("none"))])] == [
        "not diagnosed",
        "no cause found",
    ]


def test_a_search_that_failed_is_a_cause_that_every_report_shows() -> None:
    row = Result("s/1", "x", "fail", "d differs", evidence={"diagnosis": "the search for a cause failed: <why>"})
    assert [cause.name for cause in causes([row])] == ["the search for a cause failed"]
    assert "cause: the search for a cause failed: <why>" in terminal.failure(row, 80).plain
    assert "the search for a cause failed: &lt;why&gt;" in html.render(Results([row]))
    assert "the search for a cause failed: &lt;why&gt;" in junit.render(Results([row]))


@pytest.mark.parametrize("width", [80, 140])
def test_a_summary_keeps_verdicts_whole_and_ids_short(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    out = Console(width=width, highlight=False)
    monkeypatch.setattr(terminal, "console", lambda: out)
    with out.capture() as captured:
        terminal.summary(Results(FOUND))
    lines = captured.get().splitlines()
    assert "2 x nibble order" in lines and "3 x error: KeyError" in lines
    assert max(len(line) for line in lines if line.startswith(("fail", "error", "recorded"))) <= width
    assert any(line.startswith("out of memory  s/6 on recorded/") for line in lines)
    assert "  fix: swap them" in lines


def test_missing_outputs_have_a_column_and_a_verdict_of_their_own() -> None:
    results = Results([Result("s/1", "files/x", "missing"), Result("s/2", "files/x", "pass", level="exact")])
    assert terminal.closing(results).endswith("outputs are missing")
    assert terminal._counts("files/x", results.results, 80)["missing"] == 1
    assert terminal._counts("files/x", results.results, 80)["wrong"] is None
    assert "missing" not in terminal._counts("mine", samples.results().results, 80)


def test_each_result_is_counted_once_whatever_level_holds_of_it() -> None:
    """Bits within the bound that a waiver speaks of are neither wrong nor what was required."""
    rows = [
        Result("s/1", "mine", "waived", level="bounded"),
        Result("s/2", "mine", "unexpected_pass", level="bounded"),
        Result("s/3", "mine", "pass", level="bounded"),
        Result("s/4", "mine", "fail", level="bounded"),
        Result("s/5", "mine", "pass", UNJUDGED),
    ]
    counts = terminal._counts("mine", rows, 80)
    held = {"bounded": 1, "wrong": 1, "unexpected pass": 1, "waived": 1, "not judged": 1}
    assert {name: count for name, count in counts.items() if count} == {"backend": "mine", **held}
    assert terminal.closing(Results(rows)).endswith("something is wrong")
    assert terminal.closing(Results(rows[1:3])).endswith("what a waiver says fails passes")


def test_waived_failures_are_said_to_be_known_and_have_a_column_on_both_reports() -> None:
    waived = [Result(f"s/{i}", "mine", "waived", level="wrong", op="gemm") for i in range(2)]
    assert terminal.closing(Results(waived)).endswith("2 waived — 2 known failures waived")
    passed = [*waived, Result("s/3", "mine", "pass", level="exact", op="gemm")]
    assert terminal.closing(Results(passed)).endswith("all others conform, 2 known failures waived")
    assert terminal._counts("mine", waived, 80)["waived"] == 2
    page = html.render(Results(passed))
    assert "The other result conforms, 2 known failures waived" in page and 'title="1 exact, 2 waived"' in page


@pytest.mark.parametrize(("total", "lines"), [(1, 1), (30, 2), (500, 20), (3556, 20)])
def test_a_log_gets_a_line_now_and_then_and_at_the_end(total: int, lines: int) -> None:
    due = [done for done in range(1, total + 1) if terminal.is_milestone(done, total)]
    assert len(due) == lines and due[-1] == total
