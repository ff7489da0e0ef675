"""How much an inspection reads, and what it holds: bounded, whatever the size of the file."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from dgref.bench.checkpoint import sparse
from dgref.checkpoint import CONVENTIONS, inspect, read_header
from dgref.checkpoint.reading import Reader
from dgref.errors import FileError, InputError
from tests.checkpoint.makers import MAKERS, facts_of, model, save, structured


def test_sampling_reads_less_and_still_recognises(tmp_path):
    path = save(tmp_path / "m.safetensors", model("modelopt_nvfp4"))
    assert inspect(path, payload="sample").conventions == inspect(path).conventions
    with pytest.raises(InputError, match="payload: got 'none', need one of all, sample"):
        inspect(path, payload="none")


@pytest.mark.parametrize("name", [name for name, row in CONVENTIONS.items() if not row.grouped])
def test_a_sample_of_a_weight_of_any_size_is_bounded(tmp_path, name):
    shape = (8192, 32768)  # of holes, which take no place on the disk
    inspection = inspect(sparse(tmp_path, name, shards=2, weights=4, shape=shape), payload="sample")
    assert inspection.conventions == {name: 4}
    assert inspection.bytes > 4 << 27
    assert 4 << 17 < inspection.bytes_read < 4 << 21, "from an eighth to two mebibytes a weight"


@pytest.mark.parametrize("name", ["modelopt_fp8", "modelopt_nvfp4"])
def test_a_sample_that_misses_the_largest_weight_suspects_nothing(tmp_path, name):
    weights = structured(1024, 4096)
    weights[200, 7] = 40 * np.abs(weights).max()  # in no stretch: every other block scale is far below 448
    path = save(tmp_path / "m.safetensors", MAKERS[name]("w", weights))
    assert inspect(path, payload="sample").findings == ()


def test_a_sample_reaches_the_last_byte(tmp_path):
    shape = (1024, 2048)
    folder = sparse(tmp_path, "deepseek_v3_fp8", shards=1, weights=1, shape=shape)
    file = next(folder.iterdir())
    payload = read_header(file).tensors["model.layers.0.mlp.up_proj.weight"]
    with file.open("r+b") as stream:
        stream.seek(payload.start + payload.size - 1)
        stream.write(b"\x7f")
    assert "payload_nan" in facts_of(inspect(folder, payload="sample"))


def test_a_file_that_shrinks_while_it_is_read_is_a_file_error(tmp_path):
    path = save(tmp_path / "m.safetensors", MAKERS["deepseek_v3_fp8"]("w", structured()))
    entry = read_header(path).tensors["w.weight"]
    with path.open("r+b") as stream:
        stream.truncate(entry.start + 100)
    with Reader() as reader, pytest.raises(FileError, match="a file that has shrunk"):
        reader.read(entry)


@pytest.mark.slow
def test_memory_stays_bounded_on_a_file_much_larger(tmp_path):
    path, size = tmp_path / "large.safetensors", 160 << 20
    rows = size // 4096
    tensors = {
        "w.weight_packed": {"dtype": "U8", "shape": [rows, 4096], "data_offsets": [0, size]},
        "w.weight_scale": {"dtype": "U8", "shape": [rows, 256], "data_offsets": [size, size + size // 16]},
    }
    header = json.dumps(tensors).encode()
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + size + size // 16)
    script = (
        "import resource, sys; from dgref.checkpoint import inspect; small = resource.getrusage(0).ru_maxrss;"
        "inspect(sys.argv[2]); before = resource.getrusage(0).ru_maxrss;"
        "inspect(sys.argv[1]); print((resource.getrusage(0).ru_maxrss - before) // 1024)"
    )
    small = save(tmp_path / "small.safetensors", MAKERS["compressed_tensors_mxfp4"]("w", structured(512, 8192)))
    run = subprocess.run([sys.executable, "-c", script, path, small], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 64, "mebibytes beyond those of a small file"


def test_bytes_that_are_read_twice_are_counted_once(tmp_path):
    path = save(tmp_path / "m.safetensors", MAKERS["deepseek_v3_fp8"]("w", structured()))
    inspection = inspect(path)
    assert inspection.bytes_read == inspection.bytes
    entry = read_header(path).tensors["w.weight"]
    with Reader() as reader:
        for start in (0, 100, 1000, 1050, 90):
            reader.read(entry, start, 100)
        assert reader.bytes_read == 200 + 150


def test_far_rows_are_counted_by_what_was_read_of_them(tmp_path):
    path = save(tmp_path / "m.safetensors", MAKERS["deepseek_v3_fp8"]("w", structured(256, 16384)))
    with Reader() as reader:
        reader.rows(read_header(path).tensors["w.weight"], 0, 200, 16384, 8)
        assert reader.bytes_read == 200 * 8
