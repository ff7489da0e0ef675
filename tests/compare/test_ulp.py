"""Distances in ulps: every format, every pair of codes, and the policies."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from dgref.compare.scan import scan
from dgref.compare.ulp import UNRELATED, Policy, codes_of, paired_codes, ulp_distance
from dgref.errors import FormatError, InputError, ShapeError
from dgref.formats.element import FORMATS

SMALL = [name for name, row in FORMATS.items() if row.storage_bits <= 8]
POLICIES = [Policy(n, z, i) for n in ("equal", "bits") for z in ("signed", "equal") for i in ("apart", "next")]


@pytest.mark.parametrize("name", SMALL)
def test_neighbours_in_value_are_one_apart_and_distances_add_up(name):
    row = FORMATS[name]
    finite = row.codes[np.isfinite(row.decode(row.codes))]
    ordered = finite[np.argsort(row.decode(finite), kind="stable")]
    steps = ulp_distance(ordered[1:], ordered[:-1], name)
    different = np.diff(row.decode(ordered).astype(np.float64)) > 0
    assert np.array_equal(steps, different.astype(np.int64))
    assert ulp_distance(ordered[-1:], ordered[:1], name)[0] == different.sum()


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "tfloat32"])
def test_distances_cross_zero_subnormals_and_powers_of_two_without_a_jump(name):
    row = FORMATS[name]
    values = np.array([1.0, row.min_normal, row.min_subnormal, 0.0, row.max])
    below = values - np.array(
        [2.0 ** -(row.mantissa_bits + 1), row.min_subnormal, row.min_subnormal, row.min_subnormal, 0]
    )
    distance = ulp_distance(row.encode(values), row.encode(below), name)
    assert distance.tolist() == [1, 1, 1, 1, 0]
    assert ulp_distance(row.encode([row.min_subnormal]), row.encode([-row.min_subnormal]), name)[0] == 2


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("name", [*SMALL, "float16"])
def test_the_scan_finds_what_the_definition_says_on_every_pair_of_codes(name, policy):
    row = FORMATS[name]
    codes = row.codes if row.bits <= 8 else np.concatenate([row.codes[i :: 1 << 8] for i in (0, 1, 255)])[::3]
    left, right = np.meshgrid(codes, codes, indexing="ij")
    found = scan(*paired_codes(left, right, name), policy)
    distance = ulp_distance(left, right, name, policy)
    signed = policy.zero == "signed" and row.signed  # an ignored sign bit is no difference
    zeros = (row.decode(left) == 0) & (row.decode(right) == 0) & (left != right) & signed
    differ = (distance > 0) | zeros
    assert found.differing == differ.sum()
    assert np.array_equal(found.row_counts, differ.sum(axis=1)) and np.array_equal(
        found.column_counts, differ.sum(axis=0)
    )
    assert found.largest == distance[distance < UNRELATED].max()
    assert found.histogram[-1] == (distance == UNRELATED).sum() and found.histogram[0] == np.sum(zeros)
    assert (
        found.histogram[1] == (distance == 1).sum() and found.histogram[4] == ((distance > 4) & (distance <= 8)).sum()
    )


def test_policies_decide_about_nan_payloads_zeros_and_infinity():
    left = np.array([0x7FC00000, 0x80000000, 0x7F800000, 0x7F800000], np.uint32).view(np.float32)
    right = np.array([0xFFC00001, 0x00000000, 0x7F7FFFFF, 0xFF800000], np.uint32).view(np.float32)
    assert ulp_distance(left, right).tolist() == [0, 0, UNRELATED, UNRELATED]
    strict = ulp_distance(left, right, policy=Policy(nan="bits", infinity="next"))
    assert strict.tolist() == [UNRELATED, 0, 1, 2 * 0x7F800000]


def test_torch_native_and_codes_are_the_same_comparison():
    values = np.random.default_rng(0).standard_normal((3, 4)).astype(ml_dtypes.bfloat16)
    tensor = torch.from_numpy(values.astype(np.float32)).bfloat16()
    assert not ulp_distance(tensor, values).any()
    assert not ulp_distance(values.view(np.uint16), tensor, "bfloat16").any()


def test_integers_and_booleans_compare_as_numbers():
    assert ulp_distance(np.array([3, -4]), np.array([5, -4])).tolist() == [2, 0]
    assert codes_of(np.array([True]), None, "x").name == "uint8"


def test_what_cannot_be_compared_is_refused():
    ones = np.ones(3, np.float32)
    with pytest.raises(FormatError, match="actual: got float32, need float16"):
        ulp_distance(ones, ones.astype(np.float16))
    with pytest.raises(FormatError, match="actual dtype: got float32, need bfloat16"):
        ulp_distance(ones, ones, "bfloat16")
    with pytest.raises(ShapeError, match="actual shape"):
        ulp_distance(ones, ones[:2])
    with pytest.raises(InputError, match="policy nan: got 'never', need equal or bits"):
        Policy(nan="never")
    with pytest.raises(FormatError, match="actual dtype: got float64, need one of"):
        ulp_distance(ones.astype(np.float64), ones.astype(np.float64))
    with pytest.raises(FormatError, match="actual: got uint64 up to 18446744073709551615, need magnitudes below"):
        ulp_distance(np.array([2**64 - 1], np.uint64), np.array([0], np.uint64))
