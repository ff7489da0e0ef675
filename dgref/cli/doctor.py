"""dgref doctor: what can run here, and what may spoil a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import click

from dgref.errors import counted

if TYPE_CHECKING:
    from dgref.doctor import Finding

_MARKS = {"ok": ("ok", "green"), "note": ("–", "dim"), "problem": ("!!", "bold red")}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as data.")
def command(as_json: bool) -> int:
    """Examine GPU, driver, compilers, kernel libraries, JIT caches and environment variables.

    Exit code 1 where something would break or skew a run; a machine without a GPU is not such a thing.
    """
    from dgref import doctor

    if as_json:
        findings = list(doctor.examine())
        click.echo(json.dumps(doctor.to_dict(findings), indent=1))
    else:
        findings = _show(doctor.examine())
    return doctor.exit_code(findings)


def _show(findings: Iterator[Finding]) -> list[Finding]:
    """Print each section once it is complete: a large cache takes its time."""
    from rich.table import Table
    from rich.text import Text

    from dgref.report.terminal import console

    out = console()
    shown = []
    for section, rows in groupby(findings, key=lambda row: row.section):
        table = Table(title=section, title_justify="left", title_style="bold", show_header=False, box=None)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for row in rows:
            shown.append(row)
            mark, style = _MARKS[row.severity]
            text = Text(row.value)
            if row.advice:
                text.append(f"\n-> {row.advice}", style="dim")
            table.add_row(Text(mark, style=style), row.name, text)
        out.print(table)
    problems = sum(row.severity == "problem" for row in shown)
    out.print(counted(problems, "problem") if problems else "nothing found that would spoil a run", style="bold")
    return shown
