"""Localisation: the words that a set of wrong elements gets, in every shape that faults are known to take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.compare.comparison import compare
from dgref.compare.locate import code_length
from dgref.compare.stripes import ranges


def where(wrong, **options):
    expected = np.full(wrong.shape, 1.0, np.float32)
    return compare(np.where(wrong, np.float32(1.5), expected), expected, **options).where


def marked(shape, *places):
    wrong = np.zeros(shape, bool)
    for place in places:
        wrong[place] = True
    return wrong


S = np.s_
REGIONS = [
    ((512, 1024), [S[i : i + 64] for i in range(64, 512, 128)], "rows 64..127 of every 128"),
    ((512, 1024), [S[:, i : i + 8] for i in range(8, 1024, 16)], "columns 8..15 of every 16"),
    ((512, 1024), [S[:, 8::16]], "column 8 of every 16"),
    ((512, 1024), [S[256:384, 640:768]], "one 128x128 tile at (2, 5)"),
    ((512, 1024), [S[:]], "everything"),
    ((512, 1024), [], "nothing"),
    ((8, 64, 256), [S[3]], "group 3 only"),
    ((8, 64, 256), [S[1], S[6]], "groups 1, 6"),
    ((8, 64, 256), [S[3, 5]], "row 5 of group 3 only"),
    ((8, 64, 256), [S[:, 5]], "row 5 of every group"),
    ((512, 1024), [S[100]], "row 100"),
    ((512, 1024), [S[100, 3]], "one element at (100, 3)"),
    ((512, 1024), [S[-32:]], "rows 480..511 (the last 32)"),
    ((512, 1024), [S[:, 1000:]], "columns 1000..1023 (the last 24)"),
    ((512, 1024), [S[100:110, 8:24]], "rows 100..109, columns 8..23"),
    ((512, 1024), [S[5:7], S[99]], "rows 5..6, 99"),
    ((512, 1024), [S[::2, ::4]], "row 0 of every 2, column 0 of every 4"),
    ((300, 77), [S[:, 5]], "column 5"),
    ((1000,), [S[500:]], "columns 500..999 (the last 500)"),
    (
        (512, 1024),
        [S[:128, 128:256], S[256:384, 512:640], S[128:256, :128]],
        "3 tiles of 128x128 at (0, 1), (1, 0), (2, 4)",
    ),
]


@pytest.mark.parametrize(("shape", "places", "words"), REGIONS, ids=[words for _, _, words in REGIONS])
def test_a_region_gets_its_shortest_words(shape, places, words):
    assert where(marked(shape, *places)).description == words


def test_elements_that_agree_by_chance_do_not_break_a_region():
    generator = np.random.default_rng(0)
    wrong = marked((512, 1024), S[256:384, 640:768]) & (generator.random((512, 1024)) < 0.7)
    assert where(wrong).description == "one 128x128 tile at (2, 5)"


def test_noise_elsewhere_does_not_hide_a_region():
    noise = np.random.default_rng(0).random((512, 1024)) < 0.02
    found = where(marked((512, 1024), S[64:128]) | noise)
    assert found.description == "rows 64..127" and found.missed == (noise.sum() - noise[64:128].sum())


def test_noise_alone_is_scattered():
    generator = np.random.default_rng(1)
    assert where(generator.random((512, 1024)) < 0.003).description == "scattered 0.3%"
    assert where(generator.random((512, 1024)) < 0.9).description.startswith(("scattered 90.", "scattered 89."))
    assert where(generator.random((512, 1024)) < 0.9999).kind == "everything"
    few = generator.random((512, 1024)) < 1e-5
    assert where(few).description == f"{few.sum()} scattered elements"


def test_labels_name_the_group_of_rows_that_lie_one_below_the_other():
    labels = np.repeat([0, 1, 2, -1], [100, 28, 100, 28])
    assert where(marked((256, 64), S[100:128]), groups=labels).description == "group 1 only"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_a_rectangle_is_described_exactly(height, width, data):
    top, left = data.draw(st.integers(0, 60)), data.draw(st.integers(0, 60))
    found = where(marked((100, 100), S[top : top + height, left : left + width]))
    assert found.inside == found.differing == height * width and found.missed == 0


@given(st.lists(st.booleans(), max_size=30))
def test_ranges_cover_a_set_and_nothing_else(members):
    support = np.array(members, bool)
    covered = [i for first, last in ranges(support) for i in range(first, last + 1)]
    assert covered == np.flatnonzero(support).tolist()


def test_a_description_pays_only_when_it_separates():
    assert code_length(100, 100, 900, 0) < code_length(1000, 100, 0, 0) < code_length(500, 50, 500, 50) + 11


def test_tiles_pay_for_their_size_their_places_and_what_differs_elsewhere():
    wrong = marked((512, 1024), S[256:384, 640:768], S[0, 0])
    found = where(wrong)
    sizes, tiles = 3 + 2 * np.log2(6), 4 * 8
    inside, outside = code_length(128 * 128, 128 * 128, 0, 0), code_length(wrong.size - 128 * 128, 1, 0, 0)
    assert (found.description, found.missed) == ("one 128x128 tile at (2, 5)", 1)
    assert found.bits == pytest.approx(sizes + code_length(tiles, 1, 0, 0) + inside + outside)
