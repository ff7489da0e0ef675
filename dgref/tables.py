"""Tables that fit the terminal: columns where every word has room, else one record below the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]
PADDING = 2  # columns between two cells
PROSE = 28  # a column of longer texts is prose: it may be this narrow, and its words wrap


def table(rows: Sequence[Row], width: int) -> RenderableType:
    """Return rows of the same names as a table of at most `width` columns, or as records where it would break words."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[cell(row.get(name)) for name in names] for row in rows]
    least = [_least([name, *column]) for name, column in zip(names, zip(*cells, strict=True), strict=False)]
    if sum(least) + PADDING * len(names) > width:
        return Group(*(_record(names, line) for line in cells))
    return _table(names, cells, least)


@dataclass(frozen=True)
class Fitted:
    """Rows that become a table of the width that there is when they are printed."""

    rows: Sequence[Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield table(self.rows, options.max_width)


def cell(value: Any) -> str:
    """Return a value as a cell: floats with the digits they have, truth as yes or nothing, nothing as nothing."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.10g}"
    return "" if value is None else str(value)


def _least(column: Sequence[str]) -> int:
    """Return how many columns a column of cells needs so that no word breaks, and prose stays readable."""
    word = max((len(word) for text in column for word in text.split()), default=0)
    return max(word, min(max(map(len, column)), PROSE))


def _table(names: list[str], cells: list[list[str]], least: list[int]) -> Table:
    made = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, PADDING - 1, 0, 0), show_edge=False)
    for number, name in enumerate(names):
        numeric = all(_is_number(line[number]) for line in cells)
        made.add_column(Text(name), min_width=least[number], justify="right" if numeric else "left")
    for line in cells:
        made.add_row(*map(Text, line))
    return made


def _is_number(text: str) -> bool:
    return text == "" or text.replace(".", "", 1).replace("e+", "", 1).replace("e-", "", 1).lstrip("-").isdigit()


def _record(names: list[str], line: list[str]) -> RenderableType:
    """Return one row as its first cell, and below it the other cells that hold anything, each with its name."""
    rest = Text("; ").join(
        Text.assemble((f"{name} ", "dim"), value) for name, value in list(zip(names, line, strict=True))[1:] if value
    )
    return Group(Text(line[0], style="bold"), Padding(rest, (0, 0, 0, 2)))


def shorten(text: str, width: int) -> str:
    """Return a text of at most `width` characters, its middle left out: both ends of an id tell ids apart."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
