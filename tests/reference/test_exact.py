"""The exact oracle against fractions: the two share no arithmetic, so a common mistake is unlikely."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.errors import FormatError, InputError, ShapeError
from dgref.formats.element import FORMATS
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.exact import contract_exact
from dgref.reference.exact_operand import as_tensor
from dgref.reference.rational import contract_rational

SCALINGS = {
    "none": None,
    "per_tensor": Scaling((0, 0)),
    "per_row": Scaling((1, 0)),
    "1x4": Scaling((1, 4)),
    "3x4": Scaling((3, 4)),
    "1x4_e8m0": Scaling((1, 4), "float8_e8m0fnu"),
    "1x2_e4m3_multiply": Scaling((1, 2), "float8_e4m3fn", global_scale="multiply"),
    "1x2_e4m3_divide": Scaling((1, 2), "float8_e4m3fn", global_scale="divide"),
    "1x2_e4m3_amax": Scaling((1, 2), "float8_e4m3fn", global_scale="amax"),
}
PAYLOADS = [name for name in FORMATS if name != "float8_e8m0fnu"]
OUTPUTS = ["bfloat16", "float16", "float32", "float64"]


def random_codes(generator, format, shape, finite=True):
    row = FORMATS[format]
    codes = generator.integers(0, 1 << row.bits, shape, dtype=np.uint64) << np.uint64(row.storage_shift)
    codes = codes.astype(row.code_dtype)
    return np.where(np.isfinite(row.decode(codes)), codes, 0).astype(row.code_dtype) if finite else codes


def random_tensor(generator, format, scaling, shape, finite=True):
    data = random_codes(generator, format, shape, finite)
    if scaling is None:
        return ScaledTensor(data, format)
    grid = scaling.grid(shape)
    if scaling.scale_format == "float32":
        scale = np.ldexp(generator.uniform(1, 2, grid), generator.integers(-20, 20, grid)).astype(np.float32)
    else:
        scale = random_codes(generator, scaling.scale_format, grid, finite)
        scale &= np.uint8(0x7F) if scaling.scale_format == "float8_e4m3fn" else np.uint8(0xFF)
    stored = np.float32(generator.uniform(0.01, 3)) if scaling.has_global else None
    return ScaledTensor(data, format, scale, scaling, stored)


def assert_same_bits(actual, expected):
    wide = np.asarray(actual).astype(np.float64)
    assert np.array_equal(np.isnan(wide), np.isnan(expected))
    known = ~np.isnan(expected)
    assert np.array_equal(wide[known].view(np.uint64), expected[known].view(np.uint64))


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(PAYLOADS),
    st.sampled_from(PAYLOADS),
    st.sampled_from(sorted(SCALINGS)),
    st.sampled_from(sorted(SCALINGS)),
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)),
    st.sampled_from(OUTPUTS),
    st.booleans(),
    st.sampled_from([1.0, -1.0, 0.3, 2.0**-40, 0.0]),
)
def test_every_pair_of_formats_and_scalings_equals_fractions(seed, fa, fb, sa, sb, shape, out, finite, alpha):
    generator = np.random.default_rng(seed)
    m, n, k = shape
    a = random_tensor(generator, fa, SCALINGS[sa], (m, k), finite)
    b = random_tensor(generator, fb, SCALINGS[sb], (n, k), finite)
    c = generator.standard_normal((m, n)).astype(np.float32) if seed % 2 else None
    with np.errstate(all="ignore"):
        assert_same_bits(contract_exact(a, b, c, alpha, out), contract_rational(a, b, c, alpha, out))


@pytest.mark.parametrize("neighbour", [-np.inf, np.inf])
def test_a_factor_that_float64_rounds_to_a_tie_is_still_seen_beside_it(neighbour):
    tie, three, one = 1 + 2.0**-24, np.full((1, 1), 3, np.float32), np.ones((1, 1), np.float32)
    alpha = next(x for x in (tie / 3, np.nextafter(tie / 3, neighbour)) if (3 * Fraction(x) < tie) == (neighbour < 0))
    assert 3 * alpha == tie and 3 * Fraction(alpha) != tie
    a, b = as_tensor(three, "a"), as_tensor(one, "b")
    found = contract_exact(a, b, alpha=alpha, out="float32")
    assert found == (1 if neighbour < 0 else np.float32(1 + 2.0**-23))
    assert_same_bits(found, contract_rational(a, b, None, alpha, "float32"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["bfloat16", "float32", "float16"]), st.sampled_from(OUTPUTS))
def test_cancellation_to_the_last_bit_equals_fractions(seed, format, out):
    generator = np.random.default_rng(seed)
    half = random_tensor(generator, format, None, (3, 6))
    mirrored = np.concatenate([half.data, half.data[:, ::-1]], axis=1)
    a = ScaledTensor(mirrored, format)
    weights = FORMATS[format].encode(generator.standard_normal((4, 6)).astype(np.float32))
    sign = FORMATS[format].sign_mask
    b = ScaledTensor(np.concatenate([weights, weights[:, ::-1] ^ sign], axis=1).astype(weights.dtype), format)
    c = (generator.integers(-2, 3, (3, 4)) * 2.0**-140).astype(np.float32)
    assert_same_bits(contract_exact(a, b, c, out=out), contract_rational(a, b, c, out=out))


@pytest.mark.parametrize(
    ("format", "scaling", "out"),
    [
        ("float8_e4m3fn", "1x4", "bfloat16"),
        ("float8_e5m2", "per_row", "float32"),
        ("float4_e2m1fn", "1x2_e4m3_divide", "float32"),
        ("bfloat16", "none", "float16"),
        ("float32", "none", "float32"),
    ],
)
def test_the_filter_and_the_superaccumulator_give_the_same_bits(monkeypatch, format, scaling, out):
    generator = np.random.default_rng(11)
    a = random_tensor(generator, format, SCALINGS[scaling], (40, 300))
    b = random_tensor(generator, format, SCALINGS[scaling], (30, 300))
    filtered = contract_exact(a, b, out=out)
    monkeypatch.setattr("dgref.reference.exact.relative_error", lambda k, rounded: -np.inf)
    assert np.array_equal(contract_exact(a, b, out=out), filtered, equal_nan=True)


def test_ties_go_to_even_and_what_lies_just_beside_them_does_not():
    a = np.array([[1.0, 1.0, 1.0]], np.float32)
    tie, beyond = [1.0, 2.0**-8, 0.0], [1.0, 2.0**-8, 2.0**-149]
    b = np.array([tie, beyond, [-x for x in beyond], [1.0, 3 * 2.0**-8, -(2.0**-149)]], np.float32)
    result = contract_exact(a, b).astype(np.float64)[0]
    assert result.tolist() == [1.0, 1 + 2.0**-7, -(1 + 2.0**-7), 1 + 2.0**-7]


def test_an_exact_zero_is_positive_and_an_underflow_keeps_its_sign():
    a = np.array([[-0.0, 0.0], [2.0**-100, 0.0]], np.float32)
    b = np.array([[1.0, -0.0], [-(2.0**-100), 0.0]], np.float32)
    result = contract_exact(a, b, np.float32([[-0.0, 0], [0, 0]]), out="float32")
    assert np.signbit(result).tolist() == [[False, False], [False, True]] and result[1, 1] == 0


def test_nan_and_infinity_follow_ieee_products_and_sums():
    a = np.array([[np.inf, 1.0], [np.nan, 0.0], [1.0, 1.0]], np.float32)
    b = np.array([[0.0, 1.0], [-1.0, 1.0], [1.0, -np.inf], [1.0, 2.0]], np.float32)
    result = contract_exact(a, b, out="float32")
    expected = [[np.nan, -np.inf, np.nan, np.inf], [np.nan] * 4, [1, 0, -np.inf, 3]]
    np.testing.assert_array_equal(result, np.array(expected, np.float32))
    assert np.isnan(contract_exact(a[2:], b[:1], np.array([[np.nan]]), out="float32"))


def test_overflow_goes_to_infinity_only_past_the_last_tie():
    largest = float(np.finfo(np.float16).max)
    b = np.array([[largest, 15.9], [largest, 16.0], [-largest, -16.0]], np.float32)
    result = contract_exact(np.ones((1, 2), np.float32), b, out="float16")
    assert result.tolist() == [[largest, np.inf, -np.inf]]


def test_rows_columns_and_tiles_choose_without_changing_a_bit(monkeypatch):
    generator = np.random.default_rng(5)
    a = random_tensor(generator, "float8_e4m3fn", SCALINGS["1x4"], (2, 9, 30))
    b = random_tensor(generator, "float8_e5m2", SCALINGS["3x4"], (13, 30))
    c = generator.standard_normal((9, 13)).astype(ml_dtypes.bfloat16)
    whole = contract_exact(a, b, c)
    monkeypatch.setattr("dgref.reference.exact.ROW_TILE", 4)
    monkeypatch.setattr("dgref.reference.exact.COLUMN_TILE", 5)
    assert np.array_equal(contract_exact(a, b, c), whole)
    part = contract_exact(a, b, c, rows=[7, 2], columns=slice(3, 12, 4))
    assert np.array_equal(part, whole[:, [7, 2]][:, :, 3:12:4])


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"b": np.ones((2, 5), np.float32)}, ShapeError, "b: got k = 5, need k = 4"),
        ({"a": np.ones((2, 4), np.uint8)}, FormatError, "a: got uint8, need a ScaledTensor"),
        ({"a": np.ones(4, np.float32)}, ShapeError, "a: got shape"),
        ({"out": "float8_e4m3fn"}, FormatError, "out: got float8_e4m3fn, need bfloat16"),
        ({"c": np.ones((3, 3), np.float32)}, ShapeError, "c: got "),
        ({"alpha": 2.0**-300}, InputError, "alpha: got "),
    ],
)
def test_a_bad_argument_is_named(arguments, error, sentence):
    ones = np.ones((2, 4), np.float32)
    with pytest.raises(error, match=sentence.replace("(", "\\(")):
        contract_exact(**{"a": ones, "b": ones, **arguments})


@pytest.mark.filterwarnings("error")
def test_an_infinite_scale_on_a_zero_is_nan_and_no_warning():
    a = ScaledTensor(np.zeros((1, 4), np.uint8), "float8_e4m3fn", np.full((1, 1), np.inf, np.float32), Scaling((1, 4)))
    b = ScaledTensor(np.full((1, 4), 0x38, np.uint8), "float8_e4m3fn")
    assert np.isnan(contract_exact(a, b).astype(np.float32)).all()
