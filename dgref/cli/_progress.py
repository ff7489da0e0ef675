"""Progress: over bytes, on a terminal only; over a count, on stderr whatever reads it."""

from __future__ import annotations

import os
import sys
from typing import Any

import click


class Bytes:
    """Called with (bytes done, bytes in all, what is at hand)."""

    def __init__(self, verb: str, quiet: bool = False):
        self._verb, self._quiet = verb, quiet
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Bytes:
        from dgref.report.terminal import console

        out = console()
        if out.is_terminal and not self._quiet:
            from rich import progress

            columns = (
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}"),
            )
            self._bar = progress.Progress(*columns, console=out, transient=True)
            self._bar.start()
        return self

    def __call__(self, done: int, total: int, name: str) -> None:
        if self._bar is None:
            return
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done, total=total, description=f"{self._verb} {name}")

    def __exit__(self, *details: Any) -> None:
        if self._bar is not None:
            self._bar.stop()


class Counted:
    """Called with (number done, number in all): a bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, total: int, label: str):
        out = sys.stderr
        drawn = out.isatty() and not os.environ.get("CI")
        self._bar: Any = click.progressbar(length=total, label=label, file=out) if drawn else None

    def __enter__(self) -> Counted:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __call__(self, done: int, total: int) -> None:
        from dgref.report.terminal import is_milestone

        if self._bar is not None:
            self._bar.update(1)
        elif is_milestone(done, total):
            click.echo(f"{done}/{total} done", err=True)

    def __exit__(self, *details: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*details)
