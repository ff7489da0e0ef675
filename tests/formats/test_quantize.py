"""What every recipe promises, whatever its convention: half an ulp of the scaled grid, idempotence, honest refusals."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.errors import FormatError, InputError, ShapeError, UnknownNameError
from dgref.formats import FORMATS, RECIPES, dequantize, quantize

UNSCALED = [name for name, row in RECIPES.items() if row.scaling is None]
SCALED = [name for name, row in RECIPES.items() if row.scaling is not None]
GLOBAL = [name for name in SCALED if RECIPES[name].scaling.has_global]
SPECIAL = [0.0, -0.0, 0.25, -0.25, 0.75, 1.25, 1.75, 2.5, 3.5, -3.5, 5.0, 6.0, 7.0, 448.0, 464.0, 1e-4, -1e-9, 2.0**-20]


def draws(name: str) -> bool:
    scaling = RECIPES[name].scaling
    return scaling is not None and (scaling.rounding == "stochastic" or scaling.hadamard == "seeded")


def quantized(x, name: str, **arguments):
    return quantize(x, name, seed=5 if draws(name) else None, **arguments).validate()


@st.composite
def tensors(draw, multiple: int = 1):
    """Small matrices with tails: grid points and ties under a power of two, random values, zero blocks."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 70 // multiple)) * multiple
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["special", "normal", "wide", "sparse"]))
    if kind == "special":
        x = rng.choice(SPECIAL, (rows, columns)) * 2.0 ** draw(st.integers(-8, 8))
    elif kind == "wide":
        x = rng.standard_normal((rows, columns)) * 2.0 ** rng.integers(-12, 12, (rows, columns))
    else:
        x = rng.standard_normal((rows, columns))
    return (x * (rng.random((rows, columns)) < 0.1) if kind == "sparse" else x).astype(np.float32)


def exact_quotients(t, x: np.ndarray) -> np.ndarray:
    """x over everything that will multiply its payload, in float64."""
    with np.errstate(all="ignore"):
        factor = t.expanded_scale().astype(np.float64) * (t.global_factor() if t.global_scale is not None else 1.0)
        return np.where(x == 0, 0.0, x / factor)


FAITHFUL = [name for name in SCALED if RECIPES[name].scaling.hadamard == "no"]


@pytest.mark.parametrize("name", FAITHFUL)
@settings(max_examples=8, deadline=None)
@given(x=tensors())
def test_a_payload_is_within_half_an_ulp_of_the_exact_quotient(name, x):
    t = quantized(x, name)
    row = FORMATS[t.format]
    quotient = exact_quotients(t, x)
    zero_scale = t.expanded_scale() == 0
    bound = np.clip(quotient, -row.max, row.max)
    ulp = row.ulp(bound)
    steps = 1.0 if t.scaling.rounding == "stochastic" else 0.5
    # the quotient itself has passed through up to five float32 roundings
    slack = np.abs(bound) * 5 * 2.0**-24
    error = np.abs(np.asarray(t.values(), np.float64) - bound)
    flushed = t.scaling.payload == "multiply_flushed_reciprocal"  # zero blocks become 448 * 2^-127
    tiny = t.expanded_scale() <= 2.0**-127 if flushed or "normal" in t.scaling.payload else np.zeros(x.shape, bool)
    assert (error <= steps * ulp + slack)[~zero_scale & ~tiny].all()


# 1.74 * 2^n is rounded down to find its scale, its payload up to 1.75 * 2^n, which the next round rounds up
DRIFTS = {"mxfp8/compressed_tensors"}
POWERS = [n for n in FAITHFUL if RECIPES[n].scaling.scale_format == "float8_e8m0fnu" and n not in DRIFTS]


@pytest.mark.parametrize("name", POWERS)
@settings(max_examples=8, deadline=None)
@given(x=tensors())
def test_powers_of_two_are_idempotent_in_value(name, x):
    once = dequantize(quantized(x, name))
    assert np.array_equal(dequantize(quantized(once, name)), once)


