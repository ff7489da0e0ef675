"""The compiled loops return what the readable path returns, for every recipe that they take."""

from importlib import import_module

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.formats import FORMATS, RECIPES, blockwise, fast_quantize, quantize

FAST = [
    name
    for name, row in RECIPES.items()
    if row.scaling is not None
    and row.scaling.hadamard == "no"  # a rotation comes before either path
    and fast_quantize.can_quantize(FORMATS[row.format], row.scaling)
]


def both(name: str, x: np.ndarray, stored=None):
    row = RECIPES[name]
    if row.scaling.has_global and stored is None:
        stored = quantize(x, name).global_scale
    arguments = (x, FORMATS[row.format], row.scaling, stored)
    return fast_quantize.quantize_blocks(*arguments), blockwise.quantize_blocks(*arguments)


def assert_equal(name: str, x: np.ndarray, stored=None) -> None:
    fast, readable = both(name, x, stored)
    np.testing.assert_array_equal(fast[1], readable[1])
    np.testing.assert_array_equal(fast[0], readable[0])


def boundaries(format) -> np.ndarray:
    """Every midpoint and value of a format, one float32 step around each, both signs."""
    values = format.decode(np.arange(format.max_code + 1, dtype=format.code_dtype)).astype(np.float64)
    points = np.concatenate([values, (values[1:] + values[:-1]) / 2]).astype(np.float32)
    near = np.concatenate([points, np.nextafter(points, np.float32(-1)), np.nextafter(points, np.float32(np.inf))])
    return np.concatenate([near, -near])


def test_the_usual_recipes_are_fast():
    assert {"mxfp4", "nvfp4", "mxfp8", "deepseek_fp8", "mxfp4/deep_gemm", "nvfp4/transformer_engine"} <= set(FAST)


@pytest.mark.parametrize("name", FAST)
def test_fast_equals_readable_on_every_boundary_under_every_leading_value(name):
    row = FORMATS[RECIPES[name].format]
    around = boundaries(row)
    columns = RECIPES[name].scaling.extents((1, 32))[1]
    count = -(-around.size // (columns - 1))
    x = np.zeros((count, columns), np.float32)
    x[:, 1:] = np.resize(around, (count, columns - 1))
    for top in (row.max, row.max * 0.75, 1.0):
        x[:, 0] = top
        assert_equal(name, x * np.float32(2.0**-3))


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=4, deadline=None)
@given(rows=st.integers(1, 5), columns=st.integers(1, 300), seed=st.integers(0, 2**32), spread=st.integers(0, 30))
def test_fast_equals_readable_on_random_blocks(name, rows, columns, seed, spread):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns)) * 2.0 ** rng.integers(-spread, spread + 1, (rows, columns))
    assert_equal(name, (x * (rng.random((rows, columns)) < 0.9)).astype(np.float32))


@pytest.mark.parametrize("name", FAST)
def test_fast_equals_readable_on_zeros_tails_and_empty_tensors(name):
    for shape in ((3, 1), (2, 257), (2, 3, 40), (0, 32)):
        x = -np.ones(shape, np.float32)
        x[:1] = 0
        assert_equal(name, x)


@pytest.mark.parametrize("name", FAST)
def test_fast_leaves_what_is_not_finite_to_the_readable_path(name):
    x = np.ones((2, 64), np.float32)
    x[0, 3] = np.nan
    row = RECIPES[name]
    stored = np.float32(1) if row.scaling.has_global else None
    assert fast_quantize.quantize_blocks(x, FORMATS[row.format], row.scaling, stored) is None


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "deepseek_fp8"])
def test_quantize_takes_the_fast_path_for_large_tensors(name, monkeypatch):
    x = np.random.default_rng(0).standard_normal((257, 512)).astype(np.float32)
    fast = quantize(x, name)
    monkeypatch.setattr(fast_quantize, "can_quantize", lambda format, scaling: False)
    readable = quantize(x, name)
    assert np.array_equal(fast.data, readable.data) and np.array_equal(fast.scale, readable.scale)


@pytest.mark.parametrize(
    "name", ["deepseek_fp8_weight", "deepseek_fp8_channel", "per_tensor_fp8", "nvfp4/four_over_six"]
)
@pytest.mark.parametrize("shape", [(300, 200), (2, 3, 130, 64)])
def test_rows_quantised_a_few_at_a_time_are_those_quantised_at_once(name, shape, monkeypatch):
    monkeypatch.setattr(import_module("dgref.formats.quantize"), "_CACHED", 1 << 10)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    t, row = quantize(x, name), RECIPES[name]
    data, scale = blockwise.quantize_blocks(x, FORMATS[row.format], row.scaling, t.global_scale)
    np.testing.assert_array_equal(t.data, data)
    np.testing.assert_array_equal(t.scale, scale)
