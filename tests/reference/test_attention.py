"""Indexer logits against loops over tokens, heads and keys, contiguous and paged."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import reference
from dgref.errors import FormatError, InputError, ShapeError
from dgref.formats import FULL, ScaledTensor, Scaling, quantize
from dgref.reference.dispatch import using
from dgref.reference.limits import half_widths, within
from dgref.reference.rational import round_once
from tests.conftest import VECTORS, needs_vectors
from tests.reference import plain

SM90 = "deep_gemm.sm90.mqa_logits"


def operands(seed: int, s: int, t: int, h: int = 8, d: int = 32):
    weights = np.random.default_rng(seed).integers(-2, 3, (s, h)).astype(np.float32)
    return plain.integers(seed, (s, h, d)), plain.integers(seed + 1, (t, d), block=(1, FULL)), weights


def plain_logits(q, kv, weights) -> np.ndarray:
    scores = np.einsum("shd,td->sht", plain.values(q), plain.values(kv))
    return np.einsum("sht,sh->st", np.maximum(scores, 0), weights.astype(np.float64))


def masked(logits: np.ndarray, starts, ends) -> np.ndarray:
    key = np.arange(logits.shape[1])
    seen = (key >= np.asarray(starts)[:, None]) & (key < np.asarray(ends)[:, None])
    return np.where(seen, logits, -np.inf)


@settings(max_examples=20, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(-1, 9), st.integers(-2, 12)), max_size=5),
    seed=st.integers(0, 9),
    out=st.sampled_from(["float32", "bfloat16"]),
)
def test_each_row_holds_the_weighted_relu_scores_of_its_keys(ranges, seed, out):
    starts, ends = np.array(ranges, np.int32).reshape(-1, 2).T
    q, kv, weights = operands(seed, len(starts), 9)
    expected = masked(plain_logits(q, kv, weights), starts, ends).astype(np.float32).astype(plain.DTYPES[out])
    for arithmetic in ("exact", SM90):
        logits = reference.mqa_logits(q, kv, weights, starts, ends, arithmetic=arithmetic, out=out)
        np.testing.assert_array_equal(logits, expected)


def test_compressed_logits_start_at_the_first_key_of_each_row():
    q, kv, weights = operands(1, 3, 12)
    starts, ends = np.array([0, 4, 7]), np.array([5, 4, 10])
    full = reference.mqa_logits(q, kv, weights, starts, ends)
    short = reference.mqa_logits(q, kv, weights, starts, ends, clean=False, max_seqlen_k=6)
    assert short.shape == (3, 6)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        plain.assert_same_bits(short[row, : end - start], full[row, start:end])
        assert (short[row, end - start :] == -np.inf).all()


@pytest.mark.parametrize("format", ["float4_e2m1fn", "float8_e4m3fn"])
def test_block_scales_of_queries_and_keys_are_inside_the_scores(format):
    scaling = Scaling((1, 32), "float8_e8m0fnu", "ceil_quotient")
    rng = np.random.default_rng(0)
    q, kv = plain.integers(0, (2, 4, 64), format), plain.integers(1, (5, 64), format)
    q, kv = (
        replace(t, scale=rng.integers(125, 130, (*t.shape[:-1], 2)).astype(np.uint8), scaling=scaling) for t in (q, kv)
    )
    weights = rng.integers(-2, 3, (2, 4)).astype(ml_dtypes.bfloat16)
    logits = reference.mqa_logits(q, kv, weights, [0, 0], [5, 5])
    plain.assert_same_bits(logits, plain_logits(q, kv, weights.astype(np.float32)).astype(np.float32))


def test_tokens_in_pieces_give_the_same_bits(monkeypatch):
    q, kv, weights = operands(2, 9, 20)
    whole = reference.mqa_logits(q, kv, weights, [0] * 9, [20] * 9, arithmetic=SM90)
    monkeypatch.setattr("dgref.reference.attention.SCORES_AT_ONCE", 2 * 8 * 20)
    plain.assert_same_bits(reference.mqa_logits(q, kv, weights, [0] * 9, [20] * 9, arithmetic=SM90), whole)


def paged(seed: int, batch: int, next_n: int, page: int, blocks: int, d: int = 32, h: int = 8):
    q = plain.integers(seed, (batch, next_n, h, d))
    cache = plain.integers(seed + 1, (batch * blocks, page, d), block=(1, FULL))
    weights = np.random.default_rng(seed).integers(-2, 3, (batch * next_n, h)).astype(np.float32)
    table = np.random.default_rng(seed).permutation(batch * blocks).reshape(batch, blocks).astype(np.int32)
    return q, cache, weights, table


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 24), min_size=1, max_size=3),
    next_n=st.integers(1, 3),
    per_token=st.booleans(),
    seed=st.integers(0, 9),
)
def test_pages_hold_the_keys_of_a_sequence_in_table_order(lengths, next_n, per_token, seed):
    q, cache, weights, table = paged(seed, len(lengths), next_n, 8, 3)
    seen = np.array(lengths)[:, None] - next_n + 1 + np.arange(next_n)
    seen = np.maximum(seen, 0)
    lens = seen if per_token else np.array(lengths)
    for arithmetic in ("exact", SM90):
        logits = reference.paged_mqa_logits(q, cache, weights, lens, table, max_context_len=24, arithmetic=arithmetic)
        for row in range(len(lengths) * next_n):
            sequence, token = divmod(row, next_n)
            keys = replace(
                cache,
                data=cache.data[table[sequence]].reshape(24, -1),
                scale=cache.scale[table[sequence]].reshape(24, 1),
            )
            one = replace(q, data=q.data[sequence, token][None])
            expected = masked(plain_logits(one, keys, weights[row : row + 1]), [0], [seen[sequence, token]])[0]
            np.testing.assert_array_equal(logits[row], expected)


def test_pages_that_no_key_reaches_are_never_looked_up():
    q, cache, weights, table = paged(0, 2, 1, 8, 3)
    table[0, 1:], table[1, :] = -7, 10**6
    logits = reference.paged_mqa_logits(q, cache, weights, [8, 0], table, max_context_len=24)
    assert (logits[0, 8:] == -np.inf).all() and (logits[1] == -np.inf).all()
    with pytest.raises(InputError, match=r"block_table\[0\]\[1\]: got -7, need >= 0"):
        reference.paged_mqa_logits(q, cache, weights, [9, 0], table, max_context_len=24)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"starts": [0, 0]}, ShapeError, "starts shape: got [2], need s = 3, as in q"),
        ({"weights": np.zeros((3, 9), np.float32)}, ShapeError, "weights shape: got [3, 9], need h = 8, as in q"),
        ({"clean": False, "max_seqlen_k": 4}, ShapeError, "max_seqlen_k: got 4, need >= 5, the longest range of keys"),
        ({"max_seqlen_k": -4}, InputError, "max_seqlen_k: got -4, need an integer from 0"),
        ({"max_seqlen_k": 9, "clean": "no"}, InputError, "clean: got 'no', need True or False"),
        ({"max_seqlen_k": 9}, InputError, "clean: got True with max_seqlen_k, need False"),
        (
            {"weights": plain.integers(0, (3, 8), block=(1, 8))},
            FormatError,
            "weights: got a tensor with scales, need a plain array",
        ),
    ],
)
def test_errors_name_what_does_not_fit(change, error, words):
    q, kv, weights = operands(0, 3, 5)
    arguments = {"q": q, "kv": kv, "weights": weights, "starts": [0, 0, 0], "ends": [5, 5, 5], **change}
    with pytest.raises(error) as caught:
        reference.mqa_logits(**arguments)
    assert words in str(caught.value)


@needs_vectors
def test_every_bit_of_a_recorded_hopper_kernel_is_reproduced():
    with np.load(VECTORS / "h200" / "deep_gemm_mqa_logits.npz") as v:
        q = ScaledTensor(v["q"], "float8_e4m3fn")
        kv = ScaledTensor(v["kv"], "float8_e4m3fn", v["kv_scale"][:, None], Scaling((1, FULL)))
        rows = len(v["q"])
        starts, ends = np.zeros(rows, np.int32), np.full(rows, len(v["kv"]), np.int32)
        logits = reference.mqa_logits(q, kv, v["weights"], starts, ends, arithmetic=SM90)
        np.testing.assert_array_equal(plain.bits(logits), v["logits"])


@pytest.mark.parametrize(("arithmetic", "nan_is_seen"), [(SM90, False), ("deep_gemm.sm100.mqa_logits", True)])
def test_a_nan_score_is_dropped_on_hopper_and_seen_on_blackwell(arithmetic, nan_is_seen):
    q, kv, weights = operands(3, 1, 4)
    q.data[0, 0, 0] = 0x7F
    logits = reference.mqa_logits(q, kv, np.ones_like(weights), [0], [4], arithmetic=arithmetic)
    assert np.isnan(logits).all() == nan_is_seen


@pytest.mark.parametrize("depth", [64, 128])
def test_fp4_on_blackwell_adds_the_scale_exponents_inside_the_core(depth):
    q, kv = (
        quantize(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), "mxfp4")
        for seed, shape in ((0, (3, 16, depth)), (1, (9, depth)))
    )
    weights = np.random.default_rng(2).standard_normal((3, 16)).astype(np.float32)
    arguments = (q, kv, weights, [0] * 3, [9] * 3)
    exact, model = (reference.mqa_logits(*arguments, arithmetic=a) for a in ("exact", "deep_gemm.sm100.mqa_logits_fp4"))
    with using("bound"):
        limits = reference.mqa_logits(*arguments, arithmetic="deep_gemm.sm100.mqa_logits_fp4")
    assert within(model, limits).all() and within(exact, limits).all()
    assert (half_widths(limits) < np.abs(exact).max() * 2.0**-10).all()


@pytest.mark.parametrize("out", ["float32", "bfloat16"])
def test_exact_logits_are_the_fractions_rounded_once(out):
    rng = np.random.default_rng(7)
    q, kv = (
        quantize(rng.standard_normal(shape).astype(np.float32), recipe)
        for shape, recipe in (((2, 3, 5), "mxfp8"), ((4, 5), "per_row_fp8"))
    )
    weights = rng.standard_normal((2, 3)).astype(np.float32)
    logits = reference.mqa_logits(q, kv, weights, [0, 0], [4, 4], out=out)
    queries, keys = plain.values(q), plain.values(kv)
    for token, key in np.ndindex(2, 4):
        scores = [
            sum(Fraction(x) * Fraction(y) for x, y in zip(head, keys[key], strict=True)) for head in queries[token]
        ]
        exact = sum(
            max(score, Fraction(0)) * Fraction(float(w)) for score, w in zip(scores, weights[token], strict=True)
        )
        assert float(logits[token, key]) == round_once(exact, out)
