"""Whoever times a kernel has the GPU to itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dgref import timing
from dgref.errors import UnavailableError


def test_processes_that_time_kernels_take_turns_and_others_do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing.tempfile, "gettempdir", lambda: str(tmp_path))
    entered = threading.Event()

    def wait_for_turn() -> None:
        with timing.turn(True):
            entered.set()

    other = threading.Thread(target=wait_for_turn)
    with timing.turn(True):
        other.start()
        with timing.turn(False):
            assert not entered.wait(0.2)
    assert entered.wait(10)
    other.join()


def test_a_file_that_cannot_be_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing.tempfile, "gettempdir", lambda: str(tmp_path / "absent"))
    with pytest.raises(UnavailableError, match=r"turn at the GPU: got .*absent.*, need .* TMPDIR"), timing.turn(True):
        pass
