"""dgref export: a suite as files."""

from __future__ import annotations

from pathlib import Path

import click

from dgref.cli._types import Output
from dgref.errors import counted


@click.command("export")
@click.argument("suite")
@click.option("-o", "--output", required=True, type=Output(), help="Folder to write into.")
@click.option("--case", "ids", multiple=True, metavar="ID", help="Export only this case. Repeatable.")
def command(suite: str, output: Path, ids: tuple[str, ...]) -> int:
    """Write the inputs of SUITE as files, for a program that Python cannot import.

    The program writes its outputs beside them; `dgref verify` judges those. manifest.json says what every buffer means.

    \b
    dgref export smoke -o /tmp/exchange
    my_program /tmp/exchange
    dgref verify /tmp/exchange
    """
    from dataclasses import replace

    from dgref.exchange import export
    from dgref.suite import chosen, load

    row = load(suite)
    row = replace(row, cases=tuple(chosen(row.cases, ids)))
    click.echo(f"{counted(len(row), 'case')}: {export(row, output)}")
    return 0
