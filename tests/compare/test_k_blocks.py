"""Which part of K is wrong, told from operands and a few outputs."""

from __future__ import annotations

import numpy as np
import pytest

from dgref.compare.k_blocks import locate_k
from dgref.formats import quantize
from dgref.reference.exact import contract_exact

K = 512
GENERATOR = np.random.default_rng(0)
A = quantize(GENERATOR.standard_normal((64, K), dtype=np.float32), "deepseek_fp8")
B = quantize(GENERATOR.standard_normal((128, K), dtype=np.float32), "deepseek_fp8_weight")


def product(factors=(), block=32):
    """The exact product with some blocks of K taken by other factors."""
    right = contract_exact(A, B, out="float64")
    a, b = (t.values().astype(np.float64) * t.expanded_scale() for t in (A, B))
    for number, factor in dict(factors).items():
        k = slice(number * block, (number + 1) * block)
        right = right + (factor - 1) * a[:, k] @ b[:, k].T
    return right.astype(np.float32)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ({15: 0}, "the last 32 of K missing"),
        ({4: 0, 5: 0, 6: 0, 7: 0}, "K 128..255 missing"),
        ({0: 2}, "K 0..31 added twice"),
        ({3: -1, 9: -1}, "K 96..127, 288..319 subtracted"),
        ({2: 0, 8: 2}, "K 64..95, 256..287 scaled"),
    ],
)
def test_wrong_blocks_of_k_are_named(factors, words):
    found = locate_k(product(factors), A, B, 32)
    assert found.found and found.describe(K) == words


def test_only_the_affected_rows_are_sampled():
    actual = product()
    actual[40:44] = product({15: 0})[40:44]
    differing = np.zeros(actual.shape, bool)
    differing[40:44] = True
    assert locate_k(actual, A, B, 32, differing).describe(K) == "the last 32 of K missing"


def test_noise_is_not_blamed_on_k():
    noisy = product() + GENERATOR.standard_normal((64, 128)).astype(np.float32)
    assert locate_k(noisy, A, B, 32).describe(K) == "no few blocks of K explain the error"


def test_a_right_result_blames_nothing():
    assert not locate_k(product().astype(np.float32), A, B, 128).found
