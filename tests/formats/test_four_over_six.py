"""4-over-6 takes the better of two grids, block by block."""

import numpy as np
import pytest

from dgref.formats import dequantize, quantize


def test_a_block_near_five_sixths_of_its_amax_is_scaled_to_four():
    """Scaled to 6 a value of 5 is lost to 4 or 6; scaled to 4 it is 3.33, near 3."""
    x = np.full((1, 16), 5.0, np.float32)
    x[0, 0] = 6.0
    six, four = quantize(x, "nvfp4/transformer_engine"), quantize(x, "nvfp4/four_over_six")
    assert six.values()[0, 0] == 6 and four.values()[0, 0] == 4
    assert np.square(dequantize(four) - x).sum() < np.square(dequantize(six) - x).sum()


def test_a_block_on_the_grid_of_six_stays_there():
    x = np.resize(np.array([6, 4, 3, 2, 1.5, 1, 0.5, 0], np.float32), (1, 16))
    assert quantize(x, "nvfp4/four_over_six").values()[0, 0] == 6


def test_a_tie_goes_to_six():
    assert quantize(np.full((1, 16), 1.0, np.float32), "nvfp4/four_over_six").values()[0, 0] == 6


@pytest.mark.parametrize(("name", "power"), [("nvfp4/four_over_six", 2), ("nvfp4/four_over_six_mae", 1)])
def test_every_block_has_the_smaller_error_of_the_two(name, power):
    x = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    chosen = quantize(x, name)
    error = lambda t: (np.abs(dequantize(t).astype(np.float64) - x) ** power).reshape(-1, 16).sum(-1)  # noqa: E731
    from dgref.formats import RECIPES

    only_six = quantize(x, RECIPES[name].varied("six", four_over_six="no"))
    took_four = chosen.scale != only_six.scale
    assert took_four.any() and not took_four.all()
    assert (error(chosen) <= error(only_six) * (1 + 1e-6)).all()


def test_a_scale_of_256_leaves_room_to_expand():
    x = np.full((1, 16), 5.0, np.float32)
    x[0, 0] = 6.0
    assert quantize(x, "nvfp4/four_over_six").scale_values()[0, 0] == 384
    assert quantize(x, "nvfp4/four_over_six_448").scale_values()[0, 0] == 448  # 672 saturates
