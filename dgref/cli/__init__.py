"""The command line: parse, call, print. Each command is one file of this folder, found by its name."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from dgref.errors import DgrefError
from dgref.version import VERSION

_ORDER = (
    "run",
    "diagnose",
    "fingerprint",
    "inspect",
    "convert",
    "export",
    "verify",
    "report",
    "bench",
    "faults",
    "list",
    "doctor",
    "cache",
)


class _Commands(click.Group):
    """A group whose commands are files; only the file that is called gets imported."""

    def list_commands(self, context: click.Context) -> list[str]:
        files = {path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")}
        return [name for name in _ORDER if name in files] + sorted(files - set(_ORDER))

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(context):
            return None
        return import_module(f"dgref.cli.{name}").command

    def resolve_command(self, context: click.Context, arguments: list[str]) -> Any:
        try:
            return super().resolve_command(context, arguments)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(arguments[0], self.list_commands(context))
            if near:
                error.message += f" Did you mean {near[0]!r}?"
            raise


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="dgref")
def group() -> None:
    """Are these bits right, and if not, what exactly is wrong?

    Exit codes: 0 all conform, 1 something is wrong, 2 bad usage or bad input, 3 nothing could run, 130 interrupted.
    """


def main() -> None:
    """Run the command line; every error that dgref raises on purpose is one line and its own exit code."""
    try:
        status = group.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except DgrefError as error:
        click.echo(f"dgref: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)
