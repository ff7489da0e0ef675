"""Folders of shards: what index, names and files say of each other."""

from __future__ import annotations

import json

import pytest

from dgref.checkpoint import inspect
from dgref.checkpoint.conversion import claim
from dgref.errors import FileError
from tests.checkpoint.makers import facts_of, model, save_folder, structured


def test_index_and_shards_that_disagree_are_contradictions(tmp_path):
    folder = save_folder(tmp_path / "m", [model("gpt_oss_mxfp4", 1), model("gpt_oss_mxfp4", 2)], claim("gpt_oss_mxfp4"))
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    names = list(index["weight_map"])
    index["weight_map"] |= {"ghost": "model-00001-of-00002.safetensors", "lost": "../../etc/passwd"}
    del index["weight_map"][names[-1]]
    path.write_text(json.dumps(index))
    messages = " ".join(finding.message for finding in inspect(folder).findings if finding.fact == "files")
    for part in ("ghost", "no such readable shard", "1 tensor missing", "two tensors"):
        assert part in messages


def test_a_broken_shard_is_a_contradiction_and_a_broken_file_an_error(tmp_path):
    folder = save_folder(tmp_path / "m", [model("gpt_oss_mxfp4", 1), {"w": ("F32", structured())}])
    broken = folder / "model-00002-of-00002.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    inspection = inspect(folder)
    assert "files" in facts_of(inspection)
    with pytest.raises(FileError, match="100 bytes too short"):
        inspect(broken)


def test_a_shard_that_is_missing_is_missed_without_an_index_too(tmp_path):
    parts = [{f"w{number}": ("F32", structured())} for number in range(3)]
    folder = save_folder(tmp_path / "m", parts)
    (folder / "model.safetensors.index.json").unlink()
    assert inspect(folder).findings == ()
    (folder / "model-00002-of-00003.safetensors").unlink()
    (finding,) = inspect(folder).findings
    assert finding.message == "shards: got 2 of 3, need all, model-00002-of-00003.safetensors among them"
