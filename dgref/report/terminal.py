"""Results in a terminal: a progress bar with the time left, a summary table, and what failed by its cause."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from rich.console import Console
from rich.text import Text

from dgref.errors import counted
from dgref.report.causes import Cause, causes, known_failures
from dgref.results import BAD, COMMON_GROUPS, GROUPS, STATUSES, Result, Results
from dgref.tables import shorten, table

PLAIN_EVERY, PLAIN_LINES = 25, 20  # where there is no terminal: a line after so many at the least, so many in all
BAR_WIDTH = 60  # of a progress bar's bar, numbers and time
COUNTS_WIDTH = 50  # of the columns beside a backend's name
SHOWN_CAUSES = 12
SHOWN_OF_A_CAUSE = 2  # in full
SHOWN_IDS = 6  # of the others


def console() -> Console:
    """Return a console that is plain and wide where no terminal reads it."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=160)


def is_milestone(done: int, total: int) -> bool:
    """Say whether a plain line is due: few enough for a log, often enough to see that it goes on."""
    return done == total or done % max(PLAIN_EVERY, -(-total // PLAIN_LINES)) == 0


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
        advice = f"; {advice}" if advice else ""
        self._console.print(f"interrupted after {counted(done, 'result')}{advice}", markup=False)

    def __call__(self, number: int, total: int, result: Result) -> None:
        self._counts[result.status] += 1
        if self._bar:
            self._show_bar(number, total, result)
        elif not self._quiet and (is_milestone(number, total) or result.bad):
            bad = sum(self._counts[status] for status in BAD)
            note = f"  {result.status}: {result.case} on {result.backend}" if result.bad else ""
            self._console.print(f"{number}/{total} done, {bad} bad{note}", markup=False)

    def _show_bar(self, number: int, total: int, result: Result) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=total)
        self._bar.update(
            self._task,
            completed=number,
            total=total,
            description=shorten(f"{result.case} on {result.backend}", max(self._console.width - BAR_WIDTH, 12)),
        )


def summary(results: Results) -> None:
    """Print one row a backend and why cases did not run, then what is wrong by its cause, then one closing sentence."""
    out = console()
    backends = {row.backend: [other for other in results if other.backend == row.backend] for row in results}
    out.print(table([_counts(name, rows, out.width) for name, rows in backends.items()], out.width))
    for name, rows in backends.items():
        _print(out, _not_run(name, rows))
    found = causes(results)
    for cause in found[:SHOWN_CAUSES]:
        _print(out, _cause(cause, out.width))
    hidden = sum(len(cause.rows) for cause in found[SHOWN_CAUSES:])
    if hidden:
        _print(out, Text(f"\n… and {hidden:,} more, of {counted(len(found) - SHOWN_CAUSES, 'other cause')}"))
    for line in [*results.warnings, *results.unmet]:
        _print(out, Text(f"warning: {line}", style="yellow"))
    _print(out, Text(results.makeup, style="dim"))
    _print(out, Text(f"\n{closing(results)}", style="bold red" if results.exit_code == 1 else "bold"))


def _print(out: Console, text: Text) -> None:
    """Print text unwrapped: the terminal wraps it, so that a command can be copied."""
    if text:
        out.print(text, soft_wrap=True)


def _counts(backend: str, rows: list[Result], width: int) -> dict[str, Any]:
    """Return how many results of a backend each group has; a zero is left blank, and a rare group out."""
    held = Counter(row.group for row in rows)
    counts = {name: held[name] or None for name in GROUPS if held[name] or name in COMMON_GROUPS}
    return {"backend": shorten(backend, max(width - COUNTS_WIDTH, 12)), **counts}


def _not_run(backend: str, rows: list[Result]) -> Text:
    """Return the commonest reason why cases of a backend did not run; nothing where all ran."""
    why = Counter(row.reason for row in rows if not row.ran).most_common()
    others = f" (and {counted(len(why) - 1, 'other reason')})" if len(why) > 1 else ""
    return Text(f"not run: {backend}: {why[0][0]}{others}" if why else "", style="dim")


def _cause(cause: Cause, width: int) -> Text:
    """Return a cause with how often it was met, its first results in full, and the ids of some others."""
    text = Text()
    text.append(f"\n{len(cause.rows)} x {cause.name}\n", style="bold red")
    for row in cause.rows[:SHOWN_OF_A_CAUSE]:
        text.append(failure(row, width))
    others = cause.rows[SHOWN_OF_A_CAUSE:]
    for row in others[:SHOWN_IDS]:
        text.append(f"{_title(row, width)}\n")
    if len(others) > SHOWN_IDS:
        text.append(f"… and {len(others) - SHOWN_IDS} more\n")
    text.rstrip()
    return text


def _title(row: Result, width: int) -> str:
    """Return verdict, case and backend in one line; ids are shortened where they would not fit, the verdict never."""
    status = row.status.replace("_", " ")
    room = max(width - len(status) - len("  ") - len(" on "), 24)
    backend = shorten(row.backend, max(room - len(row.case), room // 2))
    return f"{status}  {shorten(row.case, room - len(backend))} on {backend}"


def failure(result: Result, width: int) -> Text:
    """Return the few lines that say what is wrong and how to see it again."""
    text = Text()
    text.append(f"{_title(result, width)}\n", style="bold")
    text.append(f"  {result.reason}\n")
    for word, line in result.notes:
        text.append(f"  {word}: {line}\n", style="dim" if word in ("ask", "again") else "")
    return text


def closing(results: Results) -> str:
    """Return the one sentence that a reader takes away."""
    counts = results.counts
    parts = [f"{counts[status]:,} {status.replace('_', ' ')}" for status in STATUSES if counts[status]]
    known = known_failures(counts["waived"])
    conform = f"all others conform, {known}" if counts["pass"] else known
    bad = "outputs are missing" if counts["missing"] else "what a waiver says fails passes"
    bad = "something is wrong" if any(row.wrong for row in results) else bad
    nothing = "a required backend judged nothing" if results.unmet else "nothing could run"
    verdict = {0: conform if counts["waived"] else "all that ran conform", 1: bad, 3: nothing}[results.exit_code]
    return f"{counted(len(results), 'result')}: {', '.join(parts) or 'none'} — {verdict}"


def github_annotations(results: Results) -> None:
    """Print one GitHub workflow command for each bad result: an error; and for each that is waived: a warning."""
    for result in results:
        if result.bad or result.status == "waived":
            kind = "error" if result.bad else "warning"
            message = " | ".join([result.reason, *(f"{word}: {line}" for word, line in result.notes)])
            print(f"::{kind} title={_escaped(result.case + ' on ' + result.backend, ',:')}::{_escaped(message)}")


def _escaped(text: str, extra: str = "") -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    for mark in extra:
        text = text.replace(mark, f"%{ord(mark):02X}")
    return text
