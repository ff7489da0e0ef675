"""Codecs: the readable path against a search in exact arithmetic, the fast path against the readable one."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.formats import CONVENTIONS, FORMATS, Format, fast_codec
from dgref.formats.conversion import Conversion, conversion_of
from dgref.formats.philox import philox4x32
from dgref.formats.readable import decode_readable, encode_readable
from dgref.formats.rounding import ROUNDINGS
from tests.formats.inputs import NARROW, SMALL, boundaries, float32_inputs, random_bits

E4M3, E5M2, E2M1, E8M0 = (FORMATS[name] for name in ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float8_e8m0fnu"))
DETERMINISTIC = [name for name in ROUNDINGS if name != "stochastic"]


def _widened(values: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


# ---- the readable path --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", NARROW, ids=lambda f: f.name)
def test_every_code_survives_a_round_trip(format: Format):
    overflow = "inf" if format.infinity else None
    codes = format.codes
    expected = codes.copy()
    if format.sign == "ignored":
        expected &= 0x7F
    if format.nan_style == "ieee":  # a signalling NaN comes back quiet
        expected[format.is_nan(codes)] |= 1 << (format.mantissa_bits - 1)
    np.testing.assert_array_equal(format.encode(format.decode(codes), overflow=overflow), expected)


@pytest.mark.parametrize("rounding", ["nearest_even", "nearest_away", "nearest_zero", "toward_zero", "up", "down"])
@pytest.mark.parametrize("format", SMALL, ids=lambda f: f.name)
def test_encode_picks_the_neighbour_that_a_search_in_fractions_picks(format: Format, rounding: str):
    generator = np.random.default_rng(1)
    edge = _widened(boundaries(format)[::7])
    values = np.concatenate([edge, edge * (1 + 2.0**-45), generator.standard_normal(200) * format.max / 2])
    values = values[np.isfinite(values) & ((values > 0) | format.signed)]
    table = [(Fraction(v), c) for c, v in enumerate(format.decode(format.codes[: format.max_code + 1]).tolist())]
    for value, code in zip(values.tolist(), format.encode(values, rounding).tolist(), strict=True):
        assert code == _searched(table, value, rounding, format), value


def _searched(table: list[tuple[Fraction, int]], value: float, rounding: str, format: Format) -> int:
    """Return the code by comparing exact distances to the two values around; saturates."""
    magnitude, negative = abs(Fraction(value)), np.signbit(value)
    sign = format.sign_mask if negative else 0
    above = next(((v, c) for v, c in table if v >= magnitude), None)
    below = next(((v, c) for v, c in reversed(table) if v <= magnitude), table[0])
    if above is None or above[0] == magnitude or magnitude < table[0][0]:
        code = (above or table[-1])[1]
    else:
        away = {"up": not negative, "down": bool(negative), "toward_zero": False}.get(rounding)
        if away is None:
            twice = 2 * magnitude - above[0] - below[0]
            tie = {"nearest_away": True, "nearest_zero": False}.get(rounding, bool(below[1] & 1) or format.power_of_two)
            away = twice > 0 or (twice == 0 and tie)
        code = above[1] if away else below[1]
    return 0 if code == 0 and format.nan_style == "negative_zero" else code | sign


def test_float64_is_rounded_once():
    assert E4M3.encode(1.0625 + 2**-40) == 0x39
    assert E4M3.encode(np.float32(1.0625)) == 0x38
    assert FORMATS["bfloat16"].encode(1 + 2**-8 + 2**-40) == 0x3F81


@given(st.floats(width=64, allow_nan=False, allow_infinity=False), st.sampled_from(list(FORMATS)))
@settings(max_examples=300, deadline=None)
def test_rounding_is_within_half_an_ulp_of_any_float64(value: float, name: str):
    format = FORMATS[name]
    if not (format.signed or value > 0) or not format.min_subnormal <= abs(value) <= format.max:
        return
    code = format.encode(np.array([value]))
    assert abs(Fraction(float(format.decode(code)[0])) - Fraction(value)) <= Fraction(float(format.ulp(value))) / 2


OVERFLOW = [  # format, rounding, overflow, value, code
    ("float8_e4m3fn", "nearest_even", "saturate", 464.0, 0x7E),
    ("float8_e4m3fn", "nearest_even", "nan", 464.0, 0x7E),
    ("float8_e4m3fn", "nearest_even", "nan", 465.0, 0x7F),
    ("float8_e4m3fn", "nearest_even", "nan", -465.0, 0xFF),
    ("float8_e4m3fn", "nearest_away", "nan", 464.0, 0x7F),
    ("float8_e4m3fn", "toward_zero", "nan", 1e30, 0x7E),
    ("float8_e4m3fn", "nearest_even", "saturate", np.inf, 0x7E),
    ("float8_e5m2", "nearest_even", "inf", 61440.0, 0x7C),
    ("float8_e5m2", "nearest_even", "inf", -61440.0, 0xFC),
    ("float8_e5m2", "toward_zero", "inf", 1e30, 0x7B),
    ("float8_e5m2", "toward_zero", "inf", np.inf, 0x7C),
    ("float8_e5m2", "up", "inf", 1e30, 0x7C),
    ("float8_e5m2", "up", "inf", -1e30, 0xFB),
    ("float8_e5m2", "down", "inf", 1e30, 0x7B),
    ("float8_e5m2", "down", "inf", -1e30, 0xFC),
    ("float8_e5m2", "nearest_even", "saturate", -np.inf, 0xFB),
    ("float8_e5m2", "nearest_even", "nan", np.inf, 0x7E),
    ("float8_e8m0fnu", "nearest_even", "nan", 2.0**127 * 1.75, 0xFF),
    ("float8_e8m0fnu", "nearest_even", "saturate", 2.0**127 * 1.75, 0xFE),
    ("float4_e2m1fn", "nearest_even", "saturate", -1e30, 0x0F),
    ("bfloat16", "nearest_even", "inf", 3.4e38, 0x7F80),
    ("bfloat16", "nearest_even", "saturate", np.inf, 0x7F7F),
]


@pytest.mark.parametrize(("name", "rounding", "overflow", "value", "code"), OVERFLOW)
def test_overflow_follows_its_policy_and_ieee_for_directed_roundings(name, rounding, overflow, value, code):
    assert FORMATS[name].encode(value, rounding, overflow) == code


def test_wide_formats_overflow_to_infinity_by_default_and_narrow_ones_saturate():
    assert FORMATS["float16"].encode(1e6) == 0x7C00
    assert E5M2.encode(1e6) == 0x7B


NAN = [
    ("float8_e4m3fn", None, [0x7F, 0xFF]),
    ("float8_e4m3fn", "positive", [0x7F, 0x7F]),
    ("float8_e4m3fn", "negative", [0xFF, 0xFF]),
    ("float8_e5m2", None, [0x7E, 0xFE]),
    ("float8_e5m2", "sign", [0x7E, 0xFE]),
    ("float8_e5m2", 0x7F, [0x7F, 0x7F]),
    ("float8_e4m3fnuz", None, [0x80, 0x80]),
    ("float8_e8m0fnu", None, [0xFF, 0xFF]),
    ("float4_e2m1fn", None, [0x07, 0x07]),
    ("float4_e2m1fn", 0, [0x00, 0x00]),
    ("bfloat16", None, [0x7FC0, 0xFFC0]),
    ("float32", None, [0x7FC00000, 0xFFC00000]),
]


@pytest.mark.parametrize(("name", "nan", "codes"), NAN)
def test_nan_follows_its_policy(name: str, nan: str | int | None, codes: list[int]):
    assert FORMATS[name].encode(np.array([np.nan, -np.nan]), nan=nan).tolist() == codes


def test_zero_and_negative_input_of_a_format_without_them():
    assert E8M0.encode([0.0, -0.0, 2.0**-140, -3.0]).tolist() == [0, 0, 0, 0xFF]
    assert FORMATS["float8_ue4m3"].encode([0.0, -0.0, -1.0]).tolist() == [0, 0, 0x7F]
    assert FORMATS["float8_e4m3fnuz"].encode([-0.0, -(2.0**-30)]).tolist() == [0, 0]


@pytest.mark.parametrize("repeats", [1, 1000])
def test_the_payload_of_a_nan_is_kept_whatever_the_size_of_the_array(repeats: int):
    nan = np.tile(np.array([0x7D, 0x7E, 0x7F, 0xFF], np.uint8), 10 * repeats).view(ml_dtypes.float8_e5m2)
    assert set(E5M2.encode(nan)[:4].tolist()) == {0x7F, 0x7E, 0xFF}
    assert FORMATS["float16"].encode(nan)[:4].tolist() == [0x7F00, 0x7E00, 0x7F00, 0xFF00]
    assert FORMATS["bfloat16"].encode(nan)[:4].tolist() == [0x7FE0, 0x7FC0, 0x7FE0, 0xFFE0]


# ---- stochastic rounding ------------------------------------------------------------------------------------------


def test_philox_gives_the_published_words():
    words = philox4x32(np.zeros(1, np.uint64), 0)  # Random123 1.14, examples/kat_vectors
    assert words[0].tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_philox_equals_the_generator_written_with_python_integers():
    counters = np.array([0, 1, 2**32 - 1, 2**32, 2**63 + 12345], np.uint64)
    for key in (0, 1, 0xDEADBEEF_12345678):
        for counter, words in zip(counters.tolist(), philox4x32(counters, key).tolist(), strict=True):
            assert words == _philox(counter, key)


def _philox(counter: int, key: int) -> list[int]:
    mask = 0xFFFFFFFF
    c = [counter & mask, counter >> 32, 0, 0]
    k = [key & mask, key >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & mask, (p >> 32) ^ c[3] ^ k[1], p & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def test_a_seed_gives_the_same_codes_whatever_the_shape_or_kind_of_the_array():
    values = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    codes = E2M1.encode(values, "stochastic", seed=7)
    np.testing.assert_array_equal(E2M1.encode(values.reshape(-1), "stochastic", seed=7), codes.reshape(-1))
    np.testing.assert_array_equal(E2M1.encode(values.copy(order="F"), "stochastic", seed=7), codes)
    np.testing.assert_array_equal(E2M1.encode(torch.from_numpy(values), "stochastic", seed=7).numpy(), codes)
    assert (E2M1.encode(values, "stochastic", seed=8) != codes).any()


def test_stochastic_rounding_is_unbiased_and_leaves_exact_values_alone():
    values = np.full(1 << 16, 2.25)
    rounded = E2M1.decode(E2M1.encode(values, "stochastic", seed=3))
    assert set(rounded.tolist()) == {2.0, 3.0}
    deviation = (0.25 * 0.75 / values.size) ** 0.5
    assert abs(rounded.mean() - 2.25) < 5 * deviation
    assert (E2M1.encode(np.full(1000, 3.0), "stochastic", seed=3) == 5).all()


# ---- the fast path ------------------------------------------------------------------------------------------------


def _conversions(format: Format) -> list[Conversion]:
    """Return every rule that leads to a format, with a code put in where a library leaves it to chance."""
    rules = [conversion_of(format, rounding, None, None, None, None) for rounding in DETERMINISTIC]
    if format.has_nan:
        rules.append(conversion_of(format, "nearest_even", "nan", "positive", None, None))
    for convention in CONVENTIONS.values():
        if format.name in convention.conversions:
            rule = convention.conversions[format.name]
            rule = replace(rule, nan=0) if rule.nan == "refuse" else rule
            rules.append(replace(rule, infinity=None) if rule.infinity == "refuse" else rule)
    return rules


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
def test_the_fast_path_equals_the_readable_one_under_every_conversion(format: Format):
    values = float32_inputs(format if format in NARROW else FORMATS["bfloat16"], 1 << 15)[::3]
    taken = 0
    for conversion in _conversions(format):
        fast = fast_codec.encode(format, values, conversion)
        if fast is not None:
            taken += 1
            np.testing.assert_array_equal(fast, encode_readable(format, _widened(values), conversion), repr(conversion))
    assert taken


@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn", "bfloat16", "float16"]
)
def test_the_fast_path_rounds_float64_once(name: str):
    format = FORMATS[name]
    near = _widened(boundaries(format))
    values = np.concatenate([near, near * (1 + 2.0**-40), near * (1 - 2.0**-40), [1e300, -1e300, 1e-300, -1e-300]])
    for rounding in ("nearest_even", "toward_zero", "up"):
        conversion = conversion_of(format, rounding, None, None, None, None)
        fast = fast_codec.encode(format, values, conversion)
        if fast is not None:
            np.testing.assert_array_equal(fast, encode_readable(format, values, conversion))


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
def test_fast_decoding_equals_the_readable_one(format: Format):
    codes = format.codes if format.storage_bits <= 16 else random_bits(1 << 17).view(np.uint32)
    fast, readable = fast_codec.decode(format, codes), decode_readable(format, codes)
    np.testing.assert_array_equal(fast.view(np.uint32), readable.view(np.uint32))


def test_encode_takes_the_fast_path_for_large_input_of_every_kind():
    values = random_bits(1 << 16)
    expected = E4M3.encode(values[:1000])
    for source in (values, _widened(values), values.reshape(256, 256), torch.from_numpy(values)):
        codes = E4M3.encode(source)
        np.testing.assert_array_equal(np.asarray(codes).reshape(-1)[:1000], expected)
    strided = np.repeat(values, 2)[::2]
    np.testing.assert_array_equal(E4M3.encode(strided)[:1000], expected)
    half = np.arange(1 << 16, dtype=np.uint16)
    for native in (half.view(np.float16), half.view(ml_dtypes.bfloat16)):
        np.testing.assert_array_equal(E4M3.encode(native)[::99], E4M3.encode(native[::99]))


# ---- edges --------------------------------------------------------------------------------------------------------


def test_shapes_pass_through():
    for shape in ((), (0,), (3, 0), (2, 1, 3)):
        assert E4M3.encode(np.zeros(shape, np.float32)).shape == shape
        assert E4M3.decode(np.zeros(shape, np.uint8)).shape == shape


def test_torch_in_gives_torch_out():
    values = torch.tensor([[1.0, -3.0]], dtype=torch.bfloat16)
    codes = E4M3.encode(values)
    assert isinstance(codes, torch.Tensor) and codes.tolist() == [[0x38, 0xC4]]
    decoded = E4M3.decode(codes)
    assert isinstance(decoded, torch.Tensor) and decoded.dtype == torch.float32
    assert E4M3.decode(values.to(torch.float8_e4m3fn)).tolist() == values.tolist()
    assert FORMATS["float32"].decode(FORMATS["float32"].encode(values)).tolist() == values.tolist()


def test_every_format_but_the_widest_three_is_encoded_by_table():
    plain = {name: conversion_of(row, "nearest_even", None, None, None, None) for name, row in FORMATS.items()}
    without = {name for name, rule in plain.items() if not fast_codec.has_table(FORMATS[name], rule)}
    assert without == {"float16", "tfloat32", "float32"}
