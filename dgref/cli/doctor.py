"""dgref doctor: what can run here, and what may spoil a run."""

from __future__ import annotations

import json

import click

from dgref.errors import counted

_MARKS = {"ok": ("ok", "green"), "note": ("–", "dim"), "problem": ("!!", "bold red")}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as data.")
def command(as_json: bool) -> int:
    """Examine GPU, driver, compilers, kernel libraries, JIT caches and environment variables.

    Exit code 1 where something would break or skew a run; a machine without a GPU is not such a thing.
    """
    from dgref import doctor

    findings = doctor.examine()
    if as_json:
        click.echo(json.dumps(doctor.to_dict(findings), indent=1))
    else:
        _show(findings)
    return doctor.exit_code(findings)


def _show(findings: list) -> None:
    from rich.table import Table
    from rich.text import Text

    from dgref.report.terminal import console

    out = console()
    for section in dict.fromkeys(row.section for row in findings):
        table = Table(title=section, title_justify="left", title_style="bold", show_header=False, box=None)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for row in (row for row in findings if row.section == section):
            mark, style = _MARKS[row.severity]
            text = Text(row.value)
            if row.advice:
                text.append(f"\n-> {row.advice}", style="dim")
            table.add_row(Text(mark, style=style), row.name, text)
        out.print(table)
    problems = sum(row.severity == "problem" for row in findings)
    out.print(counted(problems, "problem") if problems else "nothing found that would spoil a run", style="bold")
