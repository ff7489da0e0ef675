"""Pictures of layouts: a small grid whose cells are addresses."""

from __future__ import annotations

from math import prod

from dgref.formats.layouts.base import Layout, Shape

_MANY_ROWS = 32


def example(layout: Layout) -> tuple[Shape, dict]:
    """Return a small shape that shows the layout's pattern, with parameters for it."""
    tile = layout.element_shape((layout.divisor, 4)) if not layout.parameters else (8,)
    rows = max(layout.divisor, 8 if layout.copies or prod(tile) <= 512 // 4 else 128)
    parameters: dict = {}
    if "extents" in layout.parameters:
        parameters["extents"] = (5, rows - 5)
    if "ends" in layout.parameters:
        parameters.update(ends=(3, rows - 1), row_alignment=4)
    return (rows, 8), parameters


def shown_rows(rows: int) -> list[int | None]:
    """Return the rows to draw: all of a small grid, else the starts of every 32 with gaps as None."""
    if rows <= _MANY_ROWS:
        return list(range(rows))
    result: list[int | None] = []
    for start in range(0, rows, 32):
        result += [*range(start, min(start + 3, rows)), None]
    return result


def picture(layout: Layout, shape: Shape | None = None, **parameters):
    """Return a rich table with one row for each row of scales, one column for each block along K."""
    from rich.markup import escape
    from rich.table import Table

    if shape is None:
        shape, parameters = example(layout)
    addresses = layout.addresses(shape[-2:], **parameters)
    height, width = shape[-2:]
    table = Table(title=f"{layout.name}, {height} x {width} scales", header_style="bold")
    table.add_column("row", justify="right")
    for column in range(shape[-1]):
        table.add_column(f"k {column}", justify="right")
    for row in shown_rows(shape[-2]):
        cells = ["…"] * shape[-1] if row is None else [_cell(layout, int(a)) for a in addresses[row]]
        table.add_row("…" if row is None else str(row), *cells)
    buffer = layout.buffer_shape(shape[-2:], **parameters)
    units = "word.byte" if layout.elements.lanes > 1 else "element"
    table.caption = escape(f"Address of each scale ({units}) in a buffer {buffer}: {layout.description}")
    return table


def _cell(layout: Layout, address: int) -> str:
    """Write an address, as word.byte where elements are packed into words."""
    if address < 0:
        return "pad"
    lanes = layout.elements.lanes
    return str(address) if lanes == 1 else f"{address // lanes}.{address % lanes}"
