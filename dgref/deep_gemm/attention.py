"""Indexer logits, on contiguous and on paged keys, and the schedule of the paged kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dgref import reference
from dgref.annotations import explained
from dgref.deep_gemm.arguments import Matrix, PagedQuery, Query, ScaledKeys, Stack, Stacks, Vector
from dgref.deep_gemm.operands import (
    FP4,
    FP8,
    OUTPUTS,
    UE8M0,
    check_shape,
    integers,
    no_kernel,
    pair,
    payload,
    unpacked,
)
from dgref.deep_gemm.settings import MOST_SMS, SETTINGS, get_num_sms, is_blackwell
from dgref.errors import FormatError, InputError, ShapeError, UnsupportedError, expected, whole_number
from dgref.formats.native import like, to_numpy
from dgref.formats.scaling import FULL, Scaling
from dgref.formats.tensor import ScaledTensor

_KEYS_AT_ONCE = 256  # kernels write whole units of keys, so rows are this much longer than they look
_LONGEST = 1 << 31  # keys that an int32 of context_lens can count
_ROW_BYTES = 1024  # and start at multiples of this
_OR_NONE = "scales or None"  # beside a query


@explained
def fp8_fp4_mqa_logits(
    q: Query,
    kv: ScaledKeys,
    weights: Matrix,
    cu_seq_len_k_start: Vector,
    cu_seq_len_k_end: Vector,
    clean_logits: bool = True,
    max_seqlen_k: int = 0,
    logits_dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Return logits[s, t] = sum over h of weights[s, h] * relu(q[s, h] . kv[t]) for the keys that each row sees.

    `q` is (tensor, None) in FP8 or (tensor, words) in FP4, `kv` (tensor, scales). Outside its keys a row is -inf;
    without `clean_logits` nothing is promised there. With `max_seqlen_k`, row s starts at its own first key.
    """
    (q, q_scale), (keys, key_scale) = pair("q", q, _OR_NONE), pair("kv", kv)
    if q.is_cuda:
        raise no_kernel()
    tokens = (q.shape[0],)
    result = reference.mqa_logits(
        _query(q, q_scale, 3),
        _contiguous_keys(keys, key_scale, q_scale is not None),
        to_numpy(weights),
        integers("cu_seq_len_k_start", cu_seq_len_k_start, tokens),
        integers("cu_seq_len_k_end", cu_seq_len_k_end, tokens),
        clean=clean_logits,
        max_seqlen_k=max_seqlen_k,
        arithmetic=_arithmetic(q_scale, weights, logits_dtype),
        out=_logits_format(logits_dtype),
    )
    spare = 0 if max_seqlen_k else _KEYS_AT_ONCE
    return _strided(result, q, result.shape[1] + spare)


@explained
def fp8_mqa_logits(
    q: Stack,
    kv: ScaledKeys,
    weights: Matrix,
    cu_seq_len_k_start: Vector,
    cu_seq_len_k_end: Vector,
    clean_logits: bool = True,
    max_seqlen_k: int = 0,
) -> torch.Tensor:
    """Return the float32 logits of `fp8_fp4_mqa_logits` for FP8 queries."""
    return fp8_fp4_mqa_logits(
        (q, None), kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, clean_logits, max_seqlen_k, torch.float32
    )


@explained
def get_paged_mqa_logits_metadata(
    context_lens: Matrix, block_kv: int, num_sms: int, indices: Vector | None = None
) -> torch.Tensor:
    """Return int32 [num_sms + 1, 2]: where each multiprocessor starts, as (query, unit of 256 keys).

    `context_lens` is [batch, next_n]; with `indices`, tokens of equal index are one sequence (Blackwell, next_n 1).
    """
    blackwell = is_blackwell(context_lens)
    pages = (32, 64) if blackwell else (64,)
    if block_kv not in pages:
        raise InputError(expected("block_kv", block_kv, " or ".join(map(str, pages))))
    if context_lens.is_cuda:
        raise no_kernel()
    lengths, num_sms = integers("context_lens", context_lens), whole_number("num_sms", num_sms, 1, MOST_SMS)
    groups = None if indices is None else _sequences(indices, context_lens)
    schedule = "sm100" if blackwell else "sm90"
    made = reference.paged_mqa_metadata(lengths, num_sms=num_sms, schedule=schedule, indices=groups)
    return torch.from_numpy(made)


