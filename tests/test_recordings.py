"""Outputs of one machine are judged again on any other, and only for the inputs they were made from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dgref import recordings, runner
from dgref.backends.recorded import RecordedBackend
from dgref.errors import FileError, expected
from dgref.recordings import Recording
from dgref.results import Results
from dgref.trial import Settings, trial
from tests import samples

QUICK = Settings(diagnose=False)


def run(target: Path, count: int, **options: object) -> Results:
    runner.select([samples.MISBEHAVING])
    settings = Settings(diagnose=False, record=str(target))
    options = {"backends": ["misbehaving/correct"], "settings": settings, "isolate": False, **options}
    return runner.run([samples.suite(count)], **options)


def record(target: Path, count: int) -> None:
    runner.pack(target, run(target, count))


def cases(target: Path) -> list[str]:
    (recording,) = recordings.recordings(target.parent)
    with np.load(recording.path.with_suffix(".npz")) as stored:
        assert {name.split("/")[0].replace("__", "/") for name in stored.files} == recording.index["cases"].keys()
    return sorted(recording.index["cases"])


@pytest.fixture
def recorded(tmp_path: Path) -> RecordedBackend:
    record(tmp_path / "a-gpu", 2)
    (recording,) = recordings.recordings(tmp_path)
    return RecordedBackend(recording)


def test_a_recording_is_judged_like_the_backend_it_was_made_of(recorded: RecordedBackend) -> None:
    result = trial(samples.case("case-1"), recorded, QUICK)
    assert (result.status, result.level) == ("pass", "exact")
    assert recorded.name == "recorded/a-gpu/misbehaving/correct"
    assert result.evidence["runs"] == 1
    assert "recorded on" in result.provenance


def test_a_case_that_was_not_recorded_is_unsupported(recorded: RecordedBackend) -> None:
    assert trial(samples.case("other"), recorded, QUICK).status == "unsupported"


def test_other_inputs_are_refused(recorded: RecordedBackend) -> None:
    changed = samples.case("case-1", shape={"m": 4, "n": 8, "k": 32})
    result = trial(changed, recorded, QUICK)
    assert (result.status, "other bits" in result.reason) == ("error", True)


def test_damaged_outputs_are_named(recorded: RecordedBackend, tmp_path: Path) -> None:
    path = next((tmp_path / "a-gpu").glob("*.npz"))
    path.write_bytes(path.read_bytes()[:100])
    result = trial(samples.case("case-1"), recorded, QUICK)
    assert (result.status, "unreadable" in result.reason) == ("error", True)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"schema": recordings.SCHEMA})])
def test_an_index_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"x\.json"):
        Recording(path)


def test_a_damaged_index_makes_its_backend_unavailable_and_is_a_problem_of_the_doctor(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from dgref import recordings, doctor
recordings.recorded_folder = lambda: Path(sys.argv[1])
from dgref.backends import backends
print(backends()["recorded/a-gpu/torch/cuda"].unavailable())
print(backends()["reference/engine"].unavailable())
(row,) = [row for row in doctor.examine() if row.section == "recordings"]
print(row.severity, row.name, bool(row.advice))
"""
    (tmp_path / "a-gpu").mkdir()
    (tmp_path / "a-gpu" / "torch__cuda.json").write_text('{"schema')
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    damage, *rest = done.stdout.splitlines()
    assert "torch__cuda.json: got invalid JSON" in damage
    assert rest == ["None", "problem recorded/a-gpu/torch/cuda True"]


def test_what_is_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "LARGEST_BYTES", 8)
    record(tmp_path / "a-gpu", 1)
    assert recordings.recordings(tmp_path) == []


def test_a_fresh_run_begins_without_the_parts_of_a_killed_one(tmp_path: Path) -> None:
    run(tmp_path / "a-gpu", 3)
    (tmp_path / "a-gpu" / "parts" / "other").mkdir()
    record(tmp_path / "a-gpu", 1)
    assert cases(tmp_path / "a-gpu") == ["sample/case-0"]
    assert not (tmp_path / "a-gpu" / "parts").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: data[:60] + data[70:]])
def test_a_resumed_run_computes_again_what_its_parts_have_lost(tmp_path: Path, damage: Callable) -> None:
    target, journal = tmp_path / "a-gpu", tmp_path / "journal.jsonl"
    run(target, 3, journal=journal)
    _, broken, _ = sorted((target / "parts").glob("*/*"))
    broken.write_bytes(damage(broken.read_bytes()))
    before = len(journal.read_text().splitlines())
    runner.pack(target, run(target, 3, journal=journal, resume=True))
    assert len(journal.read_text().splitlines()) == before
    assert cases(target) == ["sample/case-0", "sample/case-1", "sample/case-2"]


