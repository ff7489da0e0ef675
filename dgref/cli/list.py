"""dgref list: what there is, as tables or as data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click

from dgref.cli._tables import print_rows

Row = dict[str, Any]


def _archs() -> Iterator[Row]:
    from dgref.arch import ARCHITECTURES

    for row in ARCHITECTURES.values():
        yield {
            "name": row.name,
            "family": row.family,
            "products": ", ".join(row.products),
            "target": row.target,
            "shared KiB": row.shared_memory_bytes // 1024,
            "instructions": " ".join(sorted(row.instructions)),
        }


def _formats() -> Iterator[Row]:
    from dgref.formats import FORMATS

    for row in FORMATS.values():
        yield {
            "name": row.name,
            "bits": row.bits,
            "exponent": row.exponent_bits,
            "mantissa": row.mantissa_bits,
            "bias": row.bias,
            "max": row.max,
            "min normal": row.min_normal,
            "min subnormal": row.min_subnormal,
            "NaN codes": len(row.nan_codes) if row.storage_bits <= 16 else "as IEEE 754",
            "infinity": row.infinity,
        }


def _recipes() -> Iterator[Row]:
    from dgref.formats import RECIPES

    for row in RECIPES.values():
        scaling = row.scaling
        yield {
            "name": row.name,
            "format": row.format,
            "block": "x".join(str(extent or "all") for extent in scaling.block) if scaling else "",
            "scale": scaling.scale_format if scaling else "",
            "rule": scaling.rule if scaling else "",
            "global scale": scaling.global_scale if scaling else "",
            "description": row.description,
        }


def _layouts() -> Iterator[Row]:
    from dgref.formats import LAYOUTS

    for row in LAYOUTS.values():
        yield {
            "name": row.name,
            "also known as": ", ".join(row.aliases),
            "parameters": " ".join(row.parameters),
            "alignment": row.alignment,
            "description": row.description,
        }


def _ops() -> Iterator[Row]:
    from dgref.ops import OPS

    for row in OPS.values():
        yield {
            "name": row.name,
            "axes": row.axes,
            "equation": row.equation,
            "parameters": " ".join(p.name for p in row.params),
        }


def _backends() -> Iterator[Row]:
    from dgref.backends import backends

    for name, row in backends().items():
        yield {"name": name, "usable here": row.unavailable() or "yes"}


def _suites() -> Iterator[Row]:
    from dgref import suite

    for row in map(suite.load, suite.names()):
        yield {
            "name": row.name,
            "cases": len(row),
            "default": row.default,
            "device": row.device,
            "for": row.description,
        }


def _arithmetics() -> Iterator[Row]:
    from dgref.reference.arithmetic import ARITHMETICS

    for row in ARITHMETICS.values():
        rest = {key: value for key, value in row.to_dict().items() if key not in ("name", "core", "status", "source")}
        yield {
            "name": row.name,
            "core": row.core,
            "status": row.status,
            "how": ", ".join(f"{key} {value}" for key, value in rest.items()),
        }


def _tensor_cores() -> Iterator[Row]:
    from dgref.reference.tensor_core import TENSOR_CORES

    for row in TENSOR_CORES.values():
        yield {
            "name": row.name,
            "k": row.k,
            "step": row.step,
            "fraction bits": row.fraction_bits,
            "output": row.output,
            "status": row.status,
            "source": row.source,
        }


TABLES: dict[str, Callable[[], Iterator[Row]]] = {
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
        from dgref.report.terminal import console

        console().print(LAYOUTS[show].picture())
        return
    print_rows(list(TABLES[table]()), as_json)
