"""Reductions by lanes: each order written out as loops, and the errors."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from dgref.errors import InputError, ShapeError
from dgref.reference.arithmetic import ARITHMETICS
from dgref.reference.engine import fma
from dgref.reference.reductions import _fma_bfloat16, hc_square_sum, lane_sum, mqa_reduce


def hopper_logit(scores, weights, scale):
    relu = np.maximum(scores, np.float32(0))
    lanes = []
    for lane in range(4):
        sums = []
        for element in range(2):
            heads = range(2 * lane + element, len(scores), 8)
            first, *rest = heads
            if rest:
                second, *rest = rest
                total = fma(relu[first], weights[first], relu[second] * weights[second])
            else:
                total = relu[first] * weights[first]
            for head in rest:
                total = fma(relu[head], weights[head], total)
            sums.append(total)
        lanes.append((sums[0] + sums[1]) * scale)
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])


@pytest.mark.parametrize("heads", [8, 16, 64])
def test_hopper_logits_equal_the_lanes_written_out(heads):
    rng = np.random.default_rng(heads)
    scores, weights = rng.standard_normal((heads, 5)).astype(np.float32), rng.standard_normal(heads).astype(np.float32)
    scale = rng.uniform(0.5, 2, 5).astype(np.float32)
    expected = [hopper_logit(scores[:, key], weights, scale[key]) for key in range(5)]
    np.testing.assert_array_equal(mqa_reduce(scores, weights, scale), np.float32(expected))


def test_blackwell_logits_equal_four_interleaved_sums():
    rng = np.random.default_rng(1)
    scores, weights = rng.standard_normal(32).astype(np.float32), rng.standard_normal(32).astype(np.float32)
    sums = []
    for residue in range(4):
        total = np.float32(0)
        for head in range(residue, 32, 4):
            total = fma(max(scores[head], np.float32(0)), weights[head], total)
        sums.append(total)
    expected = (sums[0] + sums[2]) + (sums[1] + sums[3])
    assert mqa_reduce(scores[:, None], weights, arithmetic="deep_gemm.sm100.mqa_logits")[0] == expected


def test_bfloat16_logits_round_every_step_once():
    rng = np.random.default_rng(6)
    narrow = ml_dtypes.bfloat16
    scores = rng.standard_normal((16, 40)).astype(np.float32)
    weights = rng.standard_normal(16).astype(narrow)
    scale = rng.uniform(0.5, 2, 40).astype(np.float32)
    logits = mqa_reduce(scores, weights, scale, "deep_gemm.sm100.mqa_logits_bf16")
    for key in range(40):
        relu = np.maximum(scores[:, key], 0).astype(narrow)
        sums = []
        for residue in range(4):
            total = Fraction(0)
            for head in range(residue, 16, 4):
                exact = Fraction(float(relu[head])) * Fraction(float(weights[head])) + total
                total = Fraction(float(np.float64(float(exact)).astype(narrow)))
            sums.append(float(total))
        low, high = (narrow(np.float32(sums[i]) + np.float32(sums[i + 2])) for i in (0, 1))
        expected = narrow(np.float32(narrow(np.float32(low) + np.float32(high))) * np.float32(narrow(scale[key])))
        assert logits[key] == np.float32(expected)


def test_a_bfloat16_fma_on_a_tie_looks_at_what_float32_lost():
    a, b = np.float32([1 + 2.0**-7]), np.float32([1 + 2.0**-7])
    tie = np.float32([2.0**-8 - 2.0**-14])  # a * b + tie = 1 + 2^-6 + 2^-8: halfway between two bfloat16
    tiny = np.float32([2.0**-60])
    assert _fma_bfloat16(a, b, tie)[0] == 1 + 2.0**-6
    wide = np.float32([2.0**-8 * (1 + 2.0**-7)])
    assert _fma_bfloat16(np.float32([1]), np.float32([1]), wide)[0] == 1 + 2.0**-7
    product = _fma_bfloat16(np.float32([257 / 256]), np.float32([1]), tiny)
    assert product[0] == 1 + 2.0**-7


def test_relu_of_nan_is_zero_on_hopper_and_nan_on_blackwell():
    scores, weights = np.full((8, 1), np.nan, np.float32), np.ones(8, np.float32)
    assert mqa_reduce(scores, weights)[0] == 0
    assert np.isnan(mqa_reduce(scores, weights, arithmetic="deep_gemm.sm100.mqa_logits")[0])


def test_squares_pair_elements_four_apart_and_lanes_meet_two_then_one():
    rng = np.random.default_rng(2)
    a = rng.standard_normal(64).astype(np.float16)
    lanes = np.zeros(4, np.float32)
    for start in range(0, 64, 8):
        for lane in range(4):
            low, high = np.float32(a[start + lane]), np.float32(a[start + lane + 4])
            lanes[lane] += fma(low, low, high * high)
    expected = (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])
    assert hc_square_sum(a[None])[0, 0] == expected


def test_wrong_heads_and_arithmetics_without_lanes_are_refused():
    with pytest.raises(ShapeError, match=r"weights: got 8 heads, need 16"):
        mqa_reduce(np.zeros((16, 3), np.float32), np.zeros(8, np.float32))
    with pytest.raises(InputError, match=r"cublaslt\.fp8_fast: lanes"):
        hc_square_sum(np.zeros((2, 8), np.float16), "cublaslt.fp8_fast")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["deep_gemm.sm90.hc_prenorm", "deep_gemm.sm100.hc_prenorm"])
def test_a_nan_is_the_one_that_gpus_write_and_comes_without_a_warning(name):
    a = np.ones((2, 16), np.float32)
    a[0, 3], a[1, 5] = np.nan, np.inf
    b = np.ones((2, 16), np.float32)
    b[1, 5] = 0
    total = lane_sum(a.T, b.T, ARITHMETICS[name].lanes)
    assert total.view(np.uint32).tolist() == [0x7FFFFFFF, 0x7FFFFFFF]
