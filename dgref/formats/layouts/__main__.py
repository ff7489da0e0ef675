"""Print the table of docs/layouts.md: `python -m dgref.formats.layouts`."""

from dgref.formats.layouts.base import Layout
from dgref.formats.layouts.table import LAYOUTS
from dgref.formats.layouts.tiled import Composed, Tiled


def rule(layout: Layout) -> str:
    """Return a layout's pattern, or what it is made of."""
    if isinstance(layout, Tiled):
        sizes = ", ".join(f"{digit}={size}" for digit, size in layout.pattern.fixed)
        return f"`{layout.pattern.text}`" + (f" with {sizes}" if sizes else "")
    if isinstance(layout, Composed):
        return layout.formula
    return f"{layout.inner.name}, parameter {' and '.join(layout.parameters)}"


def markdown() -> str:
    """Return one row for each layout."""
    lines = ["| layout | rule | also called | in → out | what it is | source |", "|---|---|---|---|---|---|"]
    for layout in LAYOUTS.values():
        aliases = ", ".join(f"`{alias}`" for alias in layout.aliases)
        accepts = "/".join(layout.elements.accepts) or "any dtype"
        cells = (f"`{layout.name}`", rule(layout), aliases, f"{accepts} → {layout.elements.produces}")
        lines.append("| " + " | ".join((*cells, layout.description, layout.source)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
