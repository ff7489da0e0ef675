"""Whoever times a kernel has the GPU to itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dgref import timing
from dgref.errors import UnavailableError

PROCESSES = multiprocessing.get_context("spawn")


def take_a_turn(folder: str, entered: Any, leave: Any) -> None:
    timing.tempfile.tempdir = folder
    with timing.turn(True):
        entered.set()
        leave.wait(60)


def leave_a_fork_in_a_turn(folder: str, entered: Any, leave: Any) -> None:
    timing.tempfile.tempdir = folder
    with timing.turn(True):
        if os.fork() == 0:
            leave.wait(60)
            os._exit(0)
        entered.set()
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def elsewhere(target: Callable, folder: Path) -> Iterator[tuple[Any, Any]]:
    entered, leave = PROCESSES.Event(), PROCESSES.Event()
    process = PROCESSES.Process(target=target, args=(str(folder), entered, leave))
    process.start()
    yield entered, leave
    leave.set()
    process.join()


@pytest.fixture(autouse=True)
def _own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.tempfile, "tempdir", str(tmp_path))


def test_processes_that_time_kernels_take_turns_and_others_do_not_wait(tmp_path: Path) -> None:
    with ExitStack() as turn:
        turn.enter_context(timing.turn(True))
        with elsewhere(take_a_turn, tmp_path) as (entered, _):
            assert not entered.wait(2)
            turn.close()
            assert entered.wait(60)


def test_who_waits_is_told_before_and_after(tmp_path: Path) -> None:
    told: list[float] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        told.append(time.monotonic())
        leave.set()
        yield
        told.append(time.monotonic())

    with elsewhere(take_a_turn, tmp_path) as (entered, leave):
        assert entered.wait(60)
        with timing.turn(False, waiting):
            assert not told
        with timing.turn(True, waiting):
            assert len(told) == 2


def test_a_fork_of_a_process_that_was_killed_in_its_turn_holds_no_one_up(tmp_path: Path) -> None:
    with elsewhere(leave_a_fork_in_a_turn, tmp_path) as (entered, leave):
        assert entered.wait(60)
        with timing.turn(True):
            assert not leave.is_set()


def test_a_file_that_cannot_be_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.tempfile, "gettempdir", lambda: str(tmp_path / "absent"))
    with pytest.raises(UnavailableError, match=r"turn at the GPU: got .*absent.*, need .* TMPDIR"), timing.turn(True):
        pass
