"""Case x backend -> result: the only loop.

Everything that a run does with a case on a backend is in trial.py; this module chooses the pairs, keeps their order,
applies waivers, resumes, and hands each case to a worker process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from dgref import machine, recordings, suite, waivers
from dgref.backends import backends as all_backends
from dgref.backends import select, source_hashes
from dgref.errors import InputError, expected, flag, instance, shown, whole_number
from dgref.journal import Journal
from dgref.nested import NOT_RECORDED
from dgref.pool import Task, outcomes
from dgref.results import Result, Results, load_results
from dgref.suite import Case, Suite
from dgref.trial import Settings, blank
from dgref.worker import Inline, Worker

Progress = Callable[[int, int, Result], None]
MOST_JOBS = 4  # each worker holds a case and its references
MOST_JOBS_ASKED = 256  # each is a process that imports torch
CASES_A_JOB = 8  # fewer are done before another worker has started


@dataclass(frozen=True)
class Selection:
    """Which of the planned pairs run."""

    ids: tuple[str, ...] = ()
    keyword: str = ""
    shard: tuple[int, int] = (1, 1)

    def pick(self, cases: Sequence[Case], names: Sequence[str]) -> list[Task]:
        """Return the selected cases with their selected backends; what selects nothing at all is an error."""
        wanted = suite.chosen(cases, self.ids)
        tasks = [Task(case, tuple(name for name in names if self._wants(case, name))) for case in wanted]
        kept = [task for task in tasks if task.backends]
        if not kept:
            raise InputError(expected(f"-k {self.keyword!r}", "no case", "words that at least one case holds"))
        index, count = self.shard
        return kept[index - 1 :: count]

    def _wants(self, case: Case, backend: str) -> bool:
        return all(word in f"{case.name} {case.op} {backend} {case.why}" for word in self.keyword.split())


EVERYTHING = Selection()
DEFAULTS = Settings()


def parse_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of a text such as `2/4`."""
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise InputError(expected("--shard", repr(text), "i/n, such as 2/4")) from None
    if not 1 <= index <= count:
        raise InputError(expected("--shard", text, "1 <= i <= n"))
    return index, count


def load_suites(suites: Iterable[str | Path | Suite]) -> list[Suite]:
    """Return suites given by name, path or value, each once."""
    rows = [row if isinstance(row, Suite) else suite.load(row) for row in suites]
    unique = [row for number, row in enumerate(rows) if row not in rows[:number]]
    names = [row.name for row in unique]
    for name in names:
        if names.count(name) > 1:
            raise InputError(expected(f"suite {name!r}", "two files of that name", "names that tell suites apart"))
    return unique


def default_suites() -> list[str]:
    """Return the suites of `--default`: those marked so, and those for GPUs where there is one."""
    on_gpu = machine.gpu() is not None
    return [row.name for row in map(suite.load, suite.names()) if row.default or (on_gpu and row.device == "gpu")]


def default_backends() -> list[str]:
    """Return every backend that can be used on this machine."""
    return [name for name, backend in all_backends().items() if backend.unavailable() is None]


