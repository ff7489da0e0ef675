"""An isolated process that computes trials, so that a crash, a hang or a lack of memory is one case's result.

The parent sends (case, backend name, settings) and receives a Result; when a deadline passes or the process dies, it
makes the result itself and starts a fresh worker for the next case.
"""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from dgref.backends import backends
from dgref.results import Result
from dgref.suite import Case
from dgref.trial import Settings, blank, trial

START_SECONDS = 120.0  # importing and compiling on a loaded machine


def _serve(channel: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    channel.send("ready")
    while True:
        try:
            message = channel.recv()
        except EOFError:
            return
        case, backend, settings = message
        channel.send(asdict(trial(case, backends()[backend], settings)))


class Worker:
    """One child process, replaced whenever it dies or hangs."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._channel: Connection | None = None

    def run(self, case: Case, backend: str, settings: Settings) -> Result:
        """Return the result of one trial, or what became of the process that attempted it."""
        if self._process is None:
            self._start()
        assert self._channel is not None
        try:
            self._channel.send((case, backend, settings))
            if not self._channel.poll(settings.timeout):
                return self._end(blank(case, backend, settings), "timeout", f"no result within {settings.timeout:g} s")
            return Result(**self._channel.recv())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return self._end(blank(case, backend, settings), *self._cause_of_death())

    def _start(self) -> None:
        self._channel, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        if not self._channel.poll(START_SECONDS) or self._channel.recv() != "ready":
            raise RuntimeError(f"worker process: got no answer, need one within {START_SECONDS:g} s")

    def _cause_of_death(self) -> tuple[str, str]:
        self._process.join(timeout=5)
        code = self._process.exitcode
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
        if self._process is not None:
            self._process.kill()
            self._process.join(timeout=10)
            self._process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *details: Any) -> None:
        self.stop()


class Inline:
    """The same interface in this process: for debugging, and for tests of backends defined in a test."""

    def run(self, case: Case, backend: str, settings: Settings) -> Result:
        """Return the result of one trial."""
        return trial(case, backends()[backend], settings)

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *details: Any) -> None:
        return None
