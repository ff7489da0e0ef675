"""Results for people and machines: JSON, JUnit, terminal, one HTML page."""

from __future__ import annotations

from pathlib import Path

from dgref.files import write_atomically
from dgref.results import Results


def write_bundle(results: Results, folder: Path) -> Path:
    """Write results.json, junit.xml and index.html into a folder and return the page's path."""
    from dgref.report import html, junit

    results.save(folder / "results.json")
    write_atomically(folder / "junit.xml", junit.render(results))
    return write_atomically(folder / "index.html", html.render(results))