def test_a_recipe_that_drifts_really_does():
    x = np.full((1, 32), 1.74, np.float32)
    first = quantize(x, "mxfp8/compressed_tensors")
    assert (quantize(dequantize(first), "mxfp8/compressed_tensors").scale == first.scale + 1).all()


COVERING = ["deepseek_fp8", "deepseek_fp8_ue8m0", "mxfp8/transformer_engine", "mxfp4/deep_gemm"]


@pytest.mark.parametrize("name", COVERING)
@settings(max_examples=8, deadline=None)
@given(x=tensors())
def test_a_scale_covers_the_amax_of_its_block(name, x):
    t = quantized(x, name)
    top = t.expanded_scale().astype(np.float64) * FORMATS[t.format].max
    assert (np.abs(x) <= top * (1 + 2.0**-22)).all()  # quotient and product may have rounded down


@settings(max_examples=25, deadline=None)
@given(x=tensors())
def test_an_nvfp4_scale_covers_its_block_up_to_its_own_rounding(x):
    t = quantized(x, "nvfp4")
    top = t.expanded_scale().astype(np.float64) * 6 * t.global_factor()
    normal = t.expanded_scale() >= FORMATS["float8_e4m3fn"].min_normal
    assert (np.abs(x) <= top * (1 + 2.0**-4))[normal].all()


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("shape", [(1, 16), (5, 48), (2, 3, 160), (130, 272), (0, 32), (4, 0), (2, 0, 16)])
def test_every_recipe_takes_tails_batches_and_empty_tensors(name, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    t = quantized(x, name)
    assert t.shape == shape and t.scale.shape == t.scaling.grid(shape)
    assert t.expanded_scale().shape == shape and dequantize(t).shape == shape


@pytest.mark.parametrize("name", [name for name in FAITHFUL if RECIPES[name].scaling.block[0] == 1])
def test_a_vector_is_a_row(name):
    x = np.random.default_rng(0).standard_normal(90).astype(np.float32)
    row, vector = quantized(x[None], name), quantized(x, name)
    assert np.array_equal(row.data[0], vector.data) and np.array_equal(row.scale[0], vector.scale)


@pytest.mark.parametrize("name", SCALED)
def test_zeros_stay_zeros(name):
    y = dequantize(quantized(np.zeros((3, 64), np.float32), name))
    flushed = name == "mxfp8/flashinfer"  # 0 * Inf is NaN, which min and max turn into 448, times 2^-127
    assert (y == (448 * 2.0**-127 if flushed else 0)).all()


@pytest.mark.parametrize("name", SCALED)
def test_strides_do_not_matter(name):
    x = np.random.default_rng(0).standard_normal((96, 160)).astype(np.float32)
    for view in (x.T, x[::2, ::-1], x[:, :80]):
        strided, copied = quantized(view, name), quantized(np.ascontiguousarray(view), name)
        assert np.array_equal(strided.data, copied.data) and np.array_equal(strided.scale, copied.scale)


@pytest.mark.parametrize("name", [name for name in SCALED if not draws(name)])
def test_the_other_axis_is_the_transposed_tensor(name):
    x = np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)
    down, along = quantized(x, name, axis=-2), quantized(np.ascontiguousarray(x.T), name)
    assert np.array_equal(down.transposed().data, along.data)
    assert np.array_equal(down.transposed().scale, along.scale)
    assert down.transposed().scaling == along.scaling


@pytest.mark.parametrize("name", [*SCALED, "bfloat16", "tfloat32"])
def test_torch_gives_what_numpy_gives(name):
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(ml_dtypes.bfloat16)
    ours = quantized(x, name)
    theirs = quantized(torch.from_numpy(x.view(np.int16)).view(torch.bfloat16), name)
    assert isinstance(theirs.data, torch.Tensor)
    assert np.array_equal(theirs.data.numpy(), ours.data)
    assert np.array_equal(dequantize(theirs).numpy(), dequantize(ours))
    if ours.scale is not None:
        assert np.array_equal(theirs.scale.numpy(), ours.scale)


