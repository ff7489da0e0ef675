"""The verdict is the strongest level that holds, and nothing weaker than its claim."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dgref.compare.verdict import judge, same
from dgref.reference.limits import around
from dgref.suite import LEVELS

TRUTH = np.arange(6, dtype=np.float32).reshape(2, 3)
NEAR = np.nextafter(TRUTH, np.float32(np.inf))


def level(actual, **others) -> str:
    return judge({"d": actual}, exact=lambda: {"d": TRUTH}, **others).level


def limits(size):
    return lambda: {"d": around(TRUTH, np.full(TRUTH.shape, size))}


@pytest.mark.parametrize(
    ("actual", "others", "reached"),
    [
        (TRUTH, {}, "exact"),
        (TRUTH, {"model": lambda: {"d": NEAR}}, "exact"),
        (NEAR, {"model": lambda: {"d": NEAR}}, "model"),
        (NEAR, {"bound": limits(1e-5)}, "bounded"),
        (NEAR, {"bound": limits(0.0)}, "wrong"),
        (NEAR, {"bound": limits(np.nan)}, "wrong"),
        (NEAR, {"bound": limits(np.inf)}, "bounded"),
        (NEAR, {"model": lambda: {"d": TRUTH}, "bound": limits(1e-5)}, "bounded"),
        (NEAR, {}, "wrong"),
    ],
)
def test_the_strongest_level_that_holds_is_returned(actual, others, reached):
    assert level(actual, **others) == reached


def test_levels_are_ordered():
    verdict = judge({"d": NEAR}, exact=lambda: {"d": TRUTH}, model=lambda: {"d": NEAR})
    assert [verdict.reaches(name) for name in LEVELS] == [False, True, True, True]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_another_float_format_is_wrong_whatever_its_values(dtype):
    small = {"d": TRUTH.astype(dtype)}
    assert judge(small, exact=lambda: {"d": TRUTH}, bound=limits(1.0)).level == "wrong"


def test_equal_bits_of_another_format_of_the_same_width_are_wrong():
    zeros = np.zeros((2, 2))
    for_half = lambda: {"d": zeros.astype(np.float16)}  # noqa: E731
    assert judge({"d": zeros.astype(ml_dtypes.bfloat16)}, exact=for_half).level == "wrong"


def test_codes_compare_with_native_arrays_of_their_width():
    assert same(TRUTH.view(np.uint32), TRUTH, nan_equal=True).all()
    assert same(TRUTH.view(np.uint32), TRUTH.view(np.int32), nan_equal=True).all()


def test_every_output_counts_and_a_missing_or_misshapen_one_is_wrong():
    exact = lambda: {"d": TRUTH, "s": TRUTH}  # noqa: E731
    assert judge({"d": TRUTH, "s": TRUTH}, exact=exact).level == "exact"
    assert judge({"d": TRUTH}, exact=exact, bound=limits(9.0)).beyond_bound == {"d": 0, "s": 6}
    assert judge({"d": TRUTH, "s": TRUTH[:1]}, exact=exact).differing == {"d": 0, "s": 6}


def test_undefined_elements_do_not_count():
    mask = np.zeros(TRUTH.shape, bool)
    assert level(NEAR, defined={"d": mask}) == "exact"
    mask[0, 0] = True
    assert level(NEAR, defined={"d": mask}) == "wrong"


def test_any_nan_is_exact_and_only_the_models_own_is_model():
    quiet, other = (np.array([code], np.uint32).view(np.float32) for code in (0x7FC00000, 0xFFC00001))
    assert judge({"d": other}, exact=lambda: {"d": quiet}).level == "exact"
    off = {"d": np.array([other[0], 1], np.float32)}
    truth, model = np.array([quiet[0], 2], np.float32), np.array([quiet[0], 1], np.float32)
    assert judge(off, exact=lambda: {"d": truth}, model=lambda: {"d": model}).level == "wrong"


def test_the_sign_of_a_zero_is_a_difference_that_a_bound_allows():
    zero = {"d": np.zeros(1, np.float32)}
    assert judge({"d": -zero["d"]}, exact=lambda: zero).level == "wrong"
    assert (
        judge({"d": -zero["d"]}, exact=lambda: zero, bound=lambda: {"d": around(np.zeros(1), 0.0)}).level == "bounded"
    )


def test_elements_that_no_limit_was_derived_for_are_counted_apart():
    free = judge({"d": NEAR}, exact=lambda: {"d": TRUTH}, bound=limits(np.inf))
    assert (free.level, free.unbounded, free.beyond_bound) == ("bounded", {"d": 6}, {"d": 0})
    half = np.where(TRUTH < 3, np.inf, 1e-5)
    some = judge({"d": NEAR}, exact=lambda: {"d": TRUTH}, bound=lambda: {"d": around(TRUTH, half)})
    assert some.unbounded == {"d": 3}
    assert not judge({"d": NEAR}, exact=lambda: {"d": TRUTH}, bound=limits(1e-5)).unbounded
