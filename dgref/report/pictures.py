"""Small SVG drawings for the page: where wrong bits are, and how far off they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

CELL = 7


def pictures(outputs: Mapping[str, Any]) -> Markup:
    """Return the error map and the ULP histogram of every output that has wrong elements."""
    drawn = [part for name, row in outputs.items() for part in _of_output(name, row)]
    return Markup("").join(drawn)


def _of_output(name: str, row: Mapping[str, Any]) -> list[Markup]:
    parts = []
    if row.get("map", {}).get("cells") and row.get("differing"):
        parts.append(_figure(f"{name}: where the {row['differing']} wrong elements are", error_map(row["map"])))
    if row.get("histogram") and row.get("differing"):
        parts.append(_figure(f"{name}: how many elements are off by how many ULP", histogram(row["histogram"])))
    return parts


def _figure(caption: str, svg: Markup) -> Markup:
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(caption, svg)


def error_map(data: Mapping[str, Any]) -> Markup:
    """Return a grid in which darker cells hold a larger share of wrong elements; dashed lines part the groups."""
    cells = data["cells"]
    height, width = len(cells) * CELL, len(cells[0]) * CELL
    hits = [
        f'<rect class="hit" x="{x * CELL}" y="{y * CELL}" width="{CELL}" height="{CELL}"'
        f' opacity="{0.25 + int(d) / 12:.2f}"/>'
        for y, line in enumerate(cells)
        for x, d in enumerate(line)
        if d != "0"
    ]
    shape = " x ".join(str(size) for size in data["shape"])
    label = f"{shape}, one cell is {data['tile'][0]} x {data['tile'][1]}"
    body = "".join(hits) + _group_lines(data, width) + f'<rect class="frame" width="{width}" height="{height}"/>'
    text = f'<text x="0" y="{height + 12}">{escape(label)}</text>'
    return Markup(
        f'<svg viewBox="0 0 {max(width, 150)} {height + 16}" width="{max(width, 150)}" role="img">{body}{text}</svg>'
    )


def _group_lines(data: Mapping[str, Any], width: int) -> str:
    group = data.get("rows_per_group")
    if not group:
        return ""
    rows = sum(len(line) > 0 for line in data["cells"]) * data["tile"][0]
    tops = [start / data["tile"][0] * CELL for start in range(group, rows, group)]
    return "".join(f'<line class="split" x1="0" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>' for y in tops)


def histogram(bins: Mapping[str, int]) -> Markup:
    """Return columns whose heights are logarithmic in the count, labelled with both."""
    from math import log10

    shown = [(label, int(count)) for label, count in bins.items() if count]
    top = max((log10(count + 1) for _, count in shown), default=1.0)
    step, tall = 46, 90
    columns = [
        _column(i * step, label, count, tall * log10(count + 1) / top, tall) for i, (label, count) in enumerate(shown)
    ]
    width = max(len(shown) * step, 150)
    return Markup(f'<svg viewBox="0 0 {width} {tall + 30}" width="{width}" role="img">{"".join(columns)}</svg>')


def _column(x: int, label: str, count: int, height: float, tall: int) -> str:
    top = tall - height + 12
    middle = x + 21
    return (
        f'<rect class="column" x="{x + 6}" y="{top:.1f}" width="30" height="{height:.1f}"/>'
        f'<text x="{middle}" y="{top - 2:.1f}" text-anchor="middle">{short(count)}</text>'
        f'<text x="{middle}" y="{tall + 24}" text-anchor="middle">{escape(label)}</text>'
    )


def short(count: int) -> str:
    """Return a count in at most four characters: 950, 1.2k, 34k, 5.6M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            value = count / size
            return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return str(count)
