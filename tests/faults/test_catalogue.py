"""Every catalogued fault is named somehow, and the page that says how is the generated one."""

from __future__ import annotations

from pathlib import Path

from dgref.compare.hypotheses import HYPOTHESES
from dgref.compare.runner_evidence import PAIRS, RACE, UNINITIALISED
from dgref.faults import CATALOGUE
from dgref.faults.injectors import RUNNER_FAULTS
from dgref.faults.table import page


def test_all_47_rows_say_how_they_are_caught() -> None:
    assert [row.number for row in CATALOGUE] == list(range(1, 48))
    assert all(row.how for row in CATALOGUE)


def test_no_hypothesis_stands_for_a_row_that_does_not_exist() -> None:
    assert {number for row in HYPOTHESES.values() for number in row.rows} <= {row.number for row in CATALOGUE}


def test_injected_runs_and_findings_stand_for_the_same_rows() -> None:
    found = {finding.hypothesis: finding.rows for finding in (RACE, UNINITIALISED, *PAIRS)}
    for name, rows in found.items():
        assert RUNNER_FAULTS[name].rows == rows


def test_the_page_is_the_generated_one() -> None:
    path = Path(__file__).parents[2] / "docs" / "diagnosis.md"
    assert path.read_text(encoding="utf-8") == page(), "run python -m dgref.faults.table > docs/diagnosis.md"
