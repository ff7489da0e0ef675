"""The transform is orthogonal, and equals a product with the Sylvester matrix written out."""

import numpy as np
import pytest

from dgref.errors import FormatError, InputError, ShapeError
from dgref.formats import dequantize, quantize
from dgref.formats.hadamard import rotate, rotate_back, signs

KINDS = [("sylvester", None), ("seeded", 7), ("transformer_engine", None)]
X = np.random.default_rng(0).standard_normal((3, 5, 64)).astype(np.float32)


def sylvester() -> np.ndarray:
    """Entry (i, j) is -1 to the number of bits that i and j share."""
    return np.array([[(-1.0) ** (i & j).bit_count() for j in range(16)] for i in range(16)])


@pytest.mark.parametrize(("kind", "seed"), KINDS)
def test_it_is_the_sylvester_matrix_with_signed_rows(kind, seed):
    matrix = np.diag(signs(kind, seed)) @ sylvester() / 4
    exact = X.astype(np.float64).reshape(-1, 16) @ matrix
    np.testing.assert_allclose(rotate(X, kind, seed).reshape(-1, 16), exact, rtol=0, atol=2.0**-22)


@pytest.mark.parametrize(("kind", "seed"), KINDS)
def test_a_product_along_k_does_not_change(kind, seed):
    integers = np.random.default_rng(1).integers(-8, 8, (2, 6, 32)).astype(np.float32)
    a, b = rotate(integers, kind, seed)
    assert np.array_equal(a @ b.T, integers[0] @ integers[1].T)


@pytest.mark.parametrize(("kind", "seed"), KINDS)
def test_it_can_be_taken_back(kind, seed):
    integers = np.random.default_rng(1).integers(-64, 64, (4, 48)).astype(np.float32)
    assert np.array_equal(rotate_back(rotate(integers, kind, seed), kind, seed), integers)


def test_signs_follow_the_seed_alone():
    assert np.array_equal(signs("seeded", 7), signs("seeded", 7))
    assert len({tuple(signs("seeded", seed)) for seed in range(50)}) > 45


def test_an_outlier_is_spread_over_its_run():
    x = np.zeros((1, 32), np.float32)
    x[0, 3] = 64
    assert (np.abs(rotate(x)) == np.repeat([16, 0], 16)).all()


def test_a_rotated_tensor_comes_back_within_its_own_quantisation_error():
    x = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    t = quantize(x, "nvfp4/hadamard", seed=1)
    lost = np.linalg.norm(dequantize(t) - rotate(x, "seeded", 1))
    assert np.linalg.norm(rotate_back(dequantize(t), "seeded", 1) - x) == pytest.approx(lost, rel=1e-5)


def test_columns_must_be_whole_runs():
    with pytest.raises(ShapeError, match="got 20, need a multiple of 16"):
        rotate(np.ones((2, 20), np.float32))


def test_seeded_signs_need_a_seed():
    with pytest.raises(FormatError, match=r"seed: got None"):
        signs("seeded")


def test_a_sum_that_float32_cannot_hold_is_an_infinity_without_a_warning():
    rotated = rotate(np.full((1, 16), 3e38, np.float32))
    assert rotated[0, 0] == np.inf and not rotated[0, 1:].any()


@pytest.mark.parametrize("seed", [-1, 1.5, "1", 1 << 64])
def test_a_seed_that_is_no_64_bit_integer_is_refused(seed):
    with pytest.raises(InputError, match=r"seed: got .*, need an integer from 0"):
        signs("seeded", seed)


def test_a_kind_of_transform_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="Hadamard transform: got 'silvester', need sylvester"):
        rotate(np.ones((1, 16), np.float32), "silvester")
