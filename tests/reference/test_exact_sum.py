"""Exact sums and exact logits against fractions written out here."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.errors import InputError, ShapeError
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.exact import ExactSum, exact_dot, exact_sum_of_squares, exact_weighted_relu_sum
from dgref.reference.rational import element, round_once

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS), min_size=1, max_size=6))
def test_a_formula_of_sums_and_products_rounds_once(triples):
    x, y, z = (np.array(column) for column in zip(*triples, strict=True))
    result = ((ExactSum.of(x) * ExactSum.of(y) - ExactSum.of(z)) * ExactSum.of(x)).sum().round("float32")
    exact = sum((Fraction(p) * Fraction(q) - Fraction(r)) * Fraction(p) for p, q, r in triples)
    assert float(result) == round_once(exact, "float32")


def test_dots_broadcast_and_reach_below_float64():
    a = np.array([[1.0, 2.0**60, 1.0]])
    b = np.array([[1.0, 2.0**60, 0.0], [2.0**-80, 0.0, 1.0]])
    c = np.array([[-1.0], [1.0]])
    assert exact_dot(a[0], b, "float64").tolist() == [2.0**120, 1.0]
    residue = ExactSum.of(a[0]) * ExactSum.of(b[0]) + ExactSum.of([-(2.0**120), 0, 0])
    assert residue.sum().round("float64") == 1.0
    assert (ExactSum.of(b[1]).sum() + ExactSum.of(c[0, 0])).round("float64") == 2.0**-80


@pytest.mark.parametrize("values", [[np.nan, 1.0], [np.inf, -np.inf], [np.inf, 1.0]])
def test_nan_and_infinity_follow_ieee_addition(values):
    with np.errstate(invalid="ignore"):  # Inf - Inf is meant
        needed = np.float32(np.sum(values))
    np.testing.assert_array_equal(ExactSum.of(values).sum().round(), needed)


def test_a_product_out_of_range_is_refused_not_rounded():
    with pytest.raises(InputError, match="exact product"):
        exact_dot(np.array([1e-200]), np.array([1e-200]))


def test_squares_of_every_row_equal_fractions_with_scales_inside():
    generator = np.random.default_rng(3)
    scaling = Scaling((1, 4))
    codes = generator.integers(0, 127, (2, 3, 10), dtype=np.uint8)
    tensor = ScaledTensor(codes, "float8_e4m3fn", generator.uniform(0.1, 9, (2, 3, 3)).astype(np.float32), scaling)
    result = exact_sum_of_squares(tensor, "bfloat16")
    assert result.dtype == ml_dtypes.bfloat16 and result.shape == (2, 3)
    for batch, row in np.ndindex(2, 3):
        matrix = ScaledTensor(codes[batch], tensor.format, tensor.scale[batch], scaling)
        exact = sum(element(matrix, row, k) ** 2 for k in range(10))
        assert float(result[batch, row]) == round_once(exact, "bfloat16")


def logits_by_fractions(q, kv, weights, out):
    result = np.empty((q.shape[0], kv.shape[0]))
    for s, t in np.ndindex(*result.shape):
        token = ScaledTensor(q.data[s], q.format, None if q.scale is None else q.scale[s], q.scaling)
        total = Fraction(0)
        for h in range(q.shape[1]):
            score = sum(element(token, h, k) * element(kv, t, k) for k in range(q.shape[2]))
            total += Fraction(float(weights[s, h])) * max(score, Fraction(0))
        result[s, t] = round_once(total, out)
    return result


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["float32", "bfloat16"]), st.sampled_from(["float32", "float8_e4m3fn"]))
def test_weighted_relu_sums_equal_fractions(seed, out, format):
    generator = np.random.default_rng(seed)
    dtype = np.dtype(np.float32 if format == "float32" else ml_dtypes.float8_e4m3fn)
    q = generator.standard_normal((3, 4, 6)).astype(dtype)
    kv = np.concatenate([generator.standard_normal((4, 6)), -q[0, :1].astype(np.float32)]).astype(dtype)
    kv[0, ::2] = 0
    weights = generator.standard_normal((3, 4)).astype(np.float32)
    weights[0] = [1, -1, 0, 2.0**-30]
    integer = np.uint32 if format == "float32" else np.uint8
    scaling = Scaling((1, 0))
    scale = generator.uniform(0.1, 2, (5, 1)).astype(np.float32)
    queries, keys = ScaledTensor(q.view(integer), format), ScaledTensor(kv.view(integer), format, scale, scaling)
    result = exact_weighted_relu_sum(queries, keys, weights, out).astype(np.float64)
    assert np.array_equal(result, logits_by_fractions(queries, keys, weights, out))


def test_relu_stops_minus_infinity_and_lets_nan_and_plus_infinity_through():
    q = np.array([[[1.0], [1.0]], [[np.nan], [1.0]]], np.float32)
    kv = np.array([[-np.inf], [np.inf], [2.0]], np.float32)
    result = exact_weighted_relu_sum(q, kv, np.array([[1.0, 1.0], [1.0, 0.0]], np.float32))
    np.testing.assert_array_equal(result, np.float32([[0, np.inf, 4], [np.nan] * 3]))


def test_weights_that_do_not_fit_are_named():
    ones = np.ones((2, 3, 4), np.float32)
    with pytest.raises(ShapeError, match="weights: got"):
        exact_weighted_relu_sum(ones, ones[0], np.ones((2, 4), np.float32))
