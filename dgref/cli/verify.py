"""dgref verify: outputs that a program wrote as files."""

from __future__ import annotations

from pathlib import Path

import click

from dgref.cli._types import Output


@click.command("verify")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--arithmetic", metavar="NAME", help="What the program claims to compute: `exact`, or one of the listed.")
@click.option("--architecture", metavar="NAME", help="Where it ran, for the bound: `cpu`, or a GPU's, such as sm100.")
@click.option("--case", "ids", multiple=True, metavar="ID", help="Judge only this case. Repeatable.")
@click.option("-o", "--output", type=Output(), help="Folder for the report.")
@click.option("--no-diagnosis", is_flag=True, help="Report wrong results without searching for their cause.")
@click.option("--github", is_flag=True, help="Also print GitHub annotations.")
def command(
    folder: Path,
    arithmetic: str | None,
    architecture: str | None,
    ids: tuple[str, ...],
    output: Path | None,
    no_diagnosis: bool,
    github: bool,
) -> int:
    """Judge the outputs that a program wrote into FOLDER, which `dgref export` made.

    With --arithmetic outputs are held to every bit of it; without, to the bound of the narrowest accumulator where
    the program ran: 13 fraction bits for FP8 on Ada, on Hopper, and where nobody says; fp32 elsewhere.
    """
    from dgref.exchange import verify
    from dgref.files import claimed
    from dgref.reference.arithmetic import ARITHMETICS
    from dgref.report import terminal, write_bundle
    from dgref.trial import Settings

    if arithmetic not in (None, "exact"):
        arithmetic = ARITHMETICS[arithmetic].name
    with terminal.Progress() as progress:
        results = verify(folder, Settings(diagnose=not no_diagnosis), arithmetic, ids, progress, architecture)
    terminal.summary(results)
    if github:
        terminal.github_annotations(results)
    if output:
        with claimed(output):
            click.echo(f"report: {write_bundle(results, output)}")
    return results.exit_code
