"""Tensor-core models against recorded outputs of real GPUs, and against a scalar transcription in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.errors import FormatError, ShapeError, UnknownNameError
from dgref.formats.element import FORMATS
from dgref.reference.tensor_core import TENSOR_CORES, TensorCore
from tests.conftest import VECTORS, needs_vectors

_INSTRUCTIONS = {
    "v100": "sm70.mma",
    "a2": "sm86.mma",
    "a100": "sm80.mma",
    "ada": "sm89.mma",
    "l40s": "sm89.mma",
    "h100": "sm90.mma",
    "h200": "sm90.mma",
    "b200": "sm100.mma",
}
_FORMATS = {
    "fp16": "float16",
    "bf16": "bfloat16",
    "tf32": "tfloat32",
    "e4m3": "float8_e4m3fn",
    "e5m2": "float8_e5m2",
}
_ALL_GPUS = [f"{gpu}_{name}" for gpu in _INSTRUCTIONS if gpu != "v100" for name in _FORMATS] + ["v100_fp16"]
RECORDED = [
    name for name in _ALL_GPUS if name not in {f"{gpu}_{fp8}" for gpu in ("a2", "a100") for fp8 in ("e4m3", "e5m2")}
]


def recorded(name: str) -> tuple[TensorCore, dict[str, np.ndarray]]:
    gpu, _, short = name.partition("_")
    instruction = "sm90.wgmma" if gpu in ("h100", "h200") and short in ("e4m3", "e5m2") else _INSTRUCTIONS[gpu]
    with np.load(VECTORS / "tensor_core" / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return TENSOR_CORES[f"{instruction}.{_FORMATS[short]}"], arrays


def test_thirty_two_recordings_are_replayed():
    assert len(RECORDED) == 32


@needs_vectors
@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_bit_is_reproduced(name):
    core, arrays = recorded(name)
    a, b, c = (arrays[key].view(np.float32) for key in "abc")
    np.testing.assert_array_equal(core.dot(a, b, c).view(np.uint32), arrays["d_fp32"])


@needs_vectors
@pytest.mark.parametrize(
    "name", [name for name in RECORDED if name.endswith("fp16") or name in ("ada_e4m3", "ada_e5m2")]
)
def test_float16_results_agree_with_the_recorded_low_halves(name):
    # The recordings keep the low 16 bits of each float16 result written as a float32 word.
    core, arrays = recorded(name)
    a, b, c = (arrays[key].view(np.float32) for key in "abc")
    half = core.dot(a, b, c.astype(np.float16), out="float16")
    words = half.astype(np.float32).view(np.uint32) & 0xFFFF
    np.testing.assert_array_equal(words, arrays["d_fp16"])


def _parts(value: float, emin: int) -> tuple[Fraction, int]:
    """Significand and exponent of one value, by repeated doubling: no floating-point functions involved."""
    significand, exponent = Fraction(value), 0
    while abs(significand) >= 2:
        significand, exponent = significand / 2, exponent + 1
    while significand and abs(significand) < 1 and exponent > emin:
        significand, exponent = significand * 2, exponent - 1
    if exponent < emin:
        significand, exponent = significand / 2 ** (emin - exponent), emin
    return significand, exponent


def _truncate(value: Fraction, step: Fraction) -> Fraction:
    return (abs(value) // step) * step * (1 if value >= 0 else -1)


def scalar_step(core: TensorCore, terms: list[tuple[Fraction, int]], c: float) -> float:
    """One alignment, written from the model's definition."""
    terms = [term for term in terms if term[0]]
    if core.c == "aligned" and c:
        terms.append(_parts(c, -126))
    if not terms:
        return 0.0 + c if core.c == "added" else 0.0
    top = max(core.floor, *(exponent for _, exponent in terms))
    step = Fraction(2) ** (top - core.fraction_bits)
    total = sum(_truncate(significand * Fraction(2) ** exponent, step) for significand, exponent in terms)
    exponent = _parts_of_fraction(total)
    mantissa = {"float32": 23, "e8m13": 13}[core.output]
    kept = float(_truncate(total, Fraction(2) ** (max(exponent, -126) - mantissa)))
    result = np.float32(kept if abs(kept) < 2.0**128 else np.copysign(np.inf, kept))
    return float(result + np.float32(c)) if core.c == "added" else float(result)


def _parts_of_fraction(value: Fraction) -> int:
    exponent = 0
    while value and abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while value and abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    return exponent


