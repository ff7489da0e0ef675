"""The schedule of the paged kernels against a list of all units of work, and the fused key cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import reference
from dgref.errors import FormatError, InputError, ShapeError
from dgref.formats import quantize
from tests.reference import plain

lengths = st.lists(st.sampled_from([0, 1, 256, 257, 700, 2000]), min_size=1, max_size=5)


def starts_of(work: list, num_sms: int, end: tuple[int, int], remainder_first: bool) -> list[tuple[int, int]]:
    """Deal a list of units to SMs in one pass and note where each begins."""
    share, rest = divmod(len(work), num_sms)
    starts, position = [], 0
    for sm in range(num_sms):
        starts.append(work[position] if position < len(work) else end)
        longer = sm < rest if remainder_first else sm >= num_sms - rest
        position += share + longer
    return [*starts, end]


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, next_n=st.integers(1, 5), num_sms=st.integers(1, 9))
def test_hopper_deals_atoms_of_two_tokens_and_gives_the_rest_to_the_last(lengths, next_n, num_sms):
    atoms = next_n if next_n == 1 else -(-next_n // 2)
    work = [
        (q * atoms + atom, split)
        for q, length in enumerate(lengths)
        for atom in range(atoms)
        for split in range(-(-length // 256))
    ]
    context = np.array(lengths)[:, None] * np.ones(next_n, int)
    schedule = reference.paged_mqa_metadata(context, num_sms=num_sms)
    assert schedule.dtype == np.int32
    expected = starts_of(work, num_sms, (len(lengths) * atoms, 0), remainder_first=False)
    np.testing.assert_array_equal(schedule, expected)


@settings(max_examples=60, deadline=None)
@given(lengths=lengths, next_n=st.integers(1, 5), num_sms=st.integers(1, 9))
def test_blackwell_deals_tokens_and_rounds_starts_down_to_a_split(lengths, next_n, num_sms):
    work = [
        (q * next_n, split)
        for q, length in enumerate(lengths)
        for split in range(-(-length // 256))
        for _ in range(next_n)
    ]
    context = np.array(lengths)[:, None] * np.ones(next_n, int)
    schedule = reference.paged_mqa_metadata(context, num_sms=num_sms, schedule="sm100")
    expected = starts_of(work, num_sms, (len(lengths) * next_n, 0), remainder_first=True)
    np.testing.assert_array_equal(schedule, expected)


@settings(max_examples=40, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 900)), min_size=1, max_size=4), num_sms=st.integers(1, 6)
)
def test_tokens_of_one_sequence_are_dealt_together(runs, num_sms):
    indices = np.repeat(np.arange(len(runs)), [count for count, _ in runs])
    seen = np.concatenate([length + np.arange(count) for count, length in runs])
    atoms, units, first = [], [], 0
    for count, length in runs:
        pairs = [(t, min(t + 1, count - 1)) for t in range(0, count, 2)]
        atoms += [(first + t, split) for t, last in pairs for split in range(-(-(length + last) // 256))]
        units += [(first, split) for split in range(-(-(length + count - 1) // 256)) for _ in range(count)]
        first += count
    for schedule, work, remainder_first in (("sm90", atoms, False), ("sm100", units, True)):
        result = reference.paged_mqa_metadata(seen[:, None], num_sms=num_sms, schedule=schedule, indices=indices)
        np.testing.assert_array_equal(result, starts_of(work, num_sms, (len(seen), 0), remainder_first))


def test_the_length_of_a_sequence_is_its_last_tokens():
    short = reference.paged_mqa_metadata([[5000, 256]], num_sms=1)
    plain.assert_same_bits(short, reference.paged_mqa_metadata([[1, 256]], num_sms=1))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"context_lens": [3]}, ShapeError, "context_lens shape: got [1], need two axes [batch, next_n]"),
        ({"num_sms": 0}, InputError, "num_sms: got 0, need an integer from 1"),
        ({"num_sms": 2.5}, InputError, "num_sms: got 2.5, need an integer from 1"),
        ({"context_lens": np.zeros((3, 0), int)}, ShapeError, "context_lens shape: got [3, 0]"),
        ({"context_lens": [[1], [2]], "indices": [0]}, ShapeError, "indices shape: got [1], need [2]"),
        ({"schedule": "sm80"}, InputError, "need sm90"),
        ({"context_lens": [[1, 2]], "indices": [0]}, ShapeError, "need [tokens, 1], with indices"),
    ],
)
def test_errors_name_the_argument(arguments, error, words):
    with pytest.raises(error) as caught:
        reference.paged_mqa_metadata(**{"context_lens": [[3]], "num_sms": 2, **arguments})
    assert words in str(caught.value)


@pytest.mark.parametrize(("recipe", "depth"), [("per_row_fp8", 128), ("mxfp4", 64), ("mxfp4", 128)])
def test_a_fused_cache_splits_into_the_keys_that_made_it(recipe, depth):
    keys = quantize(np.random.default_rng(0).standard_normal((15, depth)).astype(np.float32), recipe)
    paged = type(keys)(keys.data.reshape(3, 5, depth), keys.format, keys.scale.reshape(3, 5, -1), keys.scaling)
    fused = reference.fuse_kv_cache(paged)
    assert fused.shape == (3, 5, 1, (depth if keys.format == "float8_e4m3fn" else depth // 2) + 4)
    back = reference.split_kv_cache(fused, depth, keys.format)
    np.testing.assert_array_equal(back.data, paged.data)
    np.testing.assert_array_equal(back.scale, paged.scale)
    assert back.scaling.block == keys.scaling.block


def test_payloads_of_a_page_come_before_its_scales():
    codes = np.arange(2 * 3 * 32, dtype=np.uint8).reshape(2, 3, 32)
    scale = np.array([[[1.0], [2.0], [4.0]]] * 2, np.float32)
    keys = plain.ScaledTensor(codes, "float8_e4m3fn", scale, plain.Scaling((1, plain.FULL)))
    page = reference.fuse_kv_cache(keys)[1].ravel()
    np.testing.assert_array_equal(page[:96], codes[1].ravel())
    np.testing.assert_array_equal(page[96:].view(np.float32), [1, 2, 4])


def test_a_fused_cache_of_the_wrong_width_is_refused():
    with pytest.raises(FormatError, match=r"kv_cache: got uint8 \[1, 2, 1, 130\], need uint8 \[pages, page, 1, 132\]"):
        reference.split_kv_cache(np.zeros((1, 2, 1, 130), np.uint8), 128)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: reference.fuse_kv_cache(plain.integers(0, (4, 64))),
            ShapeError,
            "keys shape: got [4, 64], need",
        ),
        (lambda: reference.fuse_kv_cache(None), FormatError, "keys: got nothing"),
        (lambda: split(36, 32.0), InputError, "depth: got 32.0, need an integer from 1"),
        (lambda: split(36, -4), InputError, "depth: got -4, need an integer from 1"),
        (lambda: split(36, 32, "bfloat16"), FormatError, "keys format: got bfloat16, need an FP8 or FP4 format"),
        (lambda: split(19, 30, "float4_e2m1fn"), ShapeError, "depth: got 30, need a multiple of 32"),
    ],
)
def test_keys_that_no_cache_holds_are_refused(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def split(width, depth, format="float8_e4m3fn"):
    return reference.split_kv_cache(np.zeros((2, 4, 1, width), np.uint8), depth, format)
