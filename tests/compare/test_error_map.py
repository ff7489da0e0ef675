"""A map of wrong elements has one digit a tile, in the rows and columns of the output."""

from __future__ import annotations

import numpy as np
import pytest

from dgref.compare.error_map import error_map


def marked(shape: tuple[int, ...], *places: tuple) -> np.ndarray:
    wrong = np.zeros(shape, bool)
    for place in places:
        wrong[place] = True
    return wrong


@pytest.mark.parametrize(
    ("different", "tile", "cells"),
    [
        (marked((2, 3), (0, 2)), [1, 1], ["009", "000"]),
        (marked((3,), (1,)), [1, 1], ["090"]),
        (marked((2, 130), (1, 129)), [1, 3], ["0" * 44, "0" * 43 + "9"]),
        (marked((2, 128), (0, slice(0, 1)), (1, slice(2, 4))), [1, 2], ["5" + "0" * 63, "09" + "0" * 62]),
        (marked((97, 1), (96, 0)), [3, 1], ["0"] * 32 + ["9"]),
        (marked((0, 4)), [1, 1], []),
    ],
)
def test_a_digit_is_the_share_of_a_tile_that_differs(different: np.ndarray, tile: list[int], cells: list[str]) -> None:
    found = error_map(different)
    assert (found["shape"], found["tile"], found["cells"]) == (list(different.shape), tile, cells)


def test_groups_are_stacked_as_rows() -> None:
    found = error_map(marked((2, 3, 4), (1, 0, 3)))
    assert found["rows_per_group"] == 3 and found["cells"] == ["0000"] * 3 + ["0009"] + ["0000"] * 2
    assert error_map(marked((3, 4)))["rows_per_group"] is None