def scalar_dot(core: TensorCore, a, b, c, scale_a=(), scale_b=()) -> float:
    emin = FORMATS[core.format].emin
    for start in range(0, len(a), core.step):
        terms = []
        for low in range(start, start + core.step, core.group):
            pairs = [(_parts(float(a[k]), emin), _parts(float(b[k]), emin)) for k in range(low, low + core.group)]
            scales = (
                [_parts(float(s[low // core.scale_block]), FORMATS[core.scale_format].emin) for s in (scale_a, scale_b)]
                if len(scale_a)
                else []
            )
            factor = np.prod([s for s, _ in scales]) if scales else Fraction(1)
            raised = sum(e for _, e in scales)
            if core.group == 1:
                (sa, ea), (sb, eb) = pairs[0]
                terms.append((sa * sb * factor, ea + eb + raised))
            else:
                exact = sum(x[0] * y[0] * Fraction(2) ** (x[1] + y[1]) for x, y in pairs)
                terms.append((exact * factor, raised))
        c = scalar_step(core, terms, c)
    return c


SAMPLED = [
    "sm70.mma.float16",
    "sm80.mma.tfloat32",
    "sm89.mma.float8_e5m2",
    "sm90.wgmma.float8_e4m3fn",
    "sm90.wgmma.bfloat16",
    "sm100.mma.float8_e4m3fn",
    "sm100.tcgen05.float6_e3m2fn",
    "sm100.tcgen05.mxf8f6f4.float8_e5m2",
    "sm100.tcgen05.mxf4.float4_e2m1fn",
    "sm120.mma.mxf4nvf4.float4_e2m1fn",
]


def random_operands(core: TensorCore, rng: np.random.Generator, count: int, k: int | None = None):
    """Operands over a format's finite codes, half of them crowded around one exponent so that alignment matters."""
    row = FORMATS[core.format]
    codes = row.codes[np.isfinite(row.decode(row.codes))] if row.storage_bits <= 16 else None
    shape = (count, k or core.k)
    if codes is None:
        values = [np.ldexp(rng.standard_normal(shape), rng.integers(-9, 9, shape)).astype(np.float32) for _ in "ab"]
        return [row.decode(row.encode(value)) for value in values]
    wide = [row.decode(rng.choice(codes, shape)) for _ in "ab"]
    near = [row.decode(row.encode(rng.standard_normal(shape))) for _ in "ab"]
    return [np.where(rng.random((count, 1)) < 0.5, x, y) for x, y in zip(wide, near, strict=True)]


def random_scales(core: TensorCore, rng: np.random.Generator, count: int):
    if not core.scale_block:
        return ()
    name = core.scale_formats[0]
    low, high = (100, 150) if name == "float8_e8m0fnu" else (0, 0x7F)
    blocks = core.k // core.scale_block
    return tuple(FORMATS[name].decode(rng.integers(low, high, (count, blocks)).astype(np.uint8)) for _ in "ab")


@pytest.mark.parametrize("name", SAMPLED)
def test_equals_the_scalar_transcription(name):
    core, rng = TENSOR_CORES[name], np.random.default_rng(7)
    a, b = random_operands(core, rng, 24)
    scales = random_scales(core, rng, 24)
    with np.errstate(over="ignore"):
        c = (np.ldexp(rng.standard_normal(24), rng.integers(-12, 12, 24)) * rng.integers(0, 2, 24)).astype(np.float32)
    expected = [scalar_dot(core, *row) for row in zip(a, b, map(float, c), *scales, strict=True)]
    np.testing.assert_array_equal(core.dot(a, b, c, *scales), np.array(expected, np.float32))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=64, max_size=64), st.integers(-40, 40), st.randoms())
def test_order_inside_one_instruction_does_not_matter(codes, exponent, random):
    core = TENSOR_CORES["sm90.wgmma.float8_e4m3fn"]
    values = np.nan_to_num(FORMATS[core.format].decode(np.array(codes, np.uint8)))
    a, b, order = values[:32], values[32:], list(range(32))
    random.shuffle(order)
    c = np.float32(2.0**exponent)
    assert core.dot(a, b, c) == core.dot(a[order], b[order], c)


def test_the_worked_example_of_the_documentation():
    # docs/tensor-cores.md: 240 + 1.75 * 2^-6 + C = -240: the small product loses its last bits at 2^(7-13).
    core = TENSOR_CORES["sm90.wgmma.float8_e4m3fn"]
    a, b = np.zeros(32, np.float32), np.ones(32, np.float32)
    a[0], a[1] = 240.0, 1.75 * 2.0**-6
    assert core.dot(a, b, -240.0) == 2.0**-6


@pytest.mark.parametrize(
    ("a", "b", "c", "bits"),
    [
        ([np.nan, 1], [1, 1], 0.0, 0x7FFFFFFF),
        ([-np.nan, 1], [1, 1], 0.0, 0x7FFFFFFF),
        ([np.inf, 1], [0, 1], 0.0, 0x7FFFFFFF),
        ([np.inf, -np.inf], [1, 1], 0.0, 0x7FFFFFFF),
        ([np.inf, 1], [-1, 1], 0.0, 0xFF800000),
        ([1, 1], [1, 1], np.inf, 0x7F800000),
        ([2.0**127, 2.0**127], [1, 1], 0.0, 0x7F800000),
        ([-(2.0**127), 2.0**127], [2, 1], -(2.0**127), 0xFF800000),
        ([1, -1], [1, 1], 0.0, 0x00000000),
        ([-0.0, 0.0], [1, 1], -0.0, 0x00000000),
        ([2.0**-70, 0], [2.0**-79, 0], 0.0, 0x00000001),
        ([2.0**-70, 0], [2.0**-80, 0], 0.0, 0x00000000),
        ([0, 0], [0, 0], 2.0**-149, 0x00000001),
    ],
)
def test_special_values(a, b, c, bits):
    result = TENSOR_CORES["sm90.wgmma.bfloat16"].dot(np.float32(a), np.float32(b), np.float32(c))
    assert result.view(np.uint32) == bits


def test_a_subnormal_operand_keeps_its_formats_smallest_exponent():
    # 2^-9 is subnormal in E4M3 (exponent -6) and normal in E5M2: the alignment, and so what is cut off, differs.
    core = TENSOR_CORES["sm90.wgmma.float8_e4m3fn"]
    a, b = np.zeros(2, np.float32), np.ones(2, np.float32)
    a[0], b[0] = 2.0**-9, 2.0**-9
    seed = np.float32(2.0**-18 + 2.0**-27)
    assert core.dot(a, b, seed) == 2.0**-17
    e5m2 = core.dot(a, b, seed, formats=("float8_e5m2", "float8_e5m2"))
    assert e5m2 == np.float32(2.0**-17 + 2.0**-27)


def test_tf32_ignores_the_low_bits_of_its_words():
    core = TENSOR_CORES["sm90.wgmma.tfloat32"]
    assert core.dot(np.float32([1 + 2.0**-11]), np.float32([1])) == 1.0


def test_a_short_k_is_filled_with_zeros_and_a_long_one_is_refused():
    core = TENSOR_CORES["sm90.wgmma.bfloat16"]
    assert core.dot(np.ones(3, np.float32), np.ones(3, np.float32)) == 3.0
    with pytest.raises(ShapeError, match="K: got 17, need at most 16"):
        core.dot(np.ones(17), np.ones(17))


def test_leading_axes_broadcast():
    core = TENSOR_CORES["sm80.mma.float16"]
    assert core.dot(np.ones((5, 1, 16)), np.ones((3, 16)), np.arange(3)).shape == (5, 3)


def test_narrow_operands_widen_exactly_and_others_are_refused():
    hopper = TENSOR_CORES["sm90.wgmma.float8_e4m3fn"]
    assert hopper.operand_format("float4_e2m1fn") == "float8_e4m3fn"
    assert hopper.operand_format("float8_e5m2") == "float8_e5m2"
    assert TENSOR_CORES["sm100.tcgen05.float8_e4m3fn"].operand_format("float4_e2m1fn") == "float4_e2m1fn"
    with pytest.raises(FormatError, match="operand: got bfloat16"):
        hopper.operand_format("bfloat16")


def test_scales_are_refused_where_the_instruction_has_none():
    with pytest.raises(FormatError, match="takes no block scales"):
        TENSOR_CORES["sm90.wgmma.float8_e4m3fn"].dot(np.ones(32), np.ones(32), scale_a=np.ones(1))
    with pytest.raises(FormatError, match="no model of other results"):
        TENSOR_CORES["sm90.wgmma.float8_e4m3fn"].dot(np.ones(32), np.ones(32), out="float16")
    with pytest.raises(ShapeError, match="scale_a: got 3, need 2"):
        TENSOR_CORES["sm100.tcgen05.mxf4.float4_e2m1fn"].dot(np.ones(64), np.ones(64), scale_a=np.ones(3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"a": np.full(32, 1.3)}, FormatError, "a: got 1.29.*, need values of float8_e4m3fn"),
        ({"a": "x"}, FormatError, "a: got 'x', need real numbers"),
        ({"b": np.ones(3)}, ShapeError, r"b shape: got \[3\], need one that broadcasts with \[32\]"),
        ({"scale_a": 1.5}, FormatError, "scale_a: got 1.5, need values of float8_e8m0fnu"),
        ({"out": "bfloat16"}, UnknownNameError, "out: got 'bfloat16', need float16 or float32"),
    ],
)
def test_operands_that_the_instruction_cannot_read_are_refused(options, error, message):
    core = TENSOR_CORES["sm100.tcgen05.mxf8f6f4.float8_e4m3fn"]
    with pytest.raises(error, match=message):
        core.dot(**{"a": np.ones(32), "b": np.ones(32), **options})


@pytest.mark.parametrize("name", TENSOR_CORES)
def test_rows_are_consistent(name):
    core = TENSOR_CORES[name]
    assert core.k % core.step == 0
    assert core.step % core.group == 0
    assert core.format in FORMATS
    assert core.source
    assert not core.scale_block or core.scale_block % core.group == 0
