"""Case x backend -> result: the only loop.

Everything that a run does with a case on a backend is in trial.py; this module chooses the pairs, keeps the order,
applies waivers, resumes, and hands each pair to a worker process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dgref import machine, recordings, suite, waivers
from dgref.backends import select
from dgref.errors import FileError, InputError, expected
from dgref.results import SCHEMA, Result, Results, load_results, parse_results
from dgref.suite import Case, Suite
from dgref.trial import Settings, blank
from dgref.worker import Inline, Worker

Progress = Callable[[int, int, Result], None]


@dataclass(frozen=True)
class Selection:
    """Which of the planned pairs run."""

    ids: tuple[str, ...] = ()
    keyword: str = ""
    shard: tuple[int, int] = (1, 1)

    def pick(self, pairs: Sequence[tuple[Case, str]]) -> list[tuple[Case, str]]:
        """Return the selected pairs, in order; an id that no case has is an error."""
        self._check_ids({case.id for case, _ in pairs} | {case.name for case, _ in pairs})
        kept = [pair for pair in pairs if self._wants(*pair)]
        index, count = self.shard
        return kept[index - 1 :: count]

    def _wants(self, case: Case, backend: str) -> bool:
        if self.ids and not {case.id, case.name} & set(self.ids):
            return False
        return all(word in f"{case.name} {case.op} {backend} {case.why}" for word in self.keyword.split())

    def _check_ids(self, known: set[str]) -> None:
        for id in self.ids:
            if id not in known:
                from dgref.errors import unknown_name

                raise unknown_name("case", id, known)


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
    """Return suites given by name, path or value."""
    return [row if isinstance(row, Suite) else suite.load(row) for row in suites]


def default_suites() -> list[str]:
    """Return the suites of `--default`: those marked so, and those for GPUs where there is one."""
    on_gpu = machine.gpu() is not None
    return [row.name for row in map(suite.load, suite.names()) if row.default or (on_gpu and row.device == "gpu")]


def default_backends() -> list[str]:
    """Return every backend that can be used on this machine."""
    from dgref.backends import backends

    return [name for name, backend in backends().items() if backend.unavailable() is None]


def run(
    suites: Iterable[str | Path | Suite],
    backends: Sequence[str] | None = None,
    *,
    selection: Selection = EVERYTHING,
    settings: Settings = DEFAULTS,
    fail_fast: bool = False,
    isolate: bool = True,
    journal: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Results:
    """Run every case of the suites on every backend and return the results.

    `journal` is a file to which each result is appended as it comes, and from which `resume` goes on.
    """
    chosen = [backend.name for backend in select(list(backends or default_backends()))]
    pairs = selection.pick([(case, name) for name in chosen for row in load_suites(suites) for case in row.cases])
    done = _journaled(journal) if resume and journal else {}
    results = Results(machine=machine.describe(), flags={"backends": chosen, "settings": asdict(settings)})
    known = waivers.load()
    stopped = False
    with Worker() if isolate else Inline() as worker, _Journal(journal, resume) as record:
        for number, (case, name) in enumerate(pairs, 1):
            if stopped:
                result = replace(
                    blank(case, name, settings), status="skipped", reason="after a failure, with --fail-fast"
                )
            elif (case.name, name) in done:
                result = done[case.name, name]
            else:
                result = waivers.apply(worker.run(case, name, settings), known)
                record.append(result)
            results.results.append(result)
            stopped = stopped or (fail_fast and result.bad)
            if progress:
                progress(number, len(pairs), result)
    if settings.record:
        recordings.pack(Path(settings.record), results.machine)
    return results


class _Journal:
    """Results as JSON lines, each complete when written: what a killed run leaves for `--resume`."""

    def __init__(self, path: Path | None, keep: bool):
        self._file: Any = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("a" if keep else "w", encoding="utf-8")
            except OSError as error:
                raise FileError(expected(str(path), error.strerror, "a path that can be written")) from error

    def append(self, result: Result) -> None:
        if self._file is not None:
            self._file.write(json.dumps(asdict(result), default=str) + "\n")
            self._file.flush()

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *details: Any) -> None:
        if self._file is not None:
            self._file.close()


def _journaled(path: Path) -> dict[tuple[str, str], Result]:
    """Return the results of an interrupted run; its last line may be half written and is then left out."""
    if not path.exists():
        return {}
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    results = parse_results({"schema": SCHEMA, "results": rows}, str(path))
    return {(result.case, result.backend): result for result in results}


__all__ = ["Selection", "Settings", "default_backends", "default_suites", "load_results", "parse_shard", "run"]
