"""Results in a terminal: a progress bar with the time left, a summary table, and what failed with its reproduction."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dgref.results import BAD, GOOD, STATUSES, Result, Results

PLAIN_EVERY = 25  # lines between progress reports where there is no terminal
SHOWN_FAILURES = 20
_STYLES = {**dict.fromkeys(GOOD, "green"), **dict.fromkeys(BAD, "bold red")}


def console() -> Console:
    """Return a console that is plain and wide where no terminal reads it."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=160)


class Progress:
    """Called after each result: a bar on a terminal, a plain line now and then in CI."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = console()
        self._quiet = quiet  # where only data may be printed
        self._bar: Any = None
        self._task: Any = None
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> Progress:
        if self._console.is_terminal and not self._quiet and not os.environ.get("CI"):
            from rich import progress

            columns = (
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}"),
            )
            self._bar = progress.Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *details: Any) -> None:
        if self._bar:
            self._bar.stop()

    def interrupted(self, advice: str) -> None:
        """Say how far an interrupted run came, and what to do."""
        self.__exit__()
        done = sum(self._counts.values())
        self._console.print(f"interrupted after {done} results" + (f"; {advice}" if advice else ""), markup=False)

    def __call__(self, number: int, total: int, result: Result) -> None:
        self._counts[result.status] += 1
        if self._bar:
            self._show_bar(number, total, result)
        elif not self._quiet and (number % PLAIN_EVERY == 0 or number == total or result.bad):
            bad = sum(self._counts[status] for status in BAD)
            note = f"  {result.status}: {result.case} on {result.backend}" if result.bad else ""
            self._console.print(f"{number}/{total} done, {bad} bad{note}", markup=False)

    def _show_bar(self, number: int, total: int, result: Result) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=number, total=total, description=f"{result.backend} {result.case}")


def summary(results: Results) -> None:
    """Print one row a backend, then what is wrong, then one closing sentence."""
    out = console()
    out.print(_table(results))
    for result in [row for row in results if row.bad][:SHOWN_FAILURES]:
        out.print(failure(result))
    hidden = sum(row.bad for row in results) - SHOWN_FAILURES
    if hidden > 0:
        out.print(f"… and {hidden} more", markup=False)
    out.print(closing(results), style="bold red" if results.exit_code == 1 else "bold")


def _table(results: Results) -> Table:
    table = Table(title="conformance", title_justify="left", header_style="bold")
    for name in ("backend", "exact", "model", "bounded", "wrong", "not run", "why not run"):
        table.add_column(name, justify="left" if name in ("backend", "why not run") else "right", overflow="fold")
    for backend in dict.fromkeys(row.backend for row in results):
        table.add_row(*_cells(backend, [row for row in results if row.backend == backend]))
    return table


def _cells(backend: str, rows: list[Result]) -> list[Text | str]:
    held = Counter(row.level for row in rows if row.ran and not row.bad)
    bad = sum(row.bad for row in rows)
    idle = [row for row in rows if not row.ran]
    why = Counter(row.reason for row in idle).most_common(1)
    return [
        backend,
        *(str(held[level] or "") for level in ("exact", "model", "bounded")),
        Text(str(bad) if bad else "", style="bold red"),
        str(len(idle) or ""),
        f"{why[0][0]}"
        + (
            f" (+{len({row.reason for row in idle}) - 1} other reasons)"
            if len({row.reason for row in idle}) > 1
            else ""
        )
        if why
        else "",
    ]


def failure(result: Result) -> Text:
    """Return the few lines that say what is wrong and how to see it again."""
    text = Text()
    text.append(f"{result.status.replace('_', ' ')}  ", style=_STYLES.get(result.status, ""))
    text.append(f"{result.case} on {result.backend}\n", style="bold")
    text.append(f"  {result.reason}\n")
    if result.diagnosis and result.diagnosis.get("sentence"):
        text.append(f"  cause: {result.diagnosis['sentence']}\n")
    text.append(f"  again: {result.reproduce}\n", style="dim")
    return text


def closing(results: Results) -> str:
    """Return the one sentence that a reader takes away."""
    counts = results.counts
    parts = [f"{counts[status]} {status.replace('_', ' ')}" for status in STATUSES if counts[status]]
    verdict = {0: "all that ran conform", 1: "something is wrong", 3: "nothing could run"}[results.exit_code]
    return f"{len(results)} results: {', '.join(parts) or 'none'} — {verdict}"


def github_annotations(results: Results) -> None:
    """Print one GitHub workflow command for each wrong result."""
    for result in results:
        if result.bad:
            message = f"{result.reason} | again: {result.reproduce}"
            print(f"::error title={_escaped(result.case + ' on ' + result.backend, ',:')}::{_escaped(message)}")


def _escaped(text: str, extra: str = "") -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    for mark in extra:
        text = text.replace(mark, f"%{ord(mark):02X}")
    return text
