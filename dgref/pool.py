"""Workers side by side: each takes the next case and runs all its backends, so that the case's reference is shared."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dgref.results import Result
from dgref.suite import Case
from dgref.trial import Settings


class Runs(Protocol):
    """What a worker is to the pool."""

    def run(self, case: Case, backend: str, settings: Settings) -> Result: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Task:
    """One case and the backends that are to compute it."""

    case: Case
    backends: tuple[str, ...]


def outcomes(tasks: Sequence[Task], make_worker: Callable[[], Runs], jobs: int, settings: Settings) -> Iterator[Result]:
    """Yield results as they come; close the iterator to end every worker."""
    if jobs > 1:
        yield from _Pool(tasks, make_worker, jobs, settings).results()
        return
    worker = make_worker()
    try:
        for task in tasks:
            for name in task.backends:
                yield worker.run(task.case, name, settings)
    finally:
        worker.stop()


class _Pool:
    def __init__(self, tasks: Sequence[Task], make_worker: Callable[[], Runs], jobs: int, settings: Settings):
        self._settings = settings
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            self._tasks.put(task)
        self._found: queue.SimpleQueue[Any] = queue.SimpleQueue()  # a Result, an exception, or None for "I am done"
        self._stopping = threading.Event()
        self._workers = [make_worker() for _ in range(jobs)]

    def results(self) -> Iterator[Result]:
        threads = [threading.Thread(target=self._serve, args=(worker,), daemon=True) for worker in self._workers]
        for thread in threads:
            thread.start()
        try:
            yield from self._gather(len(threads))
        finally:
            self._stopping.set()
            for worker in self._workers:
                worker.stop()
            for thread in threads:
                thread.join(timeout=10)

    def _gather(self, running: int) -> Iterator[Result]:
        while running:
            found = self._found.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                running -= 1
            else:
                yield found

    def _serve(self, worker: Runs) -> None:
        try:
            while not self._stopping.is_set():
                task = self._tasks.get_nowait()
                for name in task.backends:
                    if not self._stopping.is_set():
                        self._found.put(worker.run(task.case, name, self._settings))
        except queue.Empty:
            pass
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._found.put(error)
        finally:
            self._found.put(None)
            worker.stop()
