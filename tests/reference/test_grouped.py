"""Grouped products are dense products of their groups, whatever the groups look like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import reference
from dgref.errors import InputError, ShapeError
from tests.reference import plain

MODEL = "deep_gemm.sm90.fp8_1d2d"


def operands(seed: int, m: int, g: int, n: int = 6, k: int = 160):
    b = plain.integers(seed + 1, (g, n, k), block=(128, 128))
    return plain.integers(seed, (m, k), block=(1, 128)), b


def group(b, index: int):
    return replace(b, data=b.data[index], scale=b.scale[index])


@settings(max_examples=20, deadline=None)
@given(labels=st.lists(st.integers(-1, 3), max_size=40), seed=st.integers(0, 9))
def test_contiguous_rows_take_the_weights_of_their_label_and_padding_is_zero(labels, seed):
    a, b = operands(seed, len(labels), 4)
    every = np.stack([plain.product(a, group(b, i)) for i in range(4)])
    labels = np.array(labels, np.int32)
    expected = (
        np.where(labels[:, None] >= 0, every[labels, np.arange(len(labels))], 0) if len(labels) else np.zeros((0, 6))
    )
    for arithmetic in ("exact", MODEL):
        d = reference.gemm_grouped_contiguous(a, b, labels, arithmetic=arithmetic)
        plain.assert_same_bits(d, plain.rounded(expected, "bfloat16"))


@pytest.mark.parametrize("arithmetic", ["exact", MODEL])
def test_prefix_sum_and_labels_say_the_same(arithmetic):
    a, b = operands(3, 64, 4)
    ends = np.array([5, 16, 30, 49], np.int32)  # group 1 is empty: it ends where it starts
    labels = np.full(64, -1)
    labels[0:5], labels[16:30], labels[32:49] = 0, 2, 3
    by_ends = reference.gemm_grouped_contiguous(a, b, ends, psum=True, alignment=16, arithmetic=arithmetic)
    plain.assert_same_bits(by_ends, reference.gemm_grouped_contiguous(a, b, labels, arithmetic=arithmetic))


def test_renaming_groups_changes_nothing():
    a, b = operands(4, 30, 3)
    labels = np.repeat([0, 1, 2], 10)
    order = np.array([2, 0, 1])
    renamed = replace(b, data=b.data[order], scale=b.scale[order])
    new_name = np.argsort(order)
    d = reference.gemm_grouped_contiguous(a, b, labels, arithmetic=MODEL)
    plain.assert_same_bits(reference.gemm_grouped_contiguous(a, renamed, new_name[labels], arithmetic=MODEL), d)


def test_scales_of_a_block_of_rows_follow_rows_into_their_group():
    a = plain.integers(5, (20, 64), block=(8, 32))
    b = plain.integers(6, (2, 5, 64), block=(1, 32))
    labels = np.array([0, 1] * 10)
    expected = np.stack([plain.product(a, group(b, g))[row] for row, g in enumerate(labels)])
    d = reference.gemm_grouped_contiguous(a, b, labels, out="float32")
    plain.assert_same_bits(d, plain.rounded(expected, "float32"))


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(0, 7), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_masked_groups_compute_their_rows_and_leave_the_rest_zero(counts, seed):
    g = len(counts)
    a, b = plain.integers(seed, (g, 7, 160), block=(1, 128)), operands(seed, 0, g)[1]
    expected = plain.product(a, b) * (np.arange(7)[:, None] < np.array(counts)[:, None, None])
    for arithmetic in ("exact", MODEL):
        d = reference.gemm_grouped_masked(a, b, np.array(counts), arithmetic=arithmetic)
        np.testing.assert_array_equal(d, plain.rounded(expected, "bfloat16"))


def test_rows_past_the_mask_never_matter():
    a, b = plain.integers(7, (2, 8, 128), block=(1, 128)), operands(7, 0, 2, k=128)[1]
    counts = np.array([3, 0])
    spoiled = a.data.copy()
    spoiled[0, 3:], spoiled[1] = 0x7F, 0x7F  # NaN
    d = reference.gemm_grouped_masked(a, b, counts)
    plain.assert_same_bits(reference.gemm_grouped_masked(replace(a, data=spoiled), b, counts), d)


def k_grouped(seed: int, lengths: list[int], m: int = 5, n: int = 4, block: int = 128):
    """Return both operands, quantised group by group, and the plain products of the groups."""
    parts_a = [plain.integers(seed + 2 * i, (m, length), block=(1, block)) for i, length in enumerate(lengths)]
    parts_b = [plain.integers(seed + 2 * i + 1, (n, length), block=(1, block)) for i, length in enumerate(lengths)]
    products = np.stack([plain.product(x, y) for x, y in zip(parts_a, parts_b, strict=True)])
    return joined(parts_a), joined(parts_b), products


def joined(parts):
    data = np.concatenate([part.data for part in parts], axis=1)
    return replace(parts[0], data=data, scale=np.concatenate([part.scale for part in parts], axis=1))


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.sampled_from([0, 1, 100, 128, 160]), min_size=1, max_size=4), seed=st.integers(0, 9))
def test_every_group_of_k_starts_its_own_scale_block(lengths, seed):
    a, b, expected = k_grouped(seed, lengths)
    c = np.arange(expected.size, dtype=np.float32).reshape(expected.shape)
    for arithmetic in ("exact", "deep_gemm.sm90.fp8_1d1d"):
        d = reference.gemm_grouped_k(a, b, np.array(lengths), c, arithmetic=arithmetic)
        plain.assert_same_bits(d, plain.rounded(expected + c, "float32"))


def test_an_empty_group_of_k_gives_c_or_zero():
    a, b, _ = k_grouped(0, [128, 0])
    c = np.full((2, 5, 4), 7, np.float32)
    assert (reference.gemm_grouped_k(a, b, [128, 0], c)[1] == 7).all()
    assert (reference.gemm_grouped_k(a, b, [128, 0])[1] == 0).all()


def test_gaps_between_groups_of_k_are_never_read():
    a, b, expected = k_grouped(1, [100, 33])
    gap = np.full((5, 28), 0x7F, np.uint8)  # NaN
    spread_a = replace(a, data=np.concatenate([a.data[:, :100], gap, a.data[:, 100:], gap], axis=1))
    spread_b = replace(b, data=np.concatenate([b.data[:, :100], gap[:4], b.data[:, 100:], gap[:4]], axis=1))
    d = reference.gemm_grouped_k(spread_a, spread_b, [100, 161], psum=True, alignment=128)
    plain.assert_same_bits(d, plain.rounded(expected, "float32"))


def test_unscaled_groups_of_k_need_no_scale_columns():
    a, b = plain.integers(1, (3, 20), "bfloat16"), plain.integers(2, (4, 20), "bfloat16")
    whole = reference.gemm(a, b, out="float32")
    parts = reference.gemm_grouped_k(a, b, [7, 0, 13])
    plain.assert_same_bits(parts.sum(axis=0), whole)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda a, b: reference.gemm_grouped_contiguous(a, b, [0, 1, 9, 0]),
            InputError,
            "grouped_layout[2]: got 9, need <= 1",
        ),
        (
            lambda a, b: reference.gemm_grouped_contiguous(a, b, [0, 1]),
            ShapeError,
            "grouped_layout shape: got [2], need m = 4, as in a",
        ),
        (
            lambda a, b: reference.gemm_grouped_contiguous(a, b, [3, 3], psum=True, alignment=4),
            InputError,
            "grouped_layout[1]: got 3, need >= 4",
        ),
        (
            lambda a, b: reference.gemm_grouped_contiguous(a, b, [0.5] * 4),
            InputError,
            "grouped_layout: got dtype float64, need an integer dtype",
        ),
        (
            lambda a, b: reference.gemm_grouped_contiguous(a, b, [2, 4], psum=True, alignment=0),
            InputError,
            "alignment: got 0, need an integer from 1",
        ),
        (
            lambda a, b: reference.gemm_grouped_contiguous(a, b, [2, 4], psum="no"),
            InputError,
            "psum: got 'no', need True or False",
        ),
        (lambda a, b: reference.gemm_grouped_k(a, a, None), InputError, "grouped_layout: got nothing"),
        (lambda a, b: reference.check_group_labels([[0, 1]], 2), ShapeError, "got [1, 2], need one axis [m]"),
        (lambda a, b: reference.check_group_labels([0, 1], 2, alignment=0), InputError, "alignment: got 0"),
        (
            lambda a, b: reference.gemm_grouped_masked(a, b, [1, 1]),
            ShapeError,
            "a shape: got [4, 160], need 3 axes [g m k]",
        ),
        (
            lambda a, b: reference.gemm_grouped_k(a, a, [100, 50]),
            ShapeError,
            "grouped_layout: got lengths that add up to 150, need 160",
        ),
    ],
)
def test_errors_name_the_group_that_breaks_the_contract(call, error, words):
    a, b = operands(0, 4, 2)
    with pytest.raises(error) as caught:
        call(a, b)
    assert words in str(caught.value)


def test_scale_columns_must_match_the_groups():
    a, _ = operands(0, 4, 2)
    with pytest.raises(ShapeError, match=r"a scale: got 2 columns, need 3 columns: ceil\(K of a group / 128\)"):
        reference.gemm_grouped_k(a, a, [50, 50, 60])


def test_the_label_contract_names_the_first_row_that_breaks_it():
    reference.check_group_labels([0] * 100 + [-1] * 28 + [2] * 128, 3)
    with pytest.raises(
        InputError, match=r"grouped_layout\[100\]: got 1, need 0, as row 0 \[rows 0..127 are one tile of 128\]"
    ):
        reference.check_group_labels([0] * 100 + [1] * 28, 2)
    with pytest.raises(InputError, match=r"grouped_layout\[5\]: got -1, need padding only after the last used row"):
        reference.check_group_labels([0] * 4 + [1, -1, 1, 1], 2, alignment=4)
