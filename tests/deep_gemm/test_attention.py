"""Indexer logits in the forms that DeepGEMM takes, with bits equal to dgref's references."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dgref.deep_gemm as deep_gemm
from dgref import reference
from dgref.deep_gemm.testing import assert_bitwise_equal, calc_diff
from dgref.errors import FormatError, InputError, ShapeError, UnsupportedError
from dgref.formats import quantize

TOKENS, HEADS, DEPTH, KEYS = 6, 32, 64, 70


def indices(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


STARTS, ENDS = indices([0, 0, 3, 10, 20, 69]), indices([1, 70, 40, 10, 55, 70])


def fp8_operands():
    q = torch.randn(TOKENS, HEADS, DEPTH).to(torch.float8_e4m3fn)
    kv = torch.randn(KEYS, DEPTH).bfloat16()
    codes, scales = deep_gemm.per_custom_dims_cast_to_fp8(kv, (0,), False)
    return q, (codes, scales), torch.randn(TOKENS, HEADS), kv


def plain_logits(q, kv, weights) -> torch.Tensor:
    scores = torch.einsum("shd,td->sht", q.double(), kv.double()).relu()
    return (scores * weights.double()[..., None]).sum(1)


def visible() -> torch.Tensor:
    keys = torch.arange(KEYS)
    return (keys >= STARTS[:, None]) & (keys < ENDS[:, None])


def test_fp8_logits_have_the_bits_of_the_reference() -> None:
    q, kv, weights, keys = fp8_operands()
    logits = deep_gemm.fp8_mqa_logits(q, kv, weights, STARTS, ENDS)
    tensor = quantize(keys, "per_row_fp8")
    arithmetic = "deep_gemm.sm90.mqa_logits"
    scale = kv[1].numpy()[:, None]
    same = tensor.with_scale(scale)
    need = reference.mqa_logits(
        q,
        type(same)(kv[0].view(torch.uint8).numpy(), "float8_e4m3fn", scale, tensor.scaling),
        weights,
        STARTS,
        ENDS,
        arithmetic=arithmetic,
    )
    assert_bitwise_equal(logits, need)
    assert torch.isneginf(logits[~visible()]).all()
    values = kv[0].float() * kv[1][:, None]
    assert calc_diff(logits[visible()], plain_logits(q.float(), values, weights)[visible()]) < 1e-4


def test_rows_start_at_multiples_of_1024_bytes() -> None:
    q, kv, weights, _ = fp8_operands()
    logits = deep_gemm.fp8_mqa_logits(q, kv, weights, STARTS, ENDS)
    assert logits.shape == (TOKENS, KEYS) and logits.stride() == (512, 1)


def test_compressed_logits_start_at_their_own_first_key() -> None:
    q, kv, weights, _ = fp8_operands()
    whole = deep_gemm.fp8_mqa_logits(q, kv, weights, STARTS, ENDS)
    short = deep_gemm.fp8_mqa_logits(q, kv, weights, STARTS, ENDS, clean_logits=False, max_seqlen_k=70)
    for row, (start, end) in enumerate(zip(STARTS, ENDS, strict=True)):
        assert_bitwise_equal(short[row, : end - start], whole[row, start:end])


def fp4_operands():
    deep_gemm.configure("sm100")
    q, kv = torch.randn(TOKENS * HEADS, DEPTH).bfloat16(), torch.randn(KEYS, DEPTH).bfloat16()
    made = [deep_gemm.per_token_cast_to_fp4(x, True, 32, use_packed_ue8m0=True) for x in (q, kv)]
    values = [deep_gemm.cast_back_from_fp4(*pair, gran_k=32, use_packed_ue8m0=True) for pair in made]
    query = (made[0][0].view(TOKENS, HEADS, -1), made[0][1].view(TOKENS, HEADS))
    return query, (made[1][0], made[1][1].view(KEYS)), values


def test_fp4_logits_are_those_of_the_values() -> None:
    query, kv, values = fp4_operands()
    weights = torch.randn(TOKENS, HEADS)
    logits = deep_gemm.fp8_fp4_mqa_logits(query, kv, weights, STARTS, ENDS)
    need = plain_logits(values[0].view(TOKENS, HEADS, DEPTH), values[1], weights)
    assert calc_diff(logits[visible()], need[visible()]) < 1e-6


def test_bfloat16_weights_give_bfloat16_logits() -> None:
    query, kv, values = fp4_operands()
    weights = torch.randn(TOKENS, HEADS).bfloat16()
    logits = deep_gemm.fp8_fp4_mqa_logits(query, kv, weights, STARTS, ENDS, logits_dtype=torch.bfloat16)
    need = plain_logits(values[0].view(TOKENS, HEADS, DEPTH), values[1], weights)
    assert logits.dtype == torch.bfloat16
    assert calc_diff(logits[visible()], need[visible()]) < 1e-3
    with pytest.raises(FormatError, match=r"logits_dtype: got torch\.float32, need torch\.bfloat16"):
        deep_gemm.fp8_mqa_logits(*fp8_operands()[:2], weights, STARTS, ENDS)


def test_fp4_queries_need_blackwell() -> None:
    query, kv, _ = fp4_operands()
    deep_gemm.configure("sm90")
    with pytest.raises(UnsupportedError, match="need sm100"):
        deep_gemm.fp8_fp4_mqa_logits(query, kv, torch.randn(TOKENS, HEADS), STARTS, ENDS)


PAGE, BATCH, NEXT = 64, 2, 2


def paged_operands():
    q, (codes, scales), weights, _ = fp8_operands()
    pages = 4
    keys = torch.cat([codes.view(torch.uint8), codes.view(torch.uint8)])[:128].view(2, PAGE * DEPTH)
    cache = torch.zeros(pages, PAGE, 1, DEPTH + 4, dtype=torch.uint8)
    flat = cache.view(pages, -1)
    flat[1:3, : PAGE * DEPTH] = keys
    flat[1:3, PAGE * DEPTH :] = torch.cat([scales, scales])[:128].view(2, PAGE).view(torch.uint8)
    lengths = indices([[69, 70], [0, 3]])
    return q[:4].reshape(BATCH, NEXT, HEADS, DEPTH), cache, weights[:4], lengths, indices([[1, 2], [1, 3]])


def test_paged_logits_are_those_of_the_same_keys_side_by_side() -> None:
    q, cache, weights, lengths, table = paged_operands()
    schedule = deep_gemm.get_paged_mqa_logits_metadata(lengths, PAGE, deep_gemm.get_num_sms())
    logits = deep_gemm.fp8_paged_mqa_logits(q, cache, weights, lengths, table, schedule, 100)
    keys = reference.split_kv_cache(cache.numpy(), DEPTH)
    flat = (
        torch.from_numpy(keys.data[1:3].reshape(128, DEPTH)).view(torch.float8_e4m3fn),
        torch.tensor(keys.scale[1:3].reshape(128)),
    )
    ends = lengths.view(-1)
    need = deep_gemm.fp8_mqa_logits(q.reshape(4, HEADS, DEPTH), flat, weights, torch.zeros_like(ends), ends)
    assert logits.shape == (4, 100) and logits.stride(0) == 256
    for row, end in enumerate(ends):
        assert_bitwise_equal(logits[row, :end], need[row, :end])


def test_a_schedule_for_another_gpu_is_refused() -> None:
    q, cache, weights, lengths, table = paged_operands()
    schedule = deep_gemm.get_paged_mqa_logits_metadata(lengths, PAGE, 8)
    with pytest.raises(ShapeError, match=r"schedule_meta shape: got \[9, 2\]"):
        deep_gemm.fp8_paged_mqa_logits(q, cache, weights, lengths, table, schedule, 100)
    deep_gemm.set_num_sms(8)
    assert deep_gemm.fp8_paged_mqa_logits(q, cache, weights, lengths, table, schedule, 100).shape == (4, 100)
    deep_gemm.set_num_sms(0)


def test_metadata_follows_the_architecture() -> None:
    lengths = indices([[700, 900], [256, 300], [5, 9]])
    for architecture in ("sm90", "sm100"):
        deep_gemm.configure(architecture)
        made = deep_gemm.get_paged_mqa_logits_metadata(lengths, 64, 6)
        need = reference.paged_mqa_metadata(lengths.numpy(), num_sms=6, schedule=architecture)
        assert np.array_equal(made.numpy(), need) and made.dtype == torch.int32
    deep_gemm.configure("sm90")
    with pytest.raises(InputError, match="block_kv: got 32, need 64"):
        deep_gemm.get_paged_mqa_logits_metadata(lengths, 32, 6)


def test_tokens_of_one_sequence_are_for_blackwells_schedule() -> None:
    lengths, sequences = indices([[700], [900], [300]]), indices([0, 0, 1])
    with pytest.raises(UnsupportedError, match=r"indices: got a tensor, on sm90, need None, or .*configure\('sm100'\)"):
        deep_gemm.get_paged_mqa_logits_metadata(lengths, 64, 6, sequences)
    deep_gemm.configure("sm100")
    made = deep_gemm.get_paged_mqa_logits_metadata(lengths, 64, 6, sequences)
    need = reference.paged_mqa_metadata(lengths.numpy(), num_sms=6, schedule="sm100", indices=sequences.numpy())
    assert np.array_equal(made.numpy(), need)
    with pytest.raises(ShapeError, match=r"context_lens shape: got \[3, 2\], need \[tokens, 1\], with indices"):
        deep_gemm.get_paged_mqa_logits_metadata(lengths.repeat(1, 2), 64, 6, sequences)
