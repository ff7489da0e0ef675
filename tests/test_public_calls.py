"""Whatever is given to a public function, it works or raises an error of dgref's own: no raw one, whatever the junk."""

from __future__ import annotations

import inspect as signatures
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dgref
from dgref.backends import backends, load_file, source_of
from dgref.errors import DgrefError, FileError, InputError
from dgref.testing import assert_conforms
from tests import samples

NUMBERS = np.random.default_rng(0).standard_normal((8, 128)).astype(np.float32)
SETTINGS = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))


class Odd:
    """Nothing that any function knows."""


@cache
def junk() -> list[Any]:
    """Return what people pass by mistake, and what nobody would."""
    numbers = [0, 1, -1, 2**70, -(2**70), 0.5, float("nan"), float("inf"), 1j, True, np.float32(2)]
    texts = ["", "x", "exact", "float8_e4m3fn", "../x", "a\0b", b"x"]
    containers = [(), [], {}, {1: 2}, [None], ["x"], {"a"}, range(3), slice(3), iter([1])]
    dtypes = [np.float64, np.int64, np.uint8, bool, complex, object, "U1", "M8[D]", ml_dtypes.bfloat16]
    arrays = [np.zeros((4, 128), dtype) for dtype in dtypes]
    arrays += [np.zeros(0, np.float32), np.zeros((0, 4), np.float32), np.zeros((2, 3, 4, 5, 6), np.float32)]
    arrays += [np.array(np.nan, np.float32), np.full((4, 128), np.nan, np.float32)]
    tensors = [torch.zeros(4, 128), torch.zeros(4, dtype=torch.complex64), torch.zeros(4, device="meta")]
    own = [samples.case(), samples.suite(), dgref.quantize(NUMBERS, "mxfp8"), dgref.FORMATS["float32"]]
    own += [dgref.RECIPES["mxfp8"], dgref.ARITHMETICS["deep_gemm.sm90.bf16"], dgref.OPS["gemm"]]
    return [None, ..., Odd(), len, int, *numbers, *texts, *containers, *arrays, *tensors, *own]


@cache
def calls() -> dict[str, Callable]:
    """Return a valid call of each public function; keywords given to one spoil an argument of its."""
    a, b = dgref.quantize(NUMBERS, "deepseek_fp8"), dgref.quantize(np.ones((128, 128), np.float32), "deepseek_fp8")
    case = samples.case()
    inputs = case.make_inputs()
    right = dgref.OPS["gemm"].compute(case, inputs, "exact")
    swizzle, e4m3 = dgref.LAYOUTS["swizzle_128x4"], dgref.FORMATS["float8_e4m3fn"]
    bytes_ = np.zeros((8, 4), np.uint8)
    core = dgref.TENSOR_CORES["sm90.wgmma.float8_e4m3fn"]
    rows = [
        partial(dgref.quantize, x=NUMBERS, recipe="mxfp8"),
        partial(dgref.dequantize, a),
        partial(dgref.compare.compare, NUMBERS, NUMBERS),
        partial(dgref.compare.ulp_distance, NUMBERS, NUMBERS),
        partial(dgref.diagnose, case, inputs, right, budget=0.02),
        partial(dgref.infer_arithmetic, case, inputs, right, budget=0.02),
        partial(dgref.inspect, "absent"),
        partial(dgref.load_results, "absent"),
        partial(dgref.run, [samples.suite()], ["reference/rational"], isolate=False),
        partial(dgref.Case.from_dict, case.to_dict()),
        partial(e4m3.encode, NUMBERS),
        partial(e4m3.decode, bytes_),
        partial(swizzle.pack, bytes_),
        partial(swizzle.unpack, swizzle.pack(bytes_), (8, 4)),
        partial(swizzle.address, (0, 0), (8, 4)),
        partial(core.dot, NUMBERS[:2, :32] * 0, NUMBERS[:2, :32] * 0),
        partial(assert_conforms, dgref.reference.gemm(a, b), "gemm", a=a, b=b),
        partial(dgref.reference.gemm, a, b),
        partial(dgref.reference.gemm_grouped_masked, NUMBERS[None], NUMBERS[None], np.array([3])),
        partial(dgref.reference.hc_prenorm, NUMBERS, NUMBERS),
        partial(dgref.OPS["gemm"].compute, case, inputs),
    ]
    return {f"{number} {getattr(row.func, '__qualname__', row.func)}": row for number, row in enumerate(rows)}


def arguments(call: partial) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    bound = signatures.signature(call.func).bind_partial(*call.args, **call.keywords)
    names = [row.name for row in signatures.signature(call.func).parameters.values() if row.kind is not row.VAR_KEYWORD]
    given = {name: value for name, value in bound.arguments.items() if name in names}
    return {**dict.fromkeys(names, signatures.Parameter.empty), **given}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a temporary folder, for a text given as a journal is a file's name, and among dgref's own backends.

    Other tests of this process may have loaded some that kill it, and `run` without names takes them all.
    """
    own = {name: row for name, row in backends().items() if source_of(name) == name}
    monkeypatch.setattr(backends(), "_rows", own)
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")


CALLBACKS = {"progress", "backend"}  # an error of the caller's own function is the caller's


def test_run_takes_no_backend_here_that_another_test_has_loaded(request: pytest.FixtureRequest) -> None:
    loaded = load_file(samples.MISBEHAVING)
    assert set(loaded) <= set(backends())
    request.getfixturevalue("inside")
    assert backends() and not set(loaded) & set(backends())


@SETTINGS
@given(st.data())
def test_a_spoiled_argument_is_an_error_of_dgrefs_own(inside: None, data: st.DataObject) -> None:
    call = calls()[data.draw(st.sampled_from(sorted(calls())))]
    known = {name: value for name, value in arguments(call).items() if name not in ("operands", "params", "parameters")}
    spoiled = data.draw(st.sampled_from(sorted(known.keys() - CALLBACKS)))
    values = {name: value for name, value in known.items() if value is not signatures.Parameter.empty}
    values[spoiled] = data.draw(st.sampled_from(junk()))
    extra = {name: value for name, value in call.keywords.items() if name not in known}
    try:
        call.func(**values, **extra)
    except (DgrefError, AssertionError) as error:
        assert str(error)


@pytest.mark.parametrize("table", ["ARITHMETICS", "BACKENDS", "FORMATS", "LAYOUTS", "OPS", "RECIPES", "TENSOR_CORES"])
def test_a_row_that_no_table_has_is_an_error_whatever_it_is(table: str) -> None:
    for name in junk():
        if isinstance(name, str | int | None):
            with pytest.raises(DgrefError):
                getattr(dgref, table)[name if name not in getattr(dgref, table) else "absent"]


@pytest.mark.parametrize("value", [None, 5, b"x", ["x"], NUMBERS])
@pytest.mark.parametrize("load", [dgref.load_results, dgref.inspect])
def test_what_is_no_path_is_named(load: Callable, value: Any) -> None:
    with pytest.raises(FileError, match=r"(results|checkpoint): got .*, need a path"):
        load(value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"settings": {}}, "settings: got {}, need a Settings"),
        ({"selection": "gemm"}, "selection: got 'gemm', need a Selection"),
        ({"progress": 3}, "progress: got 3, need a function"),
        ({"fail_fast": "no"}, "fail_fast: got 'no', need True or False"),
        ({"backends": [3]}, "backends: got 3, need names only"),
    ],
)
def test_an_option_of_run_that_is_of_another_kind_is_named(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        dgref.run("smoke", **options)
