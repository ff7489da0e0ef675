"""The speeds that the documentation shows are those of the committed bundle."""

from __future__ import annotations

from pathlib import Path

from dgref.report.speed import render
from dgref.results import load_results

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_shows_what_the_bundle_holds() -> None:
    page = (ROOT / "docs" / "kernels-sm90.md").read_text(encoding="utf-8")
    shown = page.split("<!-- speed -->\n")[1].split("<!-- /speed -->")[0]
    assert shown == render(load_results(ROOT / "reports" / "nvidia-h200"))
