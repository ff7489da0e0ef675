"""HyperConnection pre-norm against plain float64, split by split, and against a recorded kernel."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from dgref import reference
from dgref.errors import InputError
from dgref.reference.hyperconnection import split_spans
from dgref.reference.rational import round_once
from tests.conftest import VECTORS, needs_vectors
from tests.reference import plain

MODEL = "deep_gemm.sm90.hc_prenorm"


def operands(m: int, n: int, k: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    a, b = (rng.choice(plain.INTEGERS, shape) for shape in ((m, k), (n, k)))
    return a.astype(ml_dtypes.bfloat16), b


@pytest.mark.parametrize("arithmetic", ["exact", MODEL])
@pytest.mark.parametrize(("m", "n", "k"), [(13, 24, 256), (1, 1, 1), (5, 24, 0), (0, 24, 64), (7, 8, 300)])
def test_integers_are_exact_in_any_order(arithmetic, m, n, k):
    a, b = operands(m, n, k)
    result = reference.hc_prenorm(a, b, arithmetic=arithmetic)
    wide = a.astype(np.float64)
    np.testing.assert_array_equal(result["d"], wide @ b.astype(np.float64).T)
    np.testing.assert_array_equal(result["sqr_sum"], (wide**2).sum(axis=1))
    assert result["d"].dtype == result["sqr_sum"].dtype == np.float32


@pytest.mark.parametrize("arithmetic", ["exact", MODEL])
@pytest.mark.parametrize("splits", [1, 3, 9])
def test_splits_are_contiguous_parts_of_k(arithmetic, splits):
    a, b = operands(4, 6, 330)
    result = reference.hc_prenorm(a, b, num_splits=splits, arithmetic=arithmetic)
    assert result["d"].shape == (splits, 4, 6)
    for part, span in enumerate(split_spans(330, splits)):
        alone = reference.hc_prenorm(a[:, span], b[:, span], arithmetic=arithmetic)
        plain.assert_same_bits(result["d"][part], alone["d"])
        plain.assert_same_bits(result["sqr_sum"][part], alone["sqr_sum"])


def test_the_first_splits_take_the_blocks_that_are_left_over():
    assert [(s.start, s.stop) for s in split_spans(330, 4)] == [(0, 128), (128, 256), (256, 320), (320, 330)]
    assert [(s.start, s.stop) for s in split_spans(64, 3)] == [(0, 64), (64, 64), (64, 64)]
    with pytest.raises(InputError, match="num_splits: got 0, need an integer from 1"):
        split_spans(64, 0)


def test_rounding_b_to_tf32_belongs_to_the_arithmetic():
    a = np.ones((1, 8), ml_dtypes.bfloat16)
    b = np.zeros((1, 8), np.float32)
    b[0, 0] = 1 + 2.0**-11 + 2.0**-20
    assert reference.hc_prenorm(a, b)["d"][0, 0] == b[0, 0]
    assert reference.hc_prenorm(a, b, arithmetic=MODEL)["d"][0, 0] == 1 + 2.0**-10


@needs_vectors
def test_every_bit_of_a_recorded_hopper_kernel_is_reproduced():
    with np.load(VECTORS / "h200" / "deep_gemm_tf32_hc_prenorm.npz") as v:
        result = reference.hc_prenorm(v["a"].view(ml_dtypes.bfloat16), v["b"].view(np.float32), arithmetic=MODEL)
        np.testing.assert_array_equal(plain.bits(result["d"]), v["d"])
        np.testing.assert_array_equal(plain.bits(result["sqr_sum"]), v["s"])


def test_exact_results_are_the_fractions_rounded_once():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((2, 70)).astype(ml_dtypes.bfloat16), rng.standard_normal((3, 70)).astype(np.float32)
    result = reference.hc_prenorm(a, b)
    rows, columns = ([[Fraction(float(x)) for x in row] for row in matrix] for matrix in (a, b))
    for i, row in enumerate(rows):
        assert float(result["sqr_sum"][i]) == round_once(sum(x * x for x in row), "float32")
        for j, column in enumerate(columns):
            exact = sum(x * y for x, y in zip(row, column, strict=True))
            assert float(result["d"][i, j]) == round_once(exact, "float32")


@pytest.mark.parametrize("count", [0, -1, 2.5, "3", True])
def test_a_count_of_splits_that_is_none_is_refused(count):
    with pytest.raises(InputError, match="num_splits: got"):
        reference.hc_prenorm(np.ones((2, 64), ml_dtypes.bfloat16), np.ones((3, 64), np.float32), num_splits=count)
