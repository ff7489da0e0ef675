"""Layout transforms of scales against scalar address formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import reference
from dgref.errors import FormatError, InputError, ShapeError, UnsupportedError

small = st.integers(0, 9)


def powers(*shape: int) -> np.ndarray:
    """Return a different power of two in every place, as far as there are any."""
    return np.exp2(np.arange(int(np.prod(shape))) % 240 - 120).astype(np.float32).reshape(shape)


def exponent(value: float) -> int:
    return int(np.log2(value)) + 127


@settings(max_examples=25, deadline=None)
@given(groups=st.integers(1, 2), mn=small, blocks=small)
def test_mn_major_puts_one_column_after_the_other_on_16_byte_strides(groups, mn, blocks):
    scales = powers(groups, mn, blocks)
    aligned = -(-mn // 4) * 4
    expected = np.zeros(groups * blocks * aligned, np.float32)
    for g, m, s in np.ndindex(groups, mn, blocks):
        expected[g * blocks * aligned + s * aligned + m] = scales[g, m, s]
    np.testing.assert_array_equal(reference.scales_mn_major(scales).ravel(), expected)


def packed_word_by_word(scales: np.ndarray) -> np.ndarray:
    mn, blocks = scales.shape
    words = np.zeros((-(-blocks // 4), -(-mn // 4) * 4), np.int64)
    for m, s in np.ndindex(mn, blocks):
        words[s // 4, m] |= exponent(scales[m, s]) << 8 * (s % 4)
    return words.astype(np.uint32).view(np.int32)


@settings(max_examples=25, deadline=None)
@given(mn=small, blocks=small)
def test_a_word_holds_four_exponents_of_one_row(mn, blocks):
    np.testing.assert_array_equal(reference.scales_packed(powers(mn, blocks)), packed_word_by_word(powers(mn, blocks)))


def test_rows_between_prefix_sum_groups_are_never_read_and_pack_to_zero():
    scales = powers(12, 5)
    clean = scales.copy()
    scales[3:4], scales[7:8] = np.nan, -3.0
    words = reference.scales_packed(scales, ends=[3, 7, 12], alignment=4)
    rows = [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    np.testing.assert_array_equal(words[:, rows], packed_word_by_word(clean)[:, rows])
    assert (words[:, [3, 7]] == 0).all()


def test_a_scale_of_zero_packs_to_byte_zero_and_a_negative_zero_is_refused():
    scales = powers(6, 4)
    scales[4:] = 0
    words = reference.scales_packed(scales)
    np.testing.assert_array_equal(words[:, :4], packed_word_by_word(scales[:4]))
    assert (words[:, 4:] == 0).all()
    with pytest.raises(FormatError):
        reference.scales_packed(-np.zeros((4, 4), np.float32))


@pytest.mark.parametrize("psum", [False, True])
def test_every_group_of_k_starts_a_new_row_of_words(psum):
    lengths, block = [300, 0, 640, 128], 128
    ends = [300, 384, 1024, 1152]
    counts = [3, 0, 5, 1]
    scales, first = powers(sum(counts), 8), 0
    parts = []
    for count in counts:
        parts.append(packed_word_by_word(scales[first : first + count].T)[:, :8])
        first += count
    words = reference.scales_packed_k_grouped(scales, ends if psum else lengths, block=block, psum=psum, alignment=128)
    np.testing.assert_array_equal(words, np.concatenate(parts))


def test_hopper_keeps_float32_and_blackwell_packs_one_byte_for_each_row():
    fine, square = powers(2, 200, 3), powers(2, 2, 3)
    np.testing.assert_array_equal(
        reference.scales_required(fine, mn=200, k=300, block=(1, 128)), reference.scales_mn_major(fine)
    )
    np.testing.assert_array_equal(reference.scales_required(square, mn=200, k=300, block=(128, 128)), square)
    spread = square[:, np.arange(200) // 128]
    packed = reference.scales_required(square, mn=200, k=300, block=(128, 128), architecture="sm100")
    np.testing.assert_array_equal(packed, reference.scales_packed(spread))
    kept = reference.scales_required(square, mn=200, k=300, block=(128, 128), architecture="sm100", keep_float32=True)
    np.testing.assert_array_equal(kept, square)


def test_words_that_are_packed_already_pass_on_blackwell():
    words = reference.scales_packed(powers(8, 5))  # [2 words, 8 rows]
    given_as = np.ascontiguousarray(words.T)
    passed = reference.scales_required(given_as, mn=8, k=160, block=(1, 32), architecture="sm100")
    np.testing.assert_array_equal(passed, words)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: reference.scales_required(powers(8, 2), mn=8, k=64, block=(1, 32)),
            UnsupportedError,
            "scales: got float32 scales of 1x32 blocks",
        ),
        (
            lambda: reference.scales_required(powers(8, 2), mn=9, k=256, block=(1, 128)),
            ShapeError,
            "scales shape: got [8, 2], need [..., 9, 2]",
        ),
        (lambda: reference.scales_packed(np.full((4, 4), 3.0, np.float32)), FormatError, "3.0"),
        (lambda: reference.scales_packed(powers(4, 4).astype(np.float64)), FormatError, "float64"),
        (
            lambda: reference.scales_packed_k_grouped(powers(3, 8), [128, 128]),
            ShapeError,
            "need 2 rows, one a block of every group",
        ),
        (
            lambda: reference.scales_required(powers(8, 2), mn=8, k=256, block=(0, 128)),
            InputError,
            "block: got 0, need an integer from 1",
        ),
        (
            lambda: reference.scales_required(powers(8, 2), mn=8, k=256, block=128),
            InputError,
            "block: got 128, need two extents (rows, K)",
        ),
        (
            lambda: reference.scales_packed_k_grouped(powers(2, 8), [128, 128], block=0),
            InputError,
            "block: got 0, need an integer from 1",
        ),
        (lambda: reference.contiguous_alignment("sm9"), InputError, "architecture: got 'sm9', need sm90"),
        (lambda: reference.tma_aligned_size(-5, 4), InputError, "extent: got -5, need an integer from 0"),
        (lambda: reference.tma_aligned_size(5, 3), InputError, "element_bytes: got 3, need a divisor of 16"),
    ],
)
def test_errors_say_what_the_scales_are(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("extent", "size", "aligned"), [(0, 4, 0), (1, 4, 4), (4, 4, 4), (5, 4, 8), (5, 2, 8), (17, 1, 32), (3, 16, 3)]
)
def test_tma_strides_are_multiples_of_16_bytes(extent, size, aligned):
    assert reference.tma_aligned_size(extent, size) == aligned


@pytest.mark.parametrize(
    ("architecture", "expected_m", "alignment"),
    [
        ("sm90", None, 128),
        ("sm90", 20, 128),
        ("sm100", None, 224),
        ("sm100", 1, 32),
        ("sm100", 32, 32),
        ("sm100", 33, 64),
        ("sm100", 500, 224),
    ],
)
def test_groups_start_at_the_theoretical_alignment(architecture, expected_m, alignment):
    assert reference.contiguous_alignment(architecture, expected_m) == alignment
