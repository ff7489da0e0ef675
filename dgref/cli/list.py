"""dgref list: what there is, as tables or as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click


def _archs() -> list[dict[str, Any]]:
    from dgref.arch import ARCHITECTURES

    return [
        {
            "name": row.name,
            "family": row.family,
            "products": ", ".join(row.products),
            "target": row.target,
            "shared KiB": row.shared_memory_bytes // 1024,
            "instructions": " ".join(sorted(row.instructions)),
        }
        for row in ARCHITECTURES.values()
    ]


def _formats() -> list[dict[str, Any]]:
    from dgref.formats import FORMATS

    return [row.describe() for row in FORMATS.values()]


def _recipes() -> list[dict[str, Any]]:
    from dgref.formats import RECIPES

    return [row.describe() for row in RECIPES.values()]


def _layouts() -> list[dict[str, Any]]:
    from dgref.formats import LAYOUTS

    return [row.describe() for row in LAYOUTS.values()]


def _ops() -> list[dict[str, Any]]:
    from dgref.ops import OPS

    return [row.describe() for row in OPS.values()]


def _backends() -> list[dict[str, Any]]:
    from dgref.backends import backends

    return [{"name": name, "usable here": row.unavailable() or "yes"} for name, row in backends().items()]


def _suites() -> list[dict[str, Any]]:
    from dgref import suite

    rows = [suite.load(name) for name in suite.names()]
    return [
        {"name": row.name, "cases": len(row), "default": row.default, "device": row.device, "for": row.description}
        for row in rows
    ]


def _arithmetics() -> list[dict[str, Any]]:
    from dgref.reference.arithmetic import ARITHMETICS

    return [row.describe() for row in ARITHMETICS.values()]


def _tensor_cores() -> list[dict[str, Any]]:
    from dgref.reference.tensor_core import TENSOR_CORES

    return [row.describe() for row in TENSOR_CORES.values()]


TABLES: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "ops": _ops,
    "backends": _backends,
    "formats": _formats,
    "recipes": _recipes,
    "layouts": _layouts,
    "archs": _archs,
    "suites": _suites,
    "arithmetics": _arithmetics,
    "tensor-cores": _tensor_cores,
}


@click.command("list")
@click.argument("table", type=click.Choice(list(TABLES)))
@click.option("--json", "as_json", is_flag=True, help="Print the same as data.")
@click.option("--show", metavar="NAME", help="With `layouts`: draw the addresses of a small tile.")
def command(table: str, as_json: bool, show: str | None) -> None:
    """List ops, backends, formats, recipes, layouts, archs, suites and more."""
    if show is not None:
        if table != "layouts":
            raise click.UsageError("--show goes with `layouts`")
        from dgref.formats import LAYOUTS

        click.echo(LAYOUTS[show].picture())
        return
    rows = TABLES[table]()
    click.echo(json.dumps(rows, indent=1, default=str)) if as_json else _print(rows)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from dgref.report.terminal import console

    table = Table(header_style="bold")
    for number, name in enumerate(rows[0]):
        table.add_column(name, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console().print(table)
