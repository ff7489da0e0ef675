"""Plain arguments are what they should be, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from dgref.errors import FormatError, InputError
from dgref.reference.checks import check_broadcast, held, real, selection


@pytest.mark.parametrize(
    ("chosen", "indices"),
    [
        (None, [0, 1, 2, 3]),
        (slice(1, 3), [1, 2]),
        (slice(9, 12), []),
        ([], []),
        ([3, 0, 3], [3, 0, 3]),
        (range(2), [0, 1]),
        (np.array([True, False, True, False]), [0, 2]),
    ],
)
def test_a_selection_is_a_vector_of_indices(chosen, indices):
    assert selection(chosen, 4, "rows").tolist() == indices


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ([4], "rows: got 4, need indices from 0 to 3"),
        ([-1], "rows: got -1, need indices from 0 to 3"),
        ([0.5], "rows: got dtype float64, need an integer dtype, or bools"),
        ("x", "rows: got 0 axes, need a slice or a vector"),
        (3, "rows: got 0 axes, need a slice or a vector"),
        ([[0, 1]], "rows: got 2 axes, need a slice or a vector"),
        ([[0], [1, 2]], "need a slice, or a vector of indices or bools"),
        ([True, False], "rows: got a mask of 2, need one bool for each of 4"),
        (slice("a", 2), "need a slice, or a vector of indices or bools"),
    ],
)
def test_a_selection_outside_or_of_another_kind_is_refused(chosen, words):
    with pytest.raises(InputError) as caught:
        selection(chosen, 4, "rows")
    assert words in str(caught.value)


def test_numbers_are_taken_as_they_are():
    assert real(np.float32(0.5), "alpha") == 0.5
    assert held([1.0, np.inf, np.nan], "float8_e4m3fn", "a").dtype == np.float32
    check_broadcast((3, 1), (4,), "b")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: real("1", "alpha"), "alpha: got '1', need a number"),
        (lambda: held([1j], "float32", "c"), "c: got [1j], need real numbers"),
        (lambda: check_broadcast((3,), (4,), "b"), "b shape: got [4], need one that broadcasts with [3]"),
    ],
)
def test_other_kinds_are_refused(call, words):
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)


def test_a_value_that_a_format_lacks_is_refused_but_for_tf32():
    with pytest.raises(FormatError, match=r"a: got 1\.125, need values of float4_e2m1fn"):
        held([1.0, 1.125], "float4_e2m1fn", "a")
    assert held([1 + 2.0**-20], "tfloat32", "a")[0] != 1
