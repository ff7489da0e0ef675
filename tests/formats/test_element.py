"""Formats: what their rows derive, held to the specifications' tables and to other libraries' decoders."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
import torch

from dgref.errors import FormatError, InputError, UnknownNameError
from dgref.formats import FORMATS, Format, as_codes, as_native, format_of, native_dtype
from tests.formats.inputs import NARROW, SMALL

THIRTEEN = [
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float8_ue4m3",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
    "bfloat16",
    "float16",
    "tfloat32",
    "float32",
]

# OCP 8-bit Floating Point 1.0 table 1, OCP MX 1.0 tables 2 to 5, arXiv 2206.02915 table 2, IEEE 754-2019 table 3.5
EXTREMES = {  # largest, smallest normal, smallest subnormal
    "float8_e4m3fn": (448, Fraction(1, 2**6), Fraction(1, 2**9)),
    "float8_e5m2": (57344, Fraction(1, 2**14), Fraction(1, 2**16)),
    "float8_e4m3fnuz": (240, Fraction(1, 2**7), Fraction(1, 2**10)),
    "float8_e5m2fnuz": (57344, Fraction(1, 2**15), Fraction(1, 2**17)),
    "float8_e8m0fnu": (2**127, Fraction(1, 2**127), Fraction(1, 2**127)),
    "float8_ue4m3": (448, Fraction(1, 2**6), Fraction(1, 2**9)),
    "float6_e2m3fn": (Fraction(15, 2), 1, Fraction(1, 8)),
    "float6_e3m2fn": (28, Fraction(1, 4), Fraction(1, 16)),
    "float4_e2m1fn": (6, 1, Fraction(1, 2)),
    "bfloat16": ((2**8 - 1) * 2**120, Fraction(1, 2**126), Fraction(1, 2**133)),
    "float16": (65504, Fraction(1, 2**14), Fraction(1, 2**24)),
    "tfloat32": ((2**11 - 1) * 2**117, Fraction(1, 2**126), Fraction(1, 2**136)),
    "float32": ((2**24 - 1) * 2**104, Fraction(1, 2**126), Fraction(1, 2**149)),
}

SPECIAL_CODES = {  # NaN codes, infinity codes
    "float8_e4m3fn": ([0x7F, 0xFF], []),
    "float8_e5m2": ([0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF], [0x7C, 0xFC]),
    "float8_e4m3fnuz": ([0x80], []),
    "float8_e5m2fnuz": ([0x80], []),
    "float8_e8m0fnu": ([0xFF], []),
    "float8_ue4m3": ([0x7F, 0xFF], []),
    "float6_e2m3fn": ([], []),
    "float6_e3m2fn": ([], []),
    "float4_e2m1fn": ([], []),
}


def test_the_thirteen_formats_are_there():
    assert list(FORMATS) == THIRTEEN


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes_are_those_of_the_specification(name: str):
    format = FORMATS[name]
    assert tuple(map(Fraction, (format.max, format.min_normal, format.min_subnormal))) == EXTREMES[name]
    assert format.emax == int(np.floor(np.log2(format.max)))


@pytest.mark.parametrize("name", SPECIAL_CODES)
def test_special_codes_are_those_of_the_specification(name: str):
    format = FORMATS[name]
    nan, infinity = SPECIAL_CODES[name]
    assert format.nan_codes.tolist() == nan
    assert format.infinity_codes.tolist() == infinity
    assert np.isnan(format.decode(format.codes)).sum() == len(nan)


@pytest.mark.parametrize("format", NARROW, ids=lambda f: f.name)
def test_every_code_decodes_as_its_definition_in_fractions_says(format: Format):
    codes = format.codes[:: max(1, len(format.codes) >> 11)]
    for code, value in zip(codes.tolist(), format.decode(codes).tolist(), strict=True):
        if np.isfinite(value):
            assert Fraction(value) == _value(format, code), hex(code)
            assert np.signbit(value) == (format.signed and code >> (format.bits - 1) == 1)


def _value(format: Format, code: int) -> Fraction:
    """Return (-1)**S * 2**(E - bias) * 1.M, or 2**(1 - bias) * 0.M where E is 0, as the specifications print it."""
    field = code % (1 << (format.exponent_bits + format.mantissa_bits))
    exponent, fraction = divmod(field, 1 << format.mantissa_bits)
    sign = -1 if format.sign == "signed" and code >> (format.bits - 1) else 1
    if format.power_of_two:
        return Fraction(2) ** (exponent - format.bias)
    significand = Fraction(fraction, 1 << format.mantissa_bits) + (exponent > 0)
    return sign * significand * Fraction(2) ** (max(exponent, 1) - format.bias)


@pytest.mark.parametrize("format", [f for f in NARROW if f.native_dtype is not None], ids=lambda f: f.name)
def test_every_code_decodes_as_ml_dtypes_and_numpy_decode_it(format: Format):
    with np.errstate(invalid="ignore"):
        theirs = format.codes.view(format.native_dtype).astype(np.float32)
    np.testing.assert_array_equal(format.decode(format.codes), theirs)
    finite = np.isfinite(theirs)
    assert (np.signbit(format.decode(format.codes)) == np.signbit(theirs))[finite].all()


@pytest.mark.parametrize("format", [f for f in NARROW if hasattr(torch, f.name)], ids=lambda f: f.name)
def test_every_code_decodes_as_torch_decodes_it(format: Format):
    theirs = torch.from_numpy(format.codes).view(getattr(torch, format.name)).float().numpy()
    np.testing.assert_array_equal(format.decode(format.codes), theirs)


def test_the_top_bit_of_ue4m3_means_nothing():
    e4m3, ue4m3 = FORMATS["float8_e4m3fn"], FORMATS["float8_ue4m3"]
    half = np.arange(128, dtype=np.uint8)
    np.testing.assert_array_equal(ue4m3.decode(half), e4m3.decode(half))
    np.testing.assert_array_equal(ue4m3.decode(half | 0x80), e4m3.decode(half))


def test_tfloat32_ignores_the_thirteen_bits_below_it():
    words = np.array([0x3F800000, 0x3F801FFF, 0x3F802000, 0x7F801FFF], np.uint32)
    assert FORMATS["tfloat32"].decode(words).tolist() == [1.0, 1.0, 1.0009765625, np.inf]


def test_nan_keeps_sign_and_payload_where_the_format_has_them():
    assert FORMATS["bfloat16"].decode(np.array([0x7FC0, 0xFF81], np.uint16)).view(np.uint32).tolist() == [
        0x7FC00000,
        0xFF810000,
    ]
    assert FORMATS["float8_e4m3fn"].decode(np.array([0x7F, 0xFF], np.uint8)).view(np.uint32).tolist() == [
        0x7FC00000,
        0xFFC00000,
    ]


@pytest.mark.parametrize("format", SMALL, ids=lambda f: f.name)
def test_ulp_is_the_step_to_the_next_larger_value(format: Format):
    values = format.decode(format.codes[: format.max_code + 1]).astype(np.float64)
    steps = np.diff(values)
    np.testing.assert_array_equal(format.ulp(values[:-1]), steps)
    np.testing.assert_array_equal(format.ulp(-values[:-1]), steps)


def test_ulp_of_what_is_not_finite_is_nan():
    assert np.isnan(FORMATS["float32"].ulp([np.inf, -np.inf, np.nan])).all()


def test_format_of_reads_every_kind_of_dtype():
    for dtype in (np.float32, np.dtype("float16"), ml_dtypes.bfloat16, np.zeros(1, ml_dtypes.float8_e4m3fn), "float32"):
        assert format_of(dtype).native_dtype is not None
    assert format_of(torch.zeros(1, dtype=torch.float8_e5m2)).name == "float8_e5m2"
    assert format_of(torch.bfloat16).name == "bfloat16"
    assert native_dtype(FORMATS["float8_ue4m3"]) is None


@pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.native_dtype is not None], ids=lambda f: f.name)
def test_codes_and_native_arrays_share_their_memory(format: Format):
    codes = np.arange(12, dtype=format.code_dtype)
    native = as_native(codes, format)
    assert format_of(native) is format
    assert np.shares_memory(as_codes(native), codes)
    assert as_codes(codes) is codes


def test_torch_tensors_stay_torch_and_share_their_memory():
    tensor = torch.tensor([1.5, -2.0]).to(torch.float8_e4m3fn)
    codes = as_codes(tensor)
    assert codes.dtype == torch.uint8
    codes[0] = 0x38
    assert tensor.float().tolist() == [1.0, -2.0]
    assert as_native(codes, "float8_e4m3fn").dtype == torch.float8_e4m3fn


ERRORS = [
    (lambda: FORMATS["float8_e4m3"], UnknownNameError, "float8_e4m3fn"),
    (lambda: format_of(np.zeros(1, np.uint8)), FormatError, "got uint8, need one of"),
    (lambda: as_native(np.zeros(2, np.uint16), "float8_e4m3fn"), FormatError, "got uint16, need uint8"),
    (lambda: as_native(np.full(2, 0x21, np.uint8), "float4_e2m1fn"), FormatError, "got 0x21, need codes below 0x10"),
    (lambda: as_native(np.zeros(2, np.uint8), "float8_ue4m3"), FormatError, "native dtype: got float8_ue4m3"),
    (lambda: FORMATS["float32"].codes, FormatError, "need a format of at most 16 bits"),
    (lambda: FORMATS["bfloat16"].decode(torch.zeros(1, device="meta")), InputError, "need a CPU tensor"),
]


@pytest.mark.parametrize(("call", "error", "words"), ERRORS, ids=[words for *_, words in ERRORS])
def test_errors_say_what_came_and_what_is_needed(call, error: type[Exception], words: str):
    with pytest.raises(error, match=words.replace("[", r"\[")):
        call()