def test_a_run_that_is_resumed_for_more_cases_keeps_those_that_were_recorded(tmp_path: Path) -> None:
    target, journal = tmp_path / "a-gpu", tmp_path / "journal.jsonl"
    options = {"journal": journal, "selection": runner.Selection(ids=("case-0", "case-1"))}
    runner.pack(target, run(target, 4, **options))
    bits = recordings.recordings(tmp_path)[0].integers("sample/case-1")
    runner.pack(target, run(target, 4, journal=journal, resume=True))
    assert cases(target) == [f"sample/case-{number}" for number in range(4)]
    again = recordings.recordings(tmp_path)[0].integers("sample/case-1")
    assert bits.keys() == again.keys() and all((bits[name] == again[name]).all() for name in bits)


def test_parts_that_have_no_result_are_no_part_of_a_resumed_run(tmp_path: Path) -> None:
    run(tmp_path / "a-gpu", 3)
    runner.pack(tmp_path / "a-gpu", run(tmp_path / "a-gpu", 1, journal=tmp_path / "journal.jsonl", resume=True))
    assert cases(tmp_path / "a-gpu") == ["sample/case-0"]


def test_a_run_that_stopped_at_a_failure_keeps_its_parts_for_its_resumption(tmp_path: Path) -> None:
    target, backends = tmp_path / "a-gpu", ["misbehaving/correct", "misbehaving/one_bit"]
    options = {"backends": backends, "journal": tmp_path / "journal.jsonl"}
    runner.pack(target, run(target, 2, fail_fast=True, **options))
    assert (target / "parts").exists()
    runner.pack(target, run(target, 2, resume=True, **options))
    assert [len(row.index["cases"]) for row in recordings.recordings(tmp_path)] == [2, 2]
    assert not (target / "parts").exists()


def test_a_part_that_is_damaged_before_it_is_joined_is_named_and_the_others_are_joined(tmp_path: Path) -> None:
    results = run(tmp_path / "a-gpu", 2)
    broken = min((tmp_path / "a-gpu" / "parts").glob("*/*"))
    broken.write_bytes(b"PK")
    with pytest.raises(FileError, match=r"no outputs of 1 case \(.*case-0.npz: got unreadable"):
        runner.pack(tmp_path / "a-gpu", results)
    assert cases(tmp_path / "a-gpu") == ["sample/case-1"]


def test_outputs_that_cannot_be_written_leave_results_and_are_an_error_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recordings, "write_atomically", full)
    results = run(tmp_path / "a-gpu", 2, journal=tmp_path / "journal.jsonl")
    assert [row.status for row in results] == ["pass", "pass"]
    assert "No space left" in results.results[0].evidence["not recorded"]
    with pytest.raises(FileError, match=r"no outputs of 2 cases .*No space left"):
        runner.pack(tmp_path / "a-gpu", results)
    monkeypatch.undo()
    again = run(tmp_path / "a-gpu", 2, journal=tmp_path / "journal.jsonl", resume=True)
    runner.pack(tmp_path / "a-gpu", again)
    assert len(cases(tmp_path / "a-gpu")) == 2


def full(path: Path, data: str | bytes) -> Path:
    raise FileError(expected(str(path), "No space left on device", "a path that can be written"))


def test_an_index_that_cannot_be_written_leaves_none_of_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "a-gpu", 2)
    results, write = run(tmp_path / "a-gpu", 1), recordings.write_atomically
    monkeypatch.setattr(recordings, "write_atomically", lambda *a: (full if a[0].suffix == ".json" else write)(*a))
    with pytest.raises(FileError, match="No space left"):
        runner.pack(tmp_path / "a-gpu", results)
    assert recordings.recordings(tmp_path) == []


@pytest.mark.parametrize("recording", recordings.recordings(), ids=lambda row: row.name)
def test_every_shipped_recording_has_its_outputs(recording: Recording) -> None:
    with np.load(recording.path.with_suffix(".npz")) as stored:
        names = {
            f"{case.replace('/', '__')}/{name}"
            for case, row in recording.index["cases"].items()
            for name in row["outputs"]
        }
        assert names <= set(stored.files)
