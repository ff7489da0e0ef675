"""The page on tensor cores is the table's own, and its examples run."""

from __future__ import annotations

import doctest
from pathlib import Path

from dgref.reference.tensor_core_table import markdown

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "tensor-cores.md"


def test_the_documented_table_is_the_generated_one():
    assert f"<!-- table -->\n{markdown()}\n<!-- end of table -->" in DOCUMENT.read_text()


def test_the_documented_examples_run():
    assert doctest.testfile(str(DOCUMENT), module_relative=False).failed == 0
