"""The tree of errors is the one its page draws, and the shared checks refuse what only looks like a number."""

import re

import numpy as np
import pytest

from dgref import errors
from dgref.errors import (
    DgrefError,
    InputError,
    ShapeError,
    UnknownNameError,
    choice,
    counted,
    every,
    expected,
    flag,
    instance,
    seconds,
    shown,
    whole_number,
)

ALL = [row for row in vars(errors).values() if isinstance(row, type) and issubclass(row, DgrefError)]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_the_tree_at_the_top_of_the_module_holds_every_error_and_its_builtin(error):
    line = next(line for line in errors.__doc__.splitlines() if re.search(rf"\b{error.__name__}\b", line))
    for base in error.__bases__:
        assert base.__name__ in line or issubclass(base, DgrefError) or base is Exception


def test_a_message_is_one_sentence():
    assert expected("axis", 3, "0 or 1", "x") == "axis: got 3, need 0 or 1 [x]"
    assert str(UnknownNameError("a sentence")) == "a sentence"


@pytest.mark.parametrize("value", [3, np.int8(3), np.array(3)])
def test_an_integer_of_any_kind_is_a_whole_number(value):
    assert whole_number("count", value) == 3


@pytest.mark.parametrize("value", [3.0, True, np.bool_(True), "3", None, [3], -1, 11])
def test_what_only_looks_like_a_whole_number_is_refused(value):
    with pytest.raises(ShapeError, match=r"count: got .*, need an integer from 0 to 10"):
        whole_number("count", value, highest=10, error=ShapeError)


@pytest.mark.parametrize("name", ["sid", None, [], 3])
def test_a_choice_that_is_not_offered_is_refused(name):
    with pytest.raises(InputError, match=r"side: got .*, need .*side"):
        choice("side", name, ("side", "top"))


def test_a_flag_is_a_bool_and_a_time_a_finite_number():
    assert flag("clean", np.True_) is True and seconds("timeout", 3) == 3.0
    for value in ("no", 1, None, np.zeros(3, bool)):
        with pytest.raises(InputError, match=r"clean: got .*, need True or False"):
            flag("clean", value)
    for value in ("3", True, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"timeout: got .*, need a finite number of seconds"):
            seconds("timeout", value)


def test_a_value_of_another_kind_is_shown_in_one_short_line():
    with pytest.raises(InputError, match=r"^inputs: got a ndarray, need a mapping$"):
        instance("inputs", np.zeros((40, 40)), dict, "a mapping")
    assert shown("short") == "'short'"


@pytest.mark.parametrize(
    ("count", "noun", "words", "all_of_them"),
    [
        (0, "result", "0 results", "all 0 results"),
        (1, "result", "1 result", "the only result"),
        (2000, "result", "2,000 results", "all 2,000 results"),
        (1, "axis", "1 axis", "the only axis"),
        (2, "axis", "2 axes", "all 2 axes"),
        (3, "entry", "3 entries", "all 3 entries"),
    ],
)
def test_a_count_agrees_with_what_is_counted(count: int, noun: str, words: str, all_of_them: str) -> None:
    assert (counted(count, noun), every(count, noun)) == (words, all_of_them)