@pytest.mark.parametrize("name", ["deepseek_fp8", "mxfp8", "mxfp4", "nvfp4", "nvfp4/transformer_engine", "per_row_fp8"])
def test_a_nan_takes_its_own_block_and_no_other(name):
    x = np.ones((2, 256), np.float32)
    x[1, 3] = np.nan
    y = dequantize(quantize(x, name, global_scale=1.0 if name in GLOBAL else None))
    hit = np.zeros(x.shape, bool)
    hit[1, : RECIPES[name].scaling.extents(x.shape)[1]] = True
    assert np.isnan(y[hit]).all() and np.isfinite(y[~hit]).all()


def test_an_infinite_value_saturates_under_the_largest_scale():
    t = quantize(np.array([[np.inf, 1.0] + [0.0] * 30], np.float32), "mxfp8/transformer_engine")
    assert t.scale[0, 0] == 0xFE and t.values()[0, 0] == 448
    t = quantize(np.array([[np.inf, 1.0] + [0.0] * 30], np.float32), "mxfp8")
    assert t.scale[0, 0] == 127 + 128 - 8  # OCP: the exponent of Inf's bits


@pytest.mark.parametrize("name", GLOBAL)
def test_a_global_scale_can_differ_for_each_leading_index(name):
    x = np.random.default_rng(0).standard_normal((3, 4, 32)).astype(np.float32)
    given_scales = np.array([0.5, 1.0, 4.0], np.float32)
    together = quantized(x, name, global_scale=given_scales)
    for i in range(3):
        alone = quantized(x[i], name, global_scale=given_scales[i])
        if RECIPES[name].scaling.rounding != "stochastic":
            assert np.array_equal(together.data[i], alone.data)
        assert np.array_equal(together.scale[i], alone.scale)


WAYS_TO_STORE = [("nvfp4", 2.0**-7), ("nvfp4/flashinfer", 128.0), ("nvfp4/transformer_engine", 21.0)]


@pytest.mark.parametrize(("name", "stored"), WAYS_TO_STORE)
def test_the_three_ways_to_store_a_global_scale(name, stored):
    x = np.full((1, 16), 21.0, np.float32)  # 21 / 2688 is 2^-7
    t = quantize(x, name)
    assert t.global_scale == np.float32(stored)
    assert (t.scale_values() == 448).all() and np.array_equal(dequantize(t), x)


def test_dequantizing_rounds_the_exact_product_once():
    t = quantize(np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32), "nvfp4/compressed_tensors")
    exact = t.values().astype(np.float64) * t.expanded_scale() / np.float64(t.global_scale)
    assert np.array_equal(dequantize(t), exact.astype(np.float32))


@pytest.mark.parametrize("name", UNSCALED)
def test_an_unscaled_recipe_is_its_format(name):
    x = np.abs(np.random.default_rng(0).standard_normal((3, 5))).astype(np.float32)
    t = quantize(x, name)
    assert np.array_equal(t.data, FORMATS[name].encode(x)) and t.scale is None
    assert np.array_equal(dequantize(t), FORMATS[name].decode(t.data))


def test_stochastic_rounding_is_seeded_and_unbiased():
    x = np.full((1, 16 * 4096), 1.1, np.float32)
    x[:, ::16] = 6.0
    t = quantize(x, "nvfp4/stochastic", seed=3, global_scale=1.0)
    assert np.array_equal(t.data, quantize(x, "nvfp4/stochastic", seed=3, global_scale=1.0).data)
    assert not np.array_equal(t.data, quantize(x, "nvfp4/stochastic", seed=4, global_scale=1.0).data)
    small = t.values()[x != 6.0]
    assert set(np.unique(small)) == {1.0, 1.5}
    # 61440 draws of probability 0.2: the mean is within 6 standard deviations of 1.1
    assert abs(small.mean() - 1.1) < 6 * 0.5 * np.sqrt(0.2 * 0.8 / small.size)


MXFP4 = RECIPES["mxfp4"]


