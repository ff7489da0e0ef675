"""A scaling says how many scales a tensor has; the arithmetic of blocks is exact at every tail."""

import numpy as np
import pytest

from dgref.errors import InputError, ShapeError
from dgref.formats import FULL, Scaling
from dgref.formats.blocks import beside_blocks, block_amax, from_blocks, to_blocks

GRIDS = [  # block, shape, grid
    ((1, 128), (3, 256), (3, 2)),
    ((1, 128), (3, 257), (3, 3)),
    ((128, 128), (129, 1), (2, 1)),
    ((1, 32), (5, 2, 31), (5, 2, 1)),
    ((1, 16), (40,), (3,)),
    ((1, FULL), (7, 9), (7, 1)),
    ((FULL, FULL), (4, 7, 9), (4, 1, 1)),
    ((1, 32), (0, 64), (0, 2)),
    ((1, 32), (4, 0), (4, 0)),
    ((FULL, FULL), (0, 8), (0, 1)),
]


@pytest.mark.parametrize(("block", "shape", "grid"), GRIDS)
def test_a_tensor_has_one_scale_for_every_started_block(block, shape, grid):
    assert Scaling(block).grid(shape) == grid


@pytest.mark.parametrize(("block", "shape", "grid"), [row for row in GRIDS if len(row[1]) > 1])
def test_the_transposed_scaling_has_the_transposed_grid(block, shape, grid):
    swapped = (*shape[:-2], shape[-1], shape[-2])
    assert Scaling(block).transposed().grid(swapped) == (*grid[:-2], grid[-1], grid[-2])


@pytest.mark.parametrize(("block", "shape", "grid"), GRIDS)
def test_blocks_come_back_as_the_tensor_they_were_cut_from(block, shape, grid):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    assert np.array_equal(from_blocks(to_blocks(values, Scaling(block)), shape), values)


def test_padding_never_reaches_amax():
    values = np.full((3, 33), -5.0, np.float32)
    amax = block_amax(to_blocks(values, Scaling((2, 32))))
    assert amax.shape == (2, 2) and (amax == 5).all()


def test_a_nan_reaches_the_amax_of_its_own_block_only():
    values = np.ones((2, 64), np.float32)
    values[1, 40] = np.nan
    assert np.array_equal(np.isnan(block_amax(to_blocks(values, Scaling((1, 32))))), [[False, False], [False, True]])


def test_scales_broadcast_beside_their_blocks():
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.broadcast_to(beside_blocks(grid), (2, 4, 3, 8))[1, 3, 2, 7] == grid[1, 2]


@pytest.mark.parametrize("block", [(1,), (1, 2, 3), (-1, 32), (1.5, 32), ("a", 1), 32, None])
def test_a_block_that_is_no_pair_of_extents_is_refused(block):
    with pytest.raises(ShapeError, match=r"block: got .* need"):
        Scaling(block)


def test_a_scalar_has_no_axis_to_scale_along():
    with pytest.raises(ShapeError, match="at least one axis"):
        Scaling((1, 32)).grid(())


UNFIT = [
    ({"scale_range": (448.0, 1.0)}, "scale_range: got"),
    ({"scale_range": 3}, "scale_range: got 3"),
    ({"scale_format": "e8m0x"}, "format: got 'e8m0x', need e8m0"),
    ({"rule": "flor"}, "scale rule: got 'flor', need floor"),
    ({"payload": "divde"}, "payload arithmetic: got 'divde', need divide"),
    ({"convention": "deepgemm"}, "convention: got 'deepgemm', need deep_gemm"),
    ({"rounding": "nearest"}, "rounding: got 'nearest', need .*nearest_zero"),
    ({"convention": "deep_gemm", "rounding": "up"}, "rounding: got 'up', need none of its own"),
    ({"global_scale": "multply"}, "global_scale: got 'multply', need multiply"),
    ({"hadamard": "seded"}, "hadamard: got 'seded', need seeded"),
    ({"four_over_six": "mse"}, "global_scale: got 'none', need one beside"),
    ({"amax_floor": -1.0}, "amax_floor: got -1.0, need a finite number"),
    ({"amax_floor": "1"}, "amax_floor: got '1', need a finite number"),
    ({"scale_max": 0.0}, "scale_max: got 0.0, need a finite number above zero"),
]


@pytest.mark.parametrize(("fields", "message"), UNFIT)
def test_a_field_that_says_nothing_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Scaling((1, 32), **fields)


def test_an_alias_and_the_name_it_stands_for_are_one_scaling():
    short = Scaling([1, 32], "e8m0", "floor", global_format="fp32")
    assert short == Scaling((1, 32), "float8_e8m0fnu", "floor_amax")
