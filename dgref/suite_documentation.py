"""The generated half of docs/suites.md: fields of a case, kinds of inputs, the shipped suites."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dgref import suite
from dgref.inputs import GENERATORS

MARK = "<!-- generated -->\n"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "suites.md"
FIELDS = {
    "id": ("required", "tells cases apart; no spaces, slashes or quotes"),
    "why": ("required", "what goes unnoticed without this case"),
    "op": ("required", "a row of `dgref list ops`"),
    "shape": ("required", "an extent for every axis of the op"),
    "operands": ("`{}`", "recipes by operand; an operand may also be a field of its own: `a = \"mxfp8\"`"),
    "params": ("`{}`", "parameters of the op; see operations.md"),
    "out": ("`bfloat16`", "format of the output, where the op leaves a choice"),
    "inputs": ("`normal`, seed 0", "how operands are filled: `{ kind, seed }`"),
    "expect": ("`model`", "`exact`, `model` or `bounded`: required of a backend that declares an arithmetic"),
}  # fmt: skip


def markdown() -> str:
    """Return the generated sections."""
    return "\n".join([*_fields(), *_kinds(), *_suites()]) + "\n"


def _fields() -> Iterator[str]:
    yield "\n## Fields of a case\n\n| field | default | meaning |\n|---|---|---|"
    yield from (f"| `{name}` | {default} | {meaning} |" for name, (default, meaning) in FIELDS.items())
    yield "\nAn operand is a recipe's name or `{ recipe, layout, major }`: the layout of its scales, `k` or `mn` order."


def _kinds() -> Iterator[str]:
    yield "\n## Kinds of inputs\n\nSeeded, and the same bits on every machine.\n\n| kind | why |\n|---|---|"
    yield from (f"| `{row.name}` | {row.why} |" for row in GENERATORS.values())


def _suites() -> Iterator[str]:
    yield "\n## Shipped suites\n\n| suite | cases | in `--default` | for |\n|---|---|---|---|"
    for row in map(suite.load, suite.names()):
        yield f"| `{row.name}` | {len(row)} | {'yes' if row.default else ''} | {row.description} |"


def main() -> None:
    """Rewrite the generated half of the page."""
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    PAGE.write_text(head + mark + markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