def _with_nan(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[1, 5] = np.nan
    return x


REFUSALS = [
    (lambda x: quantize(x, "mxfp5"), UnknownNameError, "recipe: got 'mxfp5', need .*mxfp4"),
    (lambda x: quantize(x.astype(np.float64), "mxfp8"), FormatError, "x: got float64, need float32"),
    (lambda x: quantize(x.astype(np.int32), "mxfp8", name="weight"), FormatError, "weight: got int32"),
    (lambda x: quantize(x[0, 0], "mxfp8"), ShapeError, "x: got a scalar"),
    (lambda x: quantize(x, "mxfp8", axis=5), ShapeError, "axis: got 5"),
    (lambda x: quantize(x[0], "mxfp8", axis=-2), ShapeError, "axis: got -2"),
    (lambda x: quantize(x, "mxfp8", global_scale=1.0), FormatError, "global_scale: got 1.0, need None"),
    (lambda x: quantize(x, "bfloat16", global_scale=1.0), FormatError, "global_scale: got 1.0, need None"),
    (lambda x: quantize(x, "nvfp4", global_scale=-1.0), FormatError, "finite and positive"),
    (lambda x: quantize(x, "nvfp4", global_scale=np.ones(7)), ShapeError, "global_scale: got shape"),
    (lambda x: quantize(x * np.nan, "nvfp4"), FormatError, "x: got an amax of nan, need finite values"),
    (lambda x: quantize(x, "nvfp4/stochastic"), FormatError, "seed: got None, need an integer"),
    (lambda x: quantize(x, "nvfp4", seed=1), FormatError, "seed: got 1, need None"),
    (lambda x: quantize(x[:, :20], "nvfp4/hadamard", seed=1), ShapeError, "a multiple of 16"),
    (lambda x: quantize(x, None), UnknownNameError, "recipe: got None, need one of"),
    (lambda x: quantize(None, "mxfp8"), FormatError, "x: got object, need float32"),
    (lambda x: quantize(x.astype(np.uint8), "float8_e4m3fn"), FormatError, r"x: got uint8, need .*values, not codes"),
    (lambda x: quantize(x, "mxfp8", axis=1.0), ShapeError, "axis: got 1.0, need an integer"),
    (lambda x: quantize(np.ma.array(x, mask=x > 0), "mxfp8"), InputError, "x: got a masked array"),
    (lambda x: quantize(x, "nvfp4", global_scale="1"), FormatError, "global_scale: got <U1"),
    (lambda x: quantize(x, "nvfp4", global_scale=1e-50), FormatError, "global_scale: got 1e-50, need finite and pos"),
    (lambda x: quantize(x, "nvfp4/stochastic", seed=1.5), InputError, "seed: got 1.5, need an integer"),
    (lambda x: quantize(x, "nvfp4/hadamard", seed=-1), InputError, "seed: got -1, need an integer"),
    (lambda x: quantize(_with_nan(x), "mxfp4/modelopt"), FormatError, r"x: got NaN at \(1, 5\), need none"),
    (
        lambda x: quantize(x, MXFP4.varied("z", payload="divide_by_scale_over_global")),
        FormatError,
        "payload of recipe z",
    ),
    (lambda x: quantize(x, MXFP4.varied("z", rule="amax_over_max_over_global")), FormatError, "rule of recipe z"),
    (lambda x: quantize(x, MXFP4.varied("z", global_scale="divide")), FormatError, "need one under a global scale"),
    (lambda x: dequantize(x), FormatError, "t: got ndarray, need a ScaledTensor"),
    (lambda x: dequantize(replace(quantize(x, "mxfp8"), scale=None)), FormatError, "t.scale: got None, need a grid"),
    (lambda x: dequantize(replace(quantize(x, "nvfp4"), global_scale=None)), FormatError, "t.global_scale: got none"),
    (lambda x: dequantize(replace(quantize(x, "mxfp8"), scale=np.ones((2, 5), np.uint8))), ShapeError, "t.scale: got"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSALS)
def test_what_cannot_be_quantised_is_refused_with_a_sentence(call, error, message):
    assert issubclass(error, InputError)
    with pytest.raises(error, match=message):
        call(np.ones((2, 32), np.float32))
