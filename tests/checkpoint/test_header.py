"""The header reader: every claim of a file is checked, and hostile files get an error, never a crash."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dgref.checkpoint import convert, inspect, read_header
from dgref.checkpoint.conversion import claim
from dgref.errors import DgrefError, FileError
from tests.checkpoint.makers import MAKERS, save, structured

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def file_of(tmp_path, header, data: bytes = b"\0" * 8, length: int | None = None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def one(**changes) -> dict:
    return {"a": {**GOOD["a"], **changes}}


def test_a_good_header_is_read(tmp_path):
    header = read_header(file_of(tmp_path, {"__metadata__": {"format": "pt"}, **GOOD}))
    assert header.metadata == {"format": "pt"}
    entry = header.tensors["a"]
    assert (entry.dtype, entry.shape, entry.size, entry.count) == ("F32", (2,), 8, 2)


def test_files_of_the_safetensors_library_are_read(tmp_path):
    from safetensors.numpy import save_file

    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros(0, np.int64), "c": np.float16(1)[None]}
    save_file(arrays, tmp_path / "x.safetensors", {"k": "v"})
    header = read_header(tmp_path / "x.safetensors")
    assert {name: entry.shape for name, entry in header.tensors.items()} == {"b": (2, 3), "a": (0,), "c": (1,)}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (GOOD, b"\0" * 7, "1 bytes too short"),
        (GOOD, b"\0" * 9, "1 bytes after the last tensor"),
        (one(dtype="F33"), b"\0" * 8, "dtype: got 'F33'"),
        (one(dtype=["F32"]), b"\0" * 8, "dtype"),
        (one(shape=[3]), b"\0" * 8, "12 bytes for F32"),
        (one(shape=[-2]), b"\0" * 8, "counts"),
        (one(shape=[True, 2]), b"\0" * 8, "counts"),
        (one(shape=[2.0]), b"\0" * 8, "counts"),
        (one(shape=[1 << 61, 1 << 61]), b"\0" * 8, "bytes for F32"),
        (one(shape=[1 << 63]), b"\0" * 8, "counts"),
        (one(shape=[1] * 40 + [2]), b"\0" * 8, "32 counts"),
        (one(data_offsets=[0, 8, 9]), b"\0" * 8, "2 counts"),
        (one(data_offsets=[8, 0]), b"\0" * 8, "8 to 0"),
        (one(data_offsets=[1, 9]), b"\0" * 9, "a hole after the header"),
        ({**GOOD, "b": GOOD["a"]}, b"\0" * 8, "an overlap with a"),
        ({**GOOD, "b": {**GOOD["a"], "data_offsets": [4, 12]}}, b"\0" * 12, "an overlap with a"),
        (one(extra=1), b"\0" * 8, "dtype, shape and data_offsets"),
        ({"a": [1]}, b"\0" * 8, "dtype, shape and data_offsets"),
        ({"": GOOD["a"]}, b"\0" * 8, "a name of 0 characters"),
        ({"n" * 5000: GOOD["a"]}, b"\0" * 8, "a name of 5000 characters"),
        ({"__metadata__": {"a": 1}, **GOOD}, b"\0" * 8, "a map of strings"),
        ({"__metadata__": 5, **GOOD}, b"\0" * 8, "a map of strings"),
        (b"[]", b"", "starts with {"),
        (b"{", b"", "valid JSON"),
        (b'{"a":1,"a":2}', b"", "key 'a' twice"),
        (b'{"a":NaN}', b"", "the constant NaN"),
        (b'{"a":' + b"9" * 5000 + b"}", b"", "valid JSON"),
        (b'{"\xff":1}', b"", "UTF-8"),
        (b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}", b"", "nesting"),
        (b'{"a":[' + b"[]," * 2100000 + b"1]}", b"", "more values than any checkpoint"),
    ],
)
def test_bad_headers_are_refused_with_the_reason(tmp_path, header, data, message):
    with pytest.raises(FileError, match=message.replace("(", r"\(").replace("{", r"\{")):
        read_header(file_of(tmp_path, header, data))


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 100_000_001, 1 << 63, (1 << 64) - 1])
def test_absurd_header_lengths_are_refused(tmp_path, length):
    with pytest.raises(FileError):
        read_header(file_of(tmp_path, GOOD, length=length))


def test_missing_empty_and_odd_paths_are_file_errors(tmp_path):
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("absent.safetensors", "empty.safetensors", "folder"):
        with pytest.raises(FileError):
            inspect(tmp_path / name)


def test_a_hostile_header_allocates_little(tmp_path):
    raw = b'{"a":{"dtype":"U8","shape":[4611686018427387903],"data_offsets":[0,4611686018427387903]}}'
    path = file_of(tmp_path, raw)
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, (1 << 31, 1 << 31));"
        "from dgref.checkpoint.header import read_header\n"
        "try: read_header(sys.argv[1])\nexcept OSError as error: print(type(error).__name__)"
    )
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "FileError"


@pytest.fixture(scope="module")
def specimens(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("specimens")
    makers = ("modelopt_nvfp4", "gpt_oss_mxfp4", "deepseek_v3_fp8")
    files = [save(folder / f"{name}.safetensors", MAKERS[name]("w", structured(16, 64))) for name in makers]
    return [file.read_bytes() for file in files]


def _read_anyhow(path) -> None:
    """Inspect and convert; only FileError may come out of the one, and only dgref's own errors of the other."""
    try:
        inspection = inspect(path)
    except FileError:
        return
    assert inspection.exit_code in (0, 1)
    json.loads(inspection.to_json())
    for how in ({"to": "float32"}, {"to": "compressed_tensors_mxfp4"}, {"layout": "swizzle_128x4"}):
        out = path.with_name("out")
        with suppress(DgrefError):
            convert(path, out, **how)
            assert inspect(out).bytes >= 0
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_cut_and_grown_files_never_crash(tmp_path, specimens, data):
    raw = bytearray(data.draw(st.sampled_from(specimens)))
    header = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, header - 1) | st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(bytes(raw[:cut]) + data.draw(st.binary(max_size=4)))
    _read_anyhow(path)


_SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 16, 17, 32, 64, 128]), max_size=4)
_SUFFIXES = (
    ".weight .weight_scale .weight_scale_inv .weight_scale_2 .input_scale .weight_packed .weight_global_scale "
    ".scale _blocks _scales .input_global_scale"
)
_NAMES = [f"w{suffix}" for suffix in _SUFFIXES.split()]
_DTYPES = ["U8", "I8", "F8_E4M3", "F8_E8M0", "F32", "BF16", "F16", "F64", "I64", "BOOL", "I32"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(st.sampled_from(_NAMES), st.tuples(st.sampled_from(_DTYPES), _SHAPES), max_size=6),
    layout=st.sampled_from([None, None, "swizzle_128x4", "packed_ue8m0", "packed_ue8m0_psum", "nonsense"]),
    seed=st.integers(0, 99),
)
@example(tensors={"w.weight_scale": ("U8", [0]), "w.weight": ("U8", [0, 0])}, layout="packed_ue8m0", seed=0)
def test_valid_headers_with_senseless_tensors_never_crash(tmp_path, tensors, layout, seed):
    from dgref.checkpoint.header import BITS

    generator, header, data = np.random.default_rng(seed), {}, b""
    if layout:
        header["__metadata__"] = {"dgref.scale_layout": layout}
    for name, (dtype, shape) in tensors.items():
        size = int(np.prod(shape)) * BITS[dtype] // 8
        if size > 1 << 20:
            continue
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += generator.bytes(size)
    _read_anyhow(file_of(tmp_path, header, data))


_KEYS = (
    "quantization_config quant_method config_groups weights group_size format weight_block_size ignore "
    "modules_to_not_convert quantization quant_algo exclude_modules weight_map text_config"
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["fp8", "mxfp4"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(_KEYS.split()),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_configuration_is_survived(tmp_path, specimens, config):
    (tmp_path / "model.safetensors").write_bytes(specimens[0])
    for name in ("config.json", "hf_quant_config.json", "model.safetensors.index.json"):
        (tmp_path / name).write_text(json.dumps(config))
    _read_anyhow(tmp_path)


_JUNK = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
_VALUES = _JUNK | st.lists(_JUNK, max_size=3) | st.dictionaries(st.text(max_size=4), _JUNK, max_size=2)


def _nodes(value, path: tuple = ()) -> list[tuple]:
    """Return the path of every node of nested data, the outermost first."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(node for key, item in items for node in _nodes(item, (*path, key)))]


def _spoiled(value, place: int, junk):
    """Return a copy of nested data with one node replaced."""
    value = json.loads(json.dumps(value))
    *path, last = _nodes({"": value})[1:][place % (len(_nodes(value)))]
    whole = inner = {"": value}
    for key in path:
        inner = inner[key]
    inner[last] = junk
    return whole[""]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(MAKERS)), place=st.integers(0, 12), junk=_VALUES, specimen=st.integers(0, 2))
def test_a_real_configuration_with_one_value_spoiled_is_survived(tmp_path, specimens, name, place, junk, specimen):
    (tmp_path / "model.safetensors").write_bytes(specimens[specimen])
    config = _spoiled({**claim(name), "expert_dtype": "fp4"}, place, junk)
    quantization = _spoiled({"quantization": {"quant_algo": "NVFP4", "group_size": 16}}, place, junk)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(quantization))
    _read_anyhow(tmp_path)


def test_a_pipe_is_refused_and_nobody_waits_for_its_writer(tmp_path):
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    with pytest.raises(FileError, match="got a pipe, socket or device, need a safetensors file"):
        read_header(path)
