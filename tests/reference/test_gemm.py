"""Dense products against plain float64 on values that every order of adding gives exactly."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import reference
from dgref.errors import FormatError, InputError, ShapeError
from dgref.formats import ScaledTensor
from tests.conftest import VECTORS, needs_vectors
from tests.reference import plain

EXACT_AND_MODEL = ("exact", "deep_gemm.sm90.fp8_1d2d")
extents = st.sampled_from([0, 1, 2, 5, 17, 33])


@settings(max_examples=25, deadline=None)
@given(
    m=extents,
    n=extents,
    k=st.sampled_from([0, 1, 31, 128, 160, 300]),
    seed=st.integers(0, 99),
    out=st.sampled_from(["bfloat16", "float32"]),
)
def test_exact_and_model_agree_with_plain_float64_on_integers(m, n, k, seed, out):
    a, b = plain.integers(seed, (m, k), block=(1, 128)), plain.integers(seed + 1, (n, k), block=(128, 128))
    expected = plain.rounded(plain.product(a, b), out) if k else np.zeros((m, n), plain.DTYPES[out])
    for arithmetic in EXACT_AND_MODEL:
        np.testing.assert_array_equal(reference.gemm(a, b, arithmetic=arithmetic, out=out), expected)


@pytest.mark.parametrize("a_format", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "bfloat16", "float16"])
@pytest.mark.parametrize("b_format", ["float8_e4m3fn", "float4_e2m1fn", "bfloat16"])
def test_every_pair_of_formats_multiplies(a_format, b_format):
    a, b = plain.integers(1, (5, 70), a_format, (1, 32)), plain.integers(2, (7, 70), b_format, (1, 32))
    plain.assert_same_bits(reference.gemm(a, b, out="float32"), plain.rounded(plain.product(a, b), "float32"))


def test_c_is_added_before_the_only_rounding():
    a = np.array([[1.0]], ml_dtypes.bfloat16)
    b = np.array([[2.0**-9]], ml_dtypes.bfloat16)
    c = np.array([[1 + 2.0**-8]], np.float32)
    # 1 + 2^-8 is a tie in BF16; the product makes it round up, and rounding c first would not
    assert float(reference.gemm(a, b, c)[0, 0]) == 1 + 2.0**-7


def test_alpha_scales_the_sum_but_not_c():
    a, b = plain.integers(3, (4, 64), block=(1, 128)), plain.integers(4, (6, 64), block=(1, 128))
    c = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = plain.rounded(0.5 * plain.product(a, b) + c, "float32")
    for arithmetic in EXACT_AND_MODEL:
        plain.assert_same_bits(reference.gemm(a, b, c, alpha=0.5, out="float32", arithmetic=arithmetic), expected)


@pytest.mark.parametrize("arithmetic", EXACT_AND_MODEL)
def test_rows_and_columns_compute_a_part_of_the_result(arithmetic):
    a, b = plain.integers(5, (9, 256), block=(1, 128)), plain.integers(6, (11, 256), block=(128, 128))
    whole = reference.gemm(a, b, arithmetic=arithmetic)
    part = reference.gemm(a, b, arithmetic=arithmetic, rows=np.array([8, 0]), columns=np.array([3, 10, 3]))
    plain.assert_same_bits(part, whole[[8, 0]][:, [3, 10, 3]])


@pytest.mark.parametrize("splits", [(2, 1, 2), (3, 0, 1), (4, 2, 0), (0, 2, 4)])
def test_head_splits_move_columns_and_leave_a_gap_in_each_head(splits):
    left, mid, right = splits
    a, b = plain.integers(7, (3, 32)), plain.integers(8, (3 * (left + right), 32))
    heads = plain.product(a, b).reshape(3, 3, left + right)
    gap = np.zeros((3, 3, mid))
    expected = np.concatenate([heads[..., :left], gap, heads[..., left:]], axis=-1).reshape(3, -1)
    plain.assert_same_bits(reference.gemm(a, b, head_splits=splits, out="float32"), expected.astype(np.float32))


def test_nan_and_infinity_pass_through_products_and_scales():
    one = np.full((1, 1), 0x38, np.uint8)
    nan = ScaledTensor(np.array([[0x7F]], np.uint8), "float8_e4m3fn")
    infinite = plain.integers(0, (1, 1), block=(1, 128)).with_scale(np.full((1, 1), np.inf, np.float32))
    plainly_one = ScaledTensor(one, "float8_e4m3fn")
    infinite = ScaledTensor(one, "float8_e4m3fn", infinite.scale, infinite.scaling)
    assert np.isnan(np.float32(reference.gemm(nan, plainly_one)[0, 0]))
    assert np.float32(reference.gemm(infinite, plainly_one)[0, 0]) == np.inf


def test_torch_in_is_torch_out():
    import torch

    a = torch.arange(12, dtype=torch.float32).reshape(3, 4).to(torch.bfloat16)
    b = torch.ones(2, 4, dtype=torch.bfloat16)
    d = reference.gemm(a, b)
    assert d.dtype == torch.bfloat16
    assert d.tolist() == [[6.0, 6.0], [22.0, 22.0], [38.0, 38.0]]
    eight = reference.gemm(a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn), out="float32")
    assert eight.dtype == torch.float32 and eight[1].tolist() == [22.0, 22.0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda a, b: reference.gemm(a, plain.integers(0, (5, 63))),
            ShapeError,
            "b shape: got [5, 63], need k = 64, as in a",
        ),
        (lambda a, b: reference.gemm(a.data, b), FormatError, "a: got an array of uint8, need a ScaledTensor"),
        (
            lambda a, b: reference.gemm((a, a), b),
            FormatError,
            "a: got a tuple, need an array whose dtype says its format, or a ScaledTensor",
        ),
        (
            lambda a, b: reference.gemm(a, b, np.zeros((2, 5), np.float32)),
            ShapeError,
            "c shape: got [2, 5], need m = 4",
        ),
        (
            lambda a, b: reference.gemm(a, b, head_splits=(2, 1, 1)),
            ShapeError,
            "n: got 5, need a multiple of left + right = 3",
        ),
        (
            lambda a, b: reference.gemm(a, b, head_splits=(2, -1, 1)),
            InputError,
            "head_splits: got -1, need an integer from 0 up",
        ),
        (
            lambda a, b: reference.gemm(a, b, head_splits=(2, 1)),
            InputError,
            "head_splits: got (2, 1), need three extents >= 0",
        ),
        (
            lambda a, b: reference.gemm(a, b, head_splits=(2.5, 0, 2.5)),
            InputError,
            "head_splits: got 2.5, need an integer from 0 up",
        ),
        (
            lambda a, b: reference.gemm(a, b, arithmetic="deep_gemm.sm90.fp8_1d3d"),
            InputError,
            "need deep_gemm.sm90.fp8_1d",
        ),
        (lambda a, b: reference.gemm(a, b, out="bfloat61"), InputError, "need bfloat16"),
    ],
)
def test_errors_name_the_operand_what_it_is_and_what_is_needed(call, error, words):
    with pytest.raises(error) as caught:
        call(plain.integers(0, (4, 64)), plain.integers(1, (5, 64)))
    assert words in str(caught.value)


def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(VECTORS / "h200" / f"{name}.npz") as archive:
        return dict(archive)


def fp8(data: np.ndarray, scale: np.ndarray | None = None, block=(1, 128)) -> ScaledTensor:
    return ScaledTensor(data, "float8_e4m3fn", scale, None if scale is None else plain.Scaling(block))


@needs_vectors
def test_every_bit_of_recorded_hopper_products_is_reproduced():
    v = recorded("deep_gemm_fp8_1d2d")
    d = reference.gemm(fp8(v["a"], v["sfa"]), fp8(v["b"], v["sfb"], (128, 128)), arithmetic="deep_gemm.sm90.fp8_1d2d")
    np.testing.assert_array_equal(d.view(np.uint16), v["d"])
    v = recorded("deep_gemm_fp8_1d1d")
    zeros = np.zeros(v["d"].shape, np.float32)
    d = reference.gemm(
        fp8(v["a"], v["sfa"]), fp8(v["b"], v["sfb"]), zeros, arithmetic="deep_gemm.sm90.fp8_1d1d", out="float32"
    )
    np.testing.assert_array_equal(d.view(np.uint32), v["d"])
    v = recorded("deep_gemm_bf16")
    a, b = (v[name].view(ml_dtypes.bfloat16) for name in "ab")
    d = reference.gemm(a, b, arithmetic="deep_gemm.sm90.bf16", out="float32")
    np.testing.assert_array_equal(d.view(np.uint32), v["d"])


@needs_vectors
@pytest.mark.parametrize(
    ("output", "arithmetic"), [("d_fast", "cublaslt.fp8_fast"), ("d_precise", "cublaslt.fp8_promote128")]
)
def test_every_bit_of_recorded_cublaslt_products_is_reproduced(output, arithmetic):
    v = recorded("cublaslt_fp8_tensorwise")
    unit = np.ones((1, 1), np.float32)
    whole = (plain.FULL, plain.FULL)
    d = reference.gemm(fp8(v["a"], unit, whole), fp8(v["b"], unit, whole), arithmetic=arithmetic, out="float32")
    np.testing.assert_array_equal(d.view(np.uint32), v[output])


def test_an_arithmetic_may_truncate_its_output():
    from dgref.reference.arithmetic import ARITHMETICS

    truncating = ARITHMETICS["deep_gemm.sm90.bf16"].but(output_rounding="toward_zero")
    a, b = np.array([[1.0, 2.0**-8]], ml_dtypes.bfloat16), np.array([[1.0, 1.5]], ml_dtypes.bfloat16)
    assert float(reference.gemm(a, b, arithmetic=truncating)[0, 0]) == 1.0
    assert float(reference.gemm(a, b, arithmetic="deep_gemm.sm90.bf16")[0, 0]) == 1 + 2.0**-7
