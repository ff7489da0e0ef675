"""The comparison as a whole: counts, worst elements, bounds, masks, sentences and plain data."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dgref
from dgref.compare.ulp import UNRELATED, Policy, ulp_distance
from dgref.errors import InputError, ShapeError


def bfloat16(shape=(64, 96), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(ml_dtypes.bfloat16)


def moved(values, place, ulps):
    codes = values.view(np.uint16).copy()
    codes[place] += np.uint16(ulps)
    return codes.view(ml_dtypes.bfloat16)


def test_equal_arrays_say_so():
    found = dgref.compare(bfloat16(), bfloat16())
    assert found.equal and found.max_ulps == 0 and found.worst == [] and found.where.kind == "none"
    assert found.summary() == "all 6,144 bfloat16 elements equal expected"


def test_a_difference_is_counted_measured_and_placed():
    expected = bfloat16()
    found = dgref.compare(moved(expected, np.s_[3, :], 5), expected, against="the model")
    assert (found.differing, found.max_ulps, found.histogram) == (96, 5, {"5..8": 96})
    assert found.summary() == "96 of 6,144 bfloat16 elements differ from the model, by at most 5 ulp: row 3"


def test_the_worst_elements_come_first_and_read_like_testfloat():
    expected = np.ones((4, 8), np.float32)
    actual = expected.copy()
    actual[2, 3], actual[1, 1] = 1.5, np.nan
    worst = dgref.compare(actual, expected, inputs=lambda index: f"a[{index[0]}] b[{index[1]}]").worst
    assert str(worst[0]) == "a[1] b[1] => got 0x7fc00000 (nan), expected 0x3f800000 (1), unrelated"
    assert str(worst[1]) == "a[2] b[3] => got 0x3fc00000 (1.5), expected 0x3f800000 (1), 4194304 ulp"
    assert len(worst) == 2


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(3,), (40, 9), (2, 30, 70), (9, 200)]), st.booleans())
def test_worst_and_counts_equal_the_definition(seed, shape, masked):
    generator = np.random.default_rng(seed)
    expected = generator.integers(0, 1 << 16, shape, dtype=np.uint16)
    actual = np.where(generator.random(shape) < 0.3, generator.integers(0, 1 << 16, shape, dtype=np.uint16), expected)
    mask = generator.random(shape) < 0.5 if masked else None
    found = dgref.compare(actual, expected, "float16", mask=mask, policy=Policy(zero="equal"))
    distance = ulp_distance(actual, expected, "float16")
    distance = distance if mask is None else np.where(mask, distance, 0)
    assert found.differing == (distance > 0).sum()
    ranked = np.sort(distance[distance > 0])[::-1][:20]
    assert [UNRELATED if e.ulps is None else e.ulps for e in found.worst] == ranked.tolist()
    assert all(distance[e.index] == (UNRELATED if e.ulps is None else e.ulps) for e in found.worst)


def test_elements_outside_the_mask_never_count():
    expected = bfloat16()
    mask = np.ones(expected.shape, bool)
    mask[5] = False
    assert dgref.compare(moved(expected, np.s_[5], 9), expected, mask=mask).equal
    assert dgref.compare(expected, expected, mask=mask).count == mask.sum()


def test_a_bound_counts_what_lies_beyond_and_places_only_that():
    expected = np.ones((64, 64), np.float32)
    actual = expected + np.float32(1e-6)
    actual[40:48] = 2
    found = dgref.compare(actual, expected, bound=np.full(expected.shape, 1e-3))
    assert (found.differing, found.beyond_bound) == (4096, 8 * 64)
    assert found.where.description == "rows 40..47" and "512 beyond the bound" in found.summary()
    assert "all within the bound" in dgref.compare(actual, expected, bound=np.full(expected.shape, 2.0)).summary()


def test_a_bound_is_measured_from_exact_when_the_model_is_expected():
    model, exact = np.full((8, 8), 1.5, np.float32), np.ones((8, 8), np.float32)
    limits = np.full((8, 8), 0.6)
    assert dgref.compare(model, model, bound=limits, exact=exact).beyond_bound == 0
    assert dgref.compare(model, model, bound=limits / 2, exact=exact).beyond_bound == 64


def test_nan_is_beyond_every_bound_unless_expected():
    expected = np.array([[np.nan, 1.0]], np.float32)
    found = dgref.compare(np.array([[np.nan, np.nan]], np.float32), expected, bound=np.array([[0.0, np.inf]]))
    assert found.beyond_bound == 1


def test_zero_signs_are_named():
    found = dgref.compare(np.array([-0.0, 1.0], np.float32), np.array([0.0, 1.0], np.float32))
    assert found.zero_signs == 1 and "1 only in the sign of zero" in found.summary()
    assert str(found.worst[0]).endswith("sign of zero")


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (5, 0), (2, 0, 3)])
def test_scalars_and_empty_arrays_compare(shape):
    assert dgref.compare(np.zeros(shape, np.float32), np.zeros(shape, np.float32)).equal


def test_plain_data_is_small_and_json():
    expected = bfloat16((256, 256))
    text = json.dumps(dgref.compare(bfloat16((256, 256), 1), expected).to_dict())
    assert len(text) < 10_000 and json.loads(text)["where"]["kind"] == "everything"


def test_shapes_that_do_not_fit_are_named():
    ones = np.ones((4, 4), np.float32)
    with pytest.raises(ShapeError, match="mask shape"):
        dgref.compare(ones, ones, mask=ones[0] > 0)
    with pytest.raises(ShapeError, match="groups: got 3 labels, need one for each of 4 rows"):
        dgref.compare(ones, ones, groups=[0, 1, 2])


def test_wide_and_tall_arrays_are_scanned_like_square_ones():
    for shape in ((3, 20_000), (20_000, 3)):
        expected = bfloat16(shape)
        place = (2, 1) if shape[0] == 20_000 else (1, 19_999)
        found = dgref.compare(moved(expected, place, 3), expected)
        assert found.worst[0].index == place and found.max_ulps == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": np.ones((4, 4), np.float32)}, "mask dtype: got float32, need bool"),
        ({"bound": np.full((4, 4), "x")}, "bound dtype: got <U1, need numbers"),
        ({"policy": "bits"}, "policy: got 'bits', need a Policy"),
        ({"inputs": 5}, "inputs: got 5, need a function"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(options, message):
    ones = np.ones((4, 4), np.float32)
    with pytest.raises(InputError, match=message):
        dgref.compare(ones, ones, **options)
