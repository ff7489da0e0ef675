"""Reductions by lanes: each order written out as loops, and the errors."""

from __future__ import annotations

import numpy as np
import pytest

from dgref.errors import InputError, ShapeError
from dgref.reference.engine import fma
from dgref.reference.reductions import hc_square_sum, mqa_reduce


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
