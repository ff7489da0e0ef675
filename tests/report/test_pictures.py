"""The drawings of the page: nothing overlaps, and what lies apart is not drawn side by side."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from dgref.compare.comparison import _bin_name
from dgref.compare.scan import BINS
from dgref.report.pictures import CHARACTER, error_map, histogram

LABEL = re.compile(r'<text x="(\d+)" y="114" text-anchor="middle">([^<]+)</text>')


def test_no_two_labels_overlap() -> None:
    drawn = LABEL.findall(histogram({_bin_name(i): 10**i for i in range(BINS)}))
    assert len(drawn) == BINS
    spans = [
        (int(middle) - len(label) * CHARACTER / 2, int(middle) + len(label) * CHARACTER / 2) for middle, label in drawn
    ]
    assert all(left[1] <= right[0] + 1 for left, right in pairwise(spans))


@pytest.mark.parametrize(
    ("bins", "breaks"),
    [
        ({"1": 5, "2": 3, "3..4": 1}, 0),
        ({"1": 5, "3..4": 1, "16385..32768": 2}, 2),
        ({"sign of zero": 1, "1": 2, "unrelated": 1}, 0),
        ({"1": 5, "2": 0, "3..4": 1}, 1),
        ({}, 0),
    ],
)
def test_empty_bins_between_leave_a_break(bins: dict, breaks: int) -> None:
    drawn = histogram(bins)
    assert drawn.count("…") == breaks
    assert [label for _, label in LABEL.findall(drawn)] == [label for label, count in bins.items() if count]


def test_a_map_draws_a_run_of_wrong_cells_as_one_rectangle() -> None:
    drawn = error_map({"cells": ["0990", "0000"], "shape": [256, 512], "tile": [128, 128]})
    assert drawn.count('class="hit"') == 1 and drawn.count("M28 0h56v28") == 1
    assert "256 x 512, one cell is 128 x 128" in drawn
