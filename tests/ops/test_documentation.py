"""The page of operations is what the op table says."""

from __future__ import annotations

from pathlib import Path

from dgref.ops import OPS
from dgref.ops.documentation import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


def test_the_page_is_generated_from_the_table():
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: python -m dgref.ops.documentation > docs/operations.md"


def test_every_operation_has_a_section():
    page = markdown()
    assert all(f"\n## {name}\n" in page for name in OPS)
