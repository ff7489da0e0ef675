"""The activation rounds once where it is exact, and the requantisation has the kernel's bits at its edges."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.errors import ShapeError
from dgref.reference.activation import exponential, requantize, swiglu
from dgref.reference.rational import round_once

single = st.floats(-80, 80, width=32)


@settings(max_examples=200, deadline=None)
@given(single)
def test_exponential_is_correctly_rounded(x):
    with localcontext() as context:
        context.prec = 50
        exact = Fraction(Decimal(x).exp())
    assert float(exponential(np.array([x], np.float32))[0]) == round_once(exact, "float32")


def test_doubtful_values_are_settled_in_decimal():
    # e^x is within 2^-49 of a rounding boundary for x so small that e^x = 1 + x is half an ulp above 1
    x = np.array([2.0**-24, -(2.0**-25), 2.0**-24 + 2.0**-47], np.float32)
    np.testing.assert_array_equal(exponential(x), np.array([1 + 2.0**-23, 1, 1 + 2.0**-23], np.float32))


def hidden(gate, up) -> np.ndarray:
    return np.array([[gate, up]], np.float32)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    ("gate", "up", "clamp", "expected"),
    [(0, 5, None, 0.0), (np.inf, 2, None, np.inf), (np.inf, 2, 4, None), (3, np.nan, 4, None), (-200, 3, None, -0.0)],
)
def test_edges_of_the_activation(exact, gate, up, clamp, expected):
    result = swiglu(hidden(gate, up), np.ones(1, np.float32), clamp, exact=exact)[0, 0]
    if expected is None:  # a clamp turns infinity into its bound, and NaN into the bound that it meets first
        finite = swiglu(hidden(min(gate, clamp), -clamp if np.isnan(up) else up), np.ones(1), None, exact=exact)[0, 0]
        assert result == finite
    else:
        assert result == expected and np.signbit(result) == np.signbit(np.float32(expected))


def test_a_group_of_zeros_has_scale_byte_zero():
    tensor = requantize(np.zeros((2, 64), np.float32), 32)
    assert not tensor.scale.any() and not tensor.data.any()


def test_the_exponent_rounds_up_unless_it_is_exact():
    values = np.array([[448.0], [449.0], [448 * 2.0**-20], [2.0**-140]], np.float32)
    tensor = requantize(values, 1)
    assert tensor.scale.ravel().tolist() == [127, 128, 107, 1]


def test_not_finite_groups_have_a_nan_scale():
    values = np.ones((1, 64), np.float32)
    values[0, 3], values[0, 40] = np.nan, np.inf
    assert requantize(values, 32).scale.tolist() == [[255, 255]]


def test_partial_groups_are_refused():
    with pytest.raises(ShapeError, match="intermediate: got 48, need a multiple of the granularity 32"):
        requantize(np.ones((1, 48), np.float32), 32)
