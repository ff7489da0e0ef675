"""A factor or an addend common to all wrong outputs is found, and none where there is none."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgref.compare.diagnosis import diagnose
from dgref.compare.prediction import compute
from dgref.compare.relation import relation
from tests.compare.test_realistic_faults import product

RIGHT = np.random.default_rng(0).standard_normal((40, 60)).astype(np.float32)


@given(st.sampled_from([-1.0, 0.5, 1.1, 448.0, 1e-3]), st.sampled_from(["float32", "float16", ml_dtypes.bfloat16]))
def test_a_factor_is_found_after_rounding(factor, dtype):
    wrong = (RIGHT * np.float32(factor)).astype(dtype)
    found = relation(wrong, RIGHT.astype(dtype), np.ones(RIGHT.shape, bool))
    assert found.endswith("times what they should be")
    assert float(found.split()[0]) == pytest.approx(factor, rel=0.01)


@given(st.sampled_from([-3.0, 0.25, 1000.0]))
def test_an_addend_is_found(addend):
    found = relation(RIGHT + np.float32(addend), RIGHT, np.ones(RIGHT.shape, bool))
    assert found == f"{abs(addend):.5g} {'more' if addend > 0 else 'less'} than they should be"


@pytest.mark.parametrize(
    "wrong",
    [
        RIGHT[::-1],
        RIGHT**2,
        np.nextafter(RIGHT, np.float32(9)),
        RIGHT * np.nan,
        np.where(RIGHT > 0, RIGHT * 2, RIGHT * 3),
    ],
)
def test_none_is_invented(wrong):
    assert relation(wrong, RIGHT, np.ones(RIGHT.shape, bool)) is None


def test_few_outputs_have_none():
    few = np.zeros(RIGHT.shape, bool)
    few[0, :15] = True
    assert relation(RIGHT * 2, RIGHT, few) is None


def test_a_diagnosis_without_a_cause_says_it():
    state = product()
    wrong = compute(state)["d"].copy()
    wrong[:, 7] *= wrong.dtype.type(1.5)
    found = diagnose(state.case, state.inputs, {"d": wrong}, state.arithmetic)
    said = "no hypothesis explains it; where outputs differ much, they are 1.5 times what they should be"
    assert found.sentence == said


def test_outputs_that_are_all_zero_are_called_so():
    assert relation(RIGHT * 0, RIGHT, np.ones(RIGHT.shape, bool)) == "zero"