def default_jobs(tasks: Sequence[Task]) -> int:
    """Return 1 where there is a GPU, whose memory and clocks one kernel should have alone; else about one a core."""
    if machine.gpu() is not None:
        return 1
    return max(1, min(_cores(), MOST_JOBS, len(tasks) // CASES_A_JOB))


def _jobs(asked: int | None, tasks: Sequence[Task]) -> int:
    """Return how many workers run: what was asked for, never more than there is work for."""
    if asked is None:
        return default_jobs(tasks)
    return max(1, min(whole_number("jobs", asked, 1, MOST_JOBS_ASKED), len(tasks)))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _several(subject: str, value: Any, kind: Any) -> list[Any]:
    """Return one thing, or an iterable of them, as a list; anything else is an error that names it."""
    try:
        rows = [value] if isinstance(value, kind) else list(value)
    except TypeError:
        raise InputError(expected(subject, shown(value), "a name, or a list of names")) from None
    return [instance(subject, row, kind, "names only") for row in rows]


def _check_options(selection: Any, settings: Any, progress: Any, **flags: Any) -> None:
    instance("selection", selection, Selection, "a Selection")
    instance("settings", settings, Settings, "a Settings")
    instance("progress", progress, Callable | None, "a function of (number, total, result), or None")
    for name, value in flags.items():
        flag(name, value)


def run(
    suites: str | Path | Suite | Iterable[str | Path | Suite],
    backends: str | Sequence[str] | None = None,
    *,
    selection: Selection = EVERYTHING,
    settings: Settings = DEFAULTS,
    jobs: int | None = None,
    fail_fast: bool = False,
    isolate: bool = True,
    waiver_file: Path | None = None,
    journal: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    required: str | Sequence[str] = (),
) -> Results:
    """Run every case of the suites on every backend and return the results.

    Backends that are `required` run too, and the results' exit code is no success where one of them judged nothing.

    `journal` is a file to which each result is appended as it comes, and from which `resume` goes on. Without
    isolation everything runs in this process, one case after another. Outputs that `settings.record` asks for are
    left as parts, for `pack` to join.
    """
    _check_options(selection, settings, progress, fail_fast=fail_fast, isolate=isolate, resume=resume)
    suites = _several("suites", suites, str | Path | Suite)
    asked = [] if backends is None else _several("backends", backends, str)
    needed = {name: [row.name for row in select([name])] for name in _several("required", required, str)}
    chosen = [backend.name for backend in select(asked or default_backends())]
    chosen = list(dict.fromkeys([*chosen, *chain.from_iterable(needed.values())]))
    loaded = load_suites(suites)
    tasks = selection.pick([case for row in loaded for case in row.cases], chosen)
    jobs = _jobs(jobs, tasks) if isolate else 1
    flags = {"backends": chosen, "settings": asdict(settings)}
    said = {"suites": [row.name for row in loaded], **flags, "shard": list(selection.shard)}
    said |= {"required": needed} if needed else {}
    known = waivers.load(waiver_file)
    results = Results(machine=machine.describe(), flags=said, warnings=list(waivers.idle(known, loaded, chosen)))
    header = {"machine": results.machine, "backend files": source_hashes(chosen), **flags}
    target = Path(settings.record) if settings.record else None
    kept = partial(_has_outputs, target) if target else None
    with Journal(journal, header, resume, [task.case for task in tasks], kept) as record:
        if target:
            recordings.begin(target, record.done)
        left = _without(tasks, record.done)
        with closing(outcomes(left, _maker(jobs, isolate), jobs, settings)) as stream:
            waived = partial(waivers.apply, waivers=known)
            found = _collected(tasks, record, stream, waived, progress, fail_fast)
    results.results = [_found(found, task.case, name, settings) for task in tasks for name in task.backends]
    return results


def pack(target: Path, results: Results) -> list[Path]:
    """Join the outputs that a run saved in a folder into recordings; what it could not save is an error, at the end."""
    unwritten = [row.evidence[NOT_RECORDED] for row in results if NOT_RECORDED in row.evidence]
    return recordings.pack(target, results.machine, unwritten, finished=not results.counts["skipped"])


def _has_outputs(target: Path, result: Result) -> bool:
    """Say whether nothing that was to be recorded of a result is lost."""
    return NOT_RECORDED not in result.evidence and not recordings.is_damaged(target, result.backend, result.case)


def _maker(jobs: int, isolate: bool) -> Callable[[], Any]:
    """Return what makes a worker; several share the cores."""
    return partial(Worker, _cores() // jobs if jobs > 1 else 0) if isolate else Inline


def _collected(
    tasks: Sequence[Task],
    record: Journal,
    stream: Iterable[Result],
    waived: Callable[[Result], Result],
    progress: Progress | None,
    fail_fast: bool,
) -> dict[tuple[str, str], Result]:
    """Return the results of an earlier run and those that come, each reported; up to a bad one.

    What is written down is what was found: waivers count as they are when results are read, not when they came.
    """
    found = {pair: waived(result) for pair, result in record.done.items()}
    seen = _Seen(progress, sum(len(task.backends) for task in tasks))
    for pair in ((task.case.name, name) for task in tasks for name in task.backends):
        if pair in found:
            seen(found[pair])
    for result in stream:
        record.append(result)
        found[result.case, result.backend] = result = waived(result)
        seen(result)
        if fail_fast and result.bad:
            break
    return found


class _Seen:
    """Counts results for a progress report."""

    def __init__(self, progress: Progress | None, total: int):
        self._progress, self._total, self._number = progress, total, 0

    def __call__(self, result: Result) -> None:
        self._number += 1
        if self._progress:
            self._progress(self._number, self._total, result)


def _without(tasks: Sequence[Task], found: dict[tuple[str, str], Result]) -> list[Task]:
    left = [
        replace(task, backends=tuple(name for name in task.backends if (task.case.name, name) not in found))
        for task in tasks
    ]
    return [task for task in left if task.backends]


def _found(found: dict[tuple[str, str], Result], case: Case, name: str, settings: Settings) -> Result:
    reason = "after a failure, with --fail-fast"
    return found.get((case.name, name)) or replace(blank(case, name, settings), status="skipped", reason=reason)


__all__ = [
    "Selection",
    "Settings",
    "default_backends",
    "default_jobs",
    "default_suites",
    "load_results",
    "pack",
    "parse_shard",
    "run",
]
