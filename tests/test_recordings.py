"""Outputs of one machine are judged again on any other, and only for the inputs they were made from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dgref import recordings, runner
from dgref.backends.recorded import RecordedBackend
from dgref.errors import FileError
from dgref.recordings import Recording
from dgref.trial import Settings, trial
from tests import samples

QUICK = Settings(diagnose=False)


@pytest.fixture
def recorded(tmp_path: Path) -> RecordedBackend:
    runner.select([samples.MISBEHAVING])
    target = tmp_path / "a-gpu"
    settings = Settings(diagnose=False, record=str(target))
    runner.run([samples.suite(2)], ["misbehaving/correct"], settings=settings, isolate=False)
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


def test_what_is_too_large_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "LARGEST_BYTES", 8)
    runner.select([samples.MISBEHAVING])
    settings = Settings(diagnose=False, record=str(tmp_path / "a-gpu"))
    runner.run([samples.suite()], ["misbehaving/correct"], settings=settings, isolate=False)
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
