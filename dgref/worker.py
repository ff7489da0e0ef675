"""An isolated process that computes trials, so that a crash, a hang or a lack of memory is one case's result.

The parent sends (case, backend name, settings) and receives a Result; when a deadline passes or the process dies, it
makes the result itself and starts a fresh worker for the next case. Time in which a worker waits for the GPU, as it
says, is no time of its case.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from dgref import machine
from dgref.backends import backends, load_file, loaded_files
from dgref.errors import UnavailableError, expected
from dgref.expectation import Latest
from dgref.results import Result
from dgref.suite import Case
from dgref.trial import Settings, blank, trial

START_SECONDS = 120.0  # importing and compiling on a loaded machine
LOOK_SECONDS = 0.5  # between two looks at whether a silent process lives
_GUARDED = "a process that starts: a script needs its calls under `if __name__ == '__main__':`"
WAITS, GOES_ON = "waits", "goes on"
FIRST_TO_GO = "1000"  # when memory runs out, the kernel ends the worker and not the run


def _serve(channel: Connection, files: list[str], threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    _volunteer_for_the_memory_killer()
    for path in files:
        load_file(path)
    _share_the_cores(threads)
    machine.architecture()  # imports torch, which must not count against the first case's time
    latest = Latest()
    channel.send("ready")
    while True:
        try:
            case, backend, settings = channel.recv()
        except EOFError:
            return
        waiting = partial(_waiting, channel)
        channel.send(asdict(trial(case, backends()[backend], settings, latest.of(case), waiting)))


@contextmanager
def _waiting(channel: Connection) -> Iterator[None]:
    channel.send(WAITS)
    yield
    channel.send(GOES_ON)


def _volunteer_for_the_memory_killer() -> None:
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(FIRST_TO_GO)
    except OSError:  # not Linux, or not allowed: the default order applies
        pass


def _share_the_cores(threads: int) -> None:
    if not threads:
        return
    import numba
    import torch

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)


class Worker:
    """One child process, replaced whenever it dies, hangs, or has a CUDA error that would outlive its case."""

    def __init__(self, threads: int = 0) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._threads = threads  # 0: as many as there are
        self._process: Any = None
        self._channel: Connection | None = None

    def run(self, case: Case, backend: str, settings: Settings) -> Result:
        """Return the result of one trial, or what became of the process that attempted it."""
        channel = self._started()
        try:
            channel.send((case, backend, settings))
            answer = self._answer(channel, settings.timeout)
            if answer is None:
                return self._end(blank(case, backend, settings), *self._silence(settings))
            result = Result(**answer)
        except (EOFError, OSError):
            return self._end(blank(case, backend, settings), *self._cause_of_death())
        except Exception as error:  # a backend that writes into every open file writes here too
            reason = f"the process's answer cannot be read ({type(error).__name__})"
            return self._end(blank(case, backend, settings), "crash", reason)
        if (result.case, result.backend) != (case.name, backend):  # a fork of the process answered as well
            reason = f"the process answered for {result.case} on {result.backend}"
            return self._end(blank(case, backend, settings), "crash", reason)
        if outlives_its_case(result):
            self.stop()
        return result

    def _answer(self, channel: Connection, left: float) -> Any:
        """Return the answer, None without one in the seconds left, or of a process that died.

        Whether it lives is looked at, as a fork that it left behind may hold the channel open.
        """
        looked, waits = time.monotonic(), False
        while True:
            heard = channel.poll(LOOK_SECONDS if waits else min(LOOK_SECONDS, max(left, 0.0)))
            now = time.monotonic()
            left, looked = left if waits else left - (now - looked), now
            said = channel.recv() if heard else None
            if heard and said not in (WAITS, GOES_ON):
                return said
            waits = said == WAITS if heard else waits
            if not heard and (left <= 0 or not self._lives()) and not channel.poll():
                return None

    def _lives(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def _silence(self, settings: Settings) -> tuple[str, str]:
        if not self._lives():
            return self._cause_of_death()
        return "timeout", f"no result within {settings.timeout:g} s"

    def _started(self) -> Connection:
        if self._process is not None and self._channel is not None:
            return self._channel
        self._channel, theirs = self._context.Pipe()
        arguments = (theirs, loaded_files(), self._threads)
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        try:
            process.start()
        except RuntimeError:  # multiprocessing refuses where the main module is still being imported
            raise UnavailableError(expected("worker process", "a start while its parent starts", _GUARDED)) from None
        self._process = process
        theirs.close()
        self._wait_until_ready(self._channel)
        return self._channel

    def _wait_until_ready(self, channel: Connection) -> None:
        try:
            if channel.poll(START_SECONDS) and channel.recv() == "ready":
                return
            found = f"no answer within {START_SECONDS:g} s"
        except (EOFError, OSError):
            found = self._cause_of_death()[1]
        self.stop()
        raise UnavailableError(expected("worker process", found, _GUARDED))

    def _cause_of_death(self) -> tuple[str, str]:
        process = self._process
        if process is None:
            return "crash", "the process was stopped from outside"
        process.join(timeout=5)
        code = process.exitcode
        if code == -signal.SIGKILL:
            return "out_of_memory", "the process was killed (SIGKILL), as the kernel does when memory runs out"
        if code is not None and code < 0:
            return "crash", f"the process died of {signal.Signals(-code).name}"
        return "crash", f"the process exited with code {code}"

    def _end(self, result: Result, status: str, reason: str) -> Result:
        self.stop()
        result.status, result.reason = status, reason
        return result

    def stop(self) -> None:
        """End the process now; the next trial starts another."""
        process, self._process = self._process, None
        channel, self._channel = self._channel, None
        if process is not None:
            process.kill()
            process.join(timeout=10)
        if channel is not None:
            channel.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *details: Any) -> None:
        self.stop()


def outlives_its_case(result: Result) -> bool:
    """Say whether a CUDA context may be broken: after an illegal access every later call in the process fails."""
    return result.status in ("error", "out_of_memory") and "cuda" in f"{result.reason} {result.evidence}".lower()


class Inline:
    """The same interface in this process: for debugging, and for tests of backends defined in a test."""

    def __init__(self) -> None:
        self._latest = Latest()

    def run(self, case: Case, backend: str, settings: Settings) -> Result:
        """Return the result of one trial."""
        return trial(case, backends()[backend], settings, self._latest.of(case))

    def stop(self) -> None:
        """Nothing to end."""

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *details: Any) -> None:
        return None
