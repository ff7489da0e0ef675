"""The documented table of what calls cost is the one that its command prints."""

from __future__ import annotations

import re
from pathlib import Path

from dgref.deep_gemm.call_cost import HEAD, calls

DOCUMENT = Path(__file__).parents[2] / "docs" / "deep_gemm.md"


def test_the_documented_calls_are_those_that_are_measured() -> None:
    section = DOCUMENT.read_text().partition("## What a call costs")[2].partition("\n## ")[0]
    found = [tuple(cell.strip() for cell in row) for row in re.findall(r"^\|(.*)\|(.*)\|(.*)\|$", section, re.M)]
    assert found[0] == HEAD
    assert [name for name, *_ in found[2:]] == [name for name, *_ in calls("cpu")]
    assert all(0 < float(figure) < 100 for _, *figures in found[2:] for figure in figures)


def test_every_measured_call_is_one_that_can_be_made() -> None:
    for _, call, arguments in calls("cpu"):
        call(*arguments)
