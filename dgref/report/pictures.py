"""Small SVG drawings for the page: where wrong bits are, and how far off they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from dgref.errors import counted

SIDE = 336  # what the longer side of a map aims at, in pixels
SMALLEST, LARGEST = 5, 28  # of a cell
TALL, COLUMN, CHARACTER, GAP, LINE = (
    90,
    46,
    6,
    24,
    11,
)  # of a histogram: tallest column, least step, letter, break, line


def pictures(outputs: Mapping[str, Any], wrong: bool) -> Markup:
    """Return the ULP histogram of every output that differs from what it was compared with, and where, if wrong."""
    drawn = [part for name, row in outputs.items() for part in _of_output(name, row, wrong)]
    return Markup("").join(drawn)


def _of_output(name: str, row: Mapping[str, Any], wrong: bool) -> list[Markup]:
    parts = []
    if wrong and row.get("map", {}).get("cells") and row.get("differing"):
        where = f"{name}: where {counted(row['differing'], 'element')} differ{'s' * (row['differing'] == 1)}"
        parts.append(_figure(where, error_map(row["map"])))
    if row.get("histogram") and row.get("differing"):
        parts.append(_figure(f"{name}: elements by distance in ULP", histogram(row["histogram"])))
    return parts


def _figure(caption: str, svg: Markup) -> Markup:
    box = Markup('<figure><figcaption>{}</figcaption><div class="drawing" tabindex="0">{}</div></figure>')
    return box.format(caption, svg)


def error_map(data: Mapping[str, Any]) -> Markup:
    """Return a grid in which darker cells hold a larger share of wrong elements; dashed lines part the groups."""
    cells = data["cells"]
    size = min(max(SIDE // max(len(cells), len(cells[0])), SMALLEST), LARGEST)
    height, width = len(cells) * size, len(cells[0]) * size
    shape = " x ".join(str(extent) for extent in data["shape"])
    label = f"{shape}, one cell is {data['tile'][0]} x {data['tile'][1]}"
    shades = "".join(_shade(cells, digit, size) for digit in "123456789")
    body = shades + _group_lines(data, width, size) + f'<rect class="frame" width="{width}" height="{height}"/>'
    text = f'<text x="0" y="{height + 12}">{escape(label)}</text>'
    view = max(width, 170)
    return Markup(f'<svg viewBox="-1 -1 {view + 2} {height + 18}" width="{view + 2}" role="img">{body}{text}</svg>')


def _shade(cells: list[str], digit: str, size: int) -> str:
    """Return one path for all cells of a darkness, a rectangle for each run of them: maps may have thousands."""
    runs = [
        f"M{run.start() * size} {y * size}h{len(run.group()) * size}v{size}H{run.start() * size}z"
        for y, line in enumerate(cells)
        for run in re.finditer(f"{digit}+", line)
    ]
    return f'<path class="hit" opacity="{0.25 + int(digit) / 12:.2f}" d="{"".join(runs)}"/>' if runs else ""


def _group_lines(data: Mapping[str, Any], width: int, size: int) -> str:
    group = data.get("rows_per_group")
    if not group:
        return ""
    rows = sum(len(line) > 0 for line in data["cells"]) * data["tile"][0]
    tops = [start / data["tile"][0] * size for start in range(group, rows, group)]
    return "".join(f'<line class="split" x1="0" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>' for y in tops)


def histogram(bins: Mapping[str, int]) -> Markup:
    """Return columns whose heights are logarithmic in the count, labelled with both; a break where bins are empty."""
    from math import log10

    shown = [(label, int(count)) for label, count in bins.items() if count]
    top = max((log10(count + 1) for _, count in shown), default=1.0)
    columns, right, before = [], 0, None
    for label, count in shown:
        if before is not None and not _adjacent(before, label):
            columns.append(f'<text x="{right + GAP // 2}" y="{TALL + 10}" text-anchor="middle">…</text>')
            right += GAP
        width = max(COLUMN, max(map(len, lines_of(label))) * CHARACTER)
        columns.append(_column(right + width // 2, label, count, TALL * log10(count + 1) / top))
        right, before = right + width, label
    width = max(right, 150)
    size = f'viewBox="0 0 {width} {TALL + 30 + LINE}" width="{width}"'
    return Markup(f'<svg class="histogram" {size} role="img">{"".join(columns)}</svg>')


def lines_of(label: str) -> tuple[str, str]:
    """Return a bin's name in two lines, the second empty where one is enough: `16385..` over `32768`."""
    first, dots, last = label.partition("..")
    return (first + dots, last) if dots and len(label) * CHARACTER > COLUMN else (label, "")


def _adjacent(left: str, right: str) -> bool:
    """Return whether no distance lies between two bins; the named ones at the ends hold no distance of their own."""
    last, first = left.rpartition(".")[2], right.partition(".")[0]
    return not (last.isdigit() and first.isdigit()) or int(last) + 1 == int(first)


def _column(middle: int, label: str, count: int, height: float) -> str:
    top = TALL - height + 12
    return (
        f'<rect class="column" x="{middle - 17}" y="{top:.1f}" width="34" height="{height:.1f}"/>'
        f'<text x="{middle}" y="{top - 2:.1f}" text-anchor="middle">{short(count)}</text>'
        + "".join(
            f'<text x="{middle}" y="{TALL + 24 + LINE * number}" text-anchor="middle">{escape(line)}</text>'
            for number, line in enumerate(filter(None, lines_of(label)))
        )
    )


def short(count: int) -> str:
    """Return a count in at most four characters: 950, 1.2k, 34k, 5.6M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            value = count / size
            return f"{value:.1f}{unit}" if value < 10 else f"{value:.0f}{unit}"
    return str(count)
