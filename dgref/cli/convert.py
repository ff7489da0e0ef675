"""dgref convert: a checkpoint under another convention or layout, where nothing is lost."""

from __future__ import annotations

from pathlib import Path

import click

from dgref.cli._types import Output
from dgref.errors import counted


@click.command("convert")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("out", type=Output())
@click.option(
    "--to",
    metavar="CONVENTION",
    help="The convention to write: one of `dgref.checkpoint.CONVENTIONS`, or bfloat16, float16, float32.",
)
@click.option("--layout", metavar="LAYOUT", help="The layout to write the scales in; see `dgref list layouts`.")
def command(path: Path, out: Path, to: str | None, layout: str | None) -> int:
    """Write a checkpoint under another convention or scale layout; refuse where a value would change."""
    from dgref.checkpoint import convert
    from dgref.cli._progress import Bytes

    with Bytes("writing") as progress:
        done = convert(path, out, to=to, layout=layout, progress=progress)
    parts = f"{counted(done.converted, 'weight')} converted", f"{counted(done.copied, 'tensor')} copied"
    click.echo(f"{done.path}: {', '.join(parts)}, {counted(done.bytes, 'byte')}")
    return 0