@explained
def fp8_fp4_paged_mqa_logits(
    q: PagedQuery,
    kv_cache: Stacks,
    weights: Matrix,
    context_lens: Matrix,
    block_table: Matrix,
    schedule_meta: Matrix,
    max_context_len: int,
    clean_logits: bool = False,
    logits_dtype: torch.dtype = torch.float32,
    indices: Vector | None = None,
) -> torch.Tensor:
    """Return the logits of q[batch, next_n, h, d] over each sequence's pages of a fused key cache.

    `kv_cache` is uint8 [pages, page, 1, bytes]: in each page all payloads, then all scales. `context_lens` [batch,
    next_n] says how many keys each token sees; past them nothing is promised. `schedule_meta` is checked, not needed.
    """
    q, q_scale = pair("q", q, _OR_NONE)
    if q.is_cuda:
        raise no_kernel()
    if clean_logits:
        raise InputError(expected("clean_logits", True, "False: context_lens of two axes are never cleaned"))
    whole_number("max_context_len", max_context_len, 0, _LONGEST)
    check_shape("schedule_meta", schedule_meta, (get_num_sms() + 1, 2), "get_paged_mqa_logits_metadata makes it")
    for name, tensor in (("schedule_meta", schedule_meta), ("block_table", block_table)):
        if tensor.dtype != torch.int32:
            raise FormatError(expected(name, tensor.dtype, "torch.int32"))
    if indices is not None:
        _sequences(indices, context_lens)
    format = FP8 if q_scale is None else FP4
    query = _query(q, q_scale, 4)
    result = reference.paged_mqa_logits(
        query,
        reference.split_kv_cache(to_numpy(kv_cache), query.shape[-1], format),
        to_numpy(weights),
        integers("context_lens", context_lens, tuple(q.shape[:2])),
        to_numpy(block_table),
        max_context_len=max_context_len,
        arithmetic=_arithmetic(q_scale, weights, logits_dtype),
        out=_logits_format(logits_dtype),
    )
    return _strided(result, q, -(-max_context_len // _KEYS_AT_ONCE) * _KEYS_AT_ONCE)


@explained
def fp8_paged_mqa_logits(
    q: Stacks,
    kv_cache: Stacks,
    weights: Matrix,
    context_lens: Matrix,
    block_table: Matrix,
    schedule_meta: Matrix,
    max_context_len: int,
    clean_logits: bool = False,
    indices: Vector | None = None,
) -> torch.Tensor:
    """Return the float32 logits of `fp8_fp4_paged_mqa_logits` for FP8 queries."""
    tables = (context_lens, block_table, schedule_meta, max_context_len, clean_logits)
    return fp8_fp4_paged_mqa_logits((q, None), kv_cache, weights, *tables, torch.float32, indices)


def _sequences(indices: torch.Tensor, context_lens: torch.Tensor) -> np.ndarray:
    """Return which sequence each token belongs to: only schedules for Blackwell, one token a row, know them."""
    if not is_blackwell(context_lens):
        need = "None, or dgref.deep_gemm.configure('sm100'): only Blackwell's schedule knows them"
        raise UnsupportedError(expected("indices", "a tensor, on sm90", need))
    if context_lens.shape[1] != 1:
        raise ShapeError(expected("context_lens shape", list(context_lens.shape), "[tokens, 1], with indices"))
    return integers("indices", indices, (context_lens.shape[0],))


def _arithmetic(q_scale: Any, weights: torch.Tensor, dtype: torch.dtype) -> Any:
    if weights.dtype not in OUTPUTS:
        raise FormatError(expected("weights", weights.dtype, "torch.float32, or torch.bfloat16 as the logits"))
    if q_scale is not None:
        return SETTINGS.arithmetic_of("mqa_logits_fp4")
    if weights.dtype == torch.bfloat16:
        if dtype != torch.bfloat16:
            raise FormatError(expected("logits_dtype", dtype, "torch.bfloat16, as the weights"))
        return SETTINGS.arithmetic_of("mqa_logits_bf16")
    return SETTINGS.arithmetic_of("mqa_logits")


def _logits_format(dtype: torch.dtype) -> str:
    if dtype not in OUTPUTS:
        raise FormatError(expected("logits_dtype", dtype, " or ".join(map(str, OUTPUTS))))
    return OUTPUTS[dtype]


def _query(q: torch.Tensor, scale: torch.Tensor | None, axes: int) -> ScaledTensor:
    if scale is None:
        return payload("q", q, (FP8,), axes)
    return _fp4("q", payload("q", q.contiguous(), (FP4,), axes), scale)


def _contiguous_keys(keys: torch.Tensor, scale: torch.Tensor, fp4: bool) -> ScaledTensor:
    if fp4:
        return _fp4("kv", payload("kv", keys, (FP4,)), scale)
    if scale.dtype != torch.float32:
        raise FormatError(expected("kv scales", scale.dtype, "torch.float32"))
    check_shape("kv scales", scale, (keys.shape[0],), "one for each key")
    return replace(payload("kv", keys, (FP8,)), scale=to_numpy(scale)[:, None], scaling=Scaling((1, FULL)))


def _fp4(name: str, plain: ScaledTensor, words: torch.Tensor) -> ScaledTensor:
    """Return FP4 codes with one int32 word for each vector: a UE8M0 byte for 32 elements."""
    check_shape(f"{name} scales", words, plain.shape[:-1], "one word for each vector")
    grid = (*plain.shape[:-1], plain.shape[-1] // 32)
    codes = unpacked(f"{name} scales", words[..., None], grid, (1, 32))
    return replace(plain, scale=codes, scaling=Scaling((1, 32), UE8M0))


def _strided(result: np.ndarray, q: torch.Tensor, columns: int) -> torch.Tensor:
    """Return logits as a view of rows that start at multiples of 1024 bytes, as kernels allocate them."""
    fresh = like(result, q)
    unit = _ROW_BYTES // fresh.element_size()
    held = torch.empty(result.shape[0], -(-columns // unit) * unit, dtype=fresh.dtype)
    view = held[:, : result.shape[1]]
    return view.copy_(fresh)
