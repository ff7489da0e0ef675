"""dgref cache: compiled kernels on disk."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from dgref.errors import counted


@click.command("cache")
@click.argument("action", type=click.Choice(["list", "check", "clear"]), default="list")
@click.option("--problems", is_flag=True, help="With `clear`: remove only entries that fail their check.")
def command(action: str, problems: bool) -> int:
    """List, check or clear the kernels that were compiled on this machine."""
    from dgref.backends.cuda import cache
    from dgref.backends.cuda.environment import cache_folder

    if action == "clear":
        click.echo(f"removed {counted(cache.clear(only_problems=problems), 'entry')} from {cache_folder()}")
        return 0
    entries = cache.entries() if action == "list" else cache.check()
    for entry in entries:
        click.echo(_line(entry))
    if action == "check":
        bad = len(entries)
        held = counted(len(cache.entries()), "entry")
        click.echo(f"{bad} of {held} in {cache_folder()} {'has' if bad == 1 else 'have'} a problem")
        return 1 if bad else 0
    click.echo(f"{counted(len(entries), 'entry')} in {cache_folder()}")
    return 0


def _line(entry: Any) -> str:
    when = datetime.fromtimestamp(entry.modified).strftime("%Y-%m-%d %H:%M")
    what = entry.problem or " ".join(f"{key}={value}" for key, value in entry.description.items())
    return f"{when}  {entry.bytes:>9} bytes  {entry.path.name}  {what}"
