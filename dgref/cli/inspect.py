"""dgref inspect: what a checkpoint is and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything that was found as data.")
@click.option(
    "--payload",
    type=click.Choice(["all", "sample"]),
    default="all",
    show_default=True,
    help="How much of the weights' own bytes to read.",
)
def command(path: Path, as_json: bool, payload: str) -> int:
    """Recognise the convention of a checkpoint (a safetensors file or a folder) and lint it.

    Exit code 1 where names, dtypes, shapes, config and bytes contradict each other.
    """
    from dgref.checkpoint import inspect, render
    from dgref.cli._progress import Bytes
    from dgref.report.terminal import console

    with Bytes("reading", quiet=as_json) as progress:
        found = inspect(path, progress, payload=payload)
    if as_json:
        click.echo(found.to_json())
    else:
        console().print(render(found))
    return found.exit_code
