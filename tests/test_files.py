"""A folder belongs to one run at a time; what a dead run left behind blocks nobody."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dgref import recordings
from dgref.errors import FileError
from dgref.exchange import read_manifest
from dgref.files import CLAIM, as_path, claimed
from dgref.report.bundle import check
from dgref.results import load_results

HOLD = """
import sys, pathlib, dgref.files
with dgref.files.claimed(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_second_run_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("kept")
    words = f"another run that writes there: process {os.getpid()} on .* since 20"
    with claimed(tmp_path), pytest.raises(FileError, match=words), claimed(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


def test_a_killed_runs_claim_is_void(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FileError, match=f"process {holder.pid} "), claimed(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    assert (tmp_path / CLAIM).exists()
    with claimed(tmp_path):
        pass
    assert not (tmp_path / CLAIM).exists()


def test_a_folder_on_a_system_without_locks_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claimed(tmp_path), claimed(tmp_path):
        assert not (tmp_path / CLAIM).exists()


def test_one_folder_given_twice_is_held_once(tmp_path: Path) -> None:
    with claimed(tmp_path, tmp_path / ".." / tmp_path.name, None):
        assert (tmp_path / CLAIM).exists()


def test_a_path_that_cannot_be_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="need a folder that can be written"), claimed(tmp_path / "file"):
        pass


@pytest.mark.parametrize("data", [b'{"a":' * 100_000, b"{", b"\xff", b'"\\ud800"', None])
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("results.json", load_results),
        ("manifest.json", read_manifest),
        ("manifest.json", check),
        ("h200/cuda.json", recordings.recordings),
    ],
)
def test_what_is_no_json_is_an_error_that_names_the_file(tmp_path: Path, name: str, read: object, data: bytes) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(FileError, match=f"{path.name}: got .*, need "):
        read(tmp_path)


@pytest.mark.parametrize("text", ["a" * 5000, "x/" * 3000, "a\0b", "\ud800"])
def test_a_path_that_the_system_cannot_take_is_a_sentence(text: str) -> None:
    with pytest.raises(FileError, match=r"results: got .* need a path that this system takes"):
        as_path("results", text)
