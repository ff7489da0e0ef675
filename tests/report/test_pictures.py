"""The drawings of the page: nothing overlaps, and what lies apart is not drawn side by side."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from dgref.compare.comparison import _bin_name
from dgref.compare.scan import BINS
from dgref.report.pictures import CHARACTER, SIDE, error_map, histogram

LABEL = re.compile(r'<text x="(\d+)" y="(?:114|125)" text-anchor="middle">([^<]+)</text>')


def labels(drawn: str) -> dict[int, list[str]]:
    """Return the lines of every bin's label by the middle of its column."""
    found: dict[int, list[str]] = {}
    for middle, line in LABEL.findall(drawn):
        found.setdefault(int(middle), []).append(line)
    return found


def test_no_two_labels_overlap() -> None:
    drawn = labels(histogram({_bin_name(i): 10**i for i in range(BINS)}))
    assert len(drawn) == BINS
    widths = {middle: max(map(len, lines)) * CHARACTER / 2 for middle, lines in drawn.items()}
    spans = [(middle - width, middle + width) for middle, width in widths.items()]
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
    assert ["".join(lines) for lines in labels(drawn).values()] == [label for label, count in bins.items() if count]


def test_a_histogram_of_many_bins_fits_beside_its_map() -> None:
    width = int(re.search(r'width="(\d+)"', histogram({_bin_name(i): 1 for i in range(16)}))[1])
    assert width + SIDE < 1150


def test_a_map_draws_a_run_of_wrong_cells_as_one_rectangle() -> None:
    drawn = error_map({"cells": ["0990", "0000"], "shape": [256, 512], "tile": [128, 128]})
    assert drawn.count('class="hit"') == 1 and drawn.count("M28 0h56v28") == 1
    assert "256 x 512, one cell is 128 x 128" in drawn
