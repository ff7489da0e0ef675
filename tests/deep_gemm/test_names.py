"""The table of names is complete, and the page shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

import dgref.deep_gemm as deep_gemm
from dgref.deep_gemm.__main__ import main
from dgref.deep_gemm.names import FAMILIES, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deep_gemm.md"


def test_every_name_of_the_table_exists_once() -> None:
    names = [name for row in FAMILIES for name in row.split]
    assert len(names) == len(set(names))
    assert all(hasattr(deep_gemm, name) for name in names)


def test_every_name_of_utils_is_in_the_table() -> None:
    listed = {name for row in FAMILIES for name in row.split} | {"layout", "math"}
    assert set(deep_gemm.utils.__all__) <= listed


def test_the_page_shows_the_table_and_what_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--names"]) == 0
    page, printed = PAGE.read_text(encoding="utf-8"), capsys.readouterr().out
    assert printed == f"{table()}\n" and table() in page and "`python -m dgref.deep_gemm --names`" in page
