"""Lightning-indexer logits: weighted sums over heads of ReLU scores, on contiguous keys or on a paged key cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dgref.errors import InputError, ShapeError, counted, expected, flag, whole_number
from dgref.formats.tensor import ScaledTensor
from dgref.reference.dispatch import EXACT, allocated, bounding, product, resolve, rounded
from dgref.reference.operands import as_rows, bind, integers, operation, scaled, take, take_rows, values

SCORES_AT_ONCE = 1 << 24  # float32 scores held at a time


@operation
def mqa_logits(
    q: Any,
    kv: Any,
    weights: Any,
    starts: Any,
    ends: Any,
    *,
    clean: bool = True,
    max_seqlen_k: int = 0,
    arithmetic: Any = EXACT,
    out: str = "float32",
) -> np.ndarray:
    """Return sum over h of weights[i, h] * relu(q[i, h] . kv[j]) for starts[i] <= j < ends[i], and -Inf elsewhere.

    `max_seqlen_k` > 0 asks for compressed logits: row i then holds keys starts[i] .. ends[i] from its first column on,
    and has max_seqlen_k columns. Without `clean`, kernels leave the elements outside the range unwritten.
    """
    q, kv, weights = scaled(q, "q"), scaled(kv, "kv"), values(weights, "weights")
    shapes = {"q": ("s h d", q), "kv": ("t d", kv), "weights": ("s h", weights), "starts": ("s", starts)}
    extents = bind({**shapes, "ends": ("s", ends)})
    if whole_number("max_seqlen_k", max_seqlen_k, 0) and flag("clean", clean):
        raise InputError(expected("clean", "True with max_seqlen_k", "False: compressed logits are never cleaned"))
    keys = extents["t"]
    spans = key_spans(starts, ends, keys)
    width = max_seqlen_k or keys
    longest = max((span.stop - span.start for span in spans), default=0)
    if longest > width:
        raise ShapeError(expected("max_seqlen_k", max_seqlen_k, f">= {longest}, the longest range of keys"))
    logits = allocated((extents["s"], width), out, -np.inf)
    scores = _weighted_scores(q, kv, weights, arithmetic, out) if longest else None
    for row, span in enumerate(spans):
        first = 0 if max_seqlen_k else span.start
        if span.stop > span.start:
            logits[row, first : first + span.stop - span.start] = scores[row, span]
    return logits


def key_spans(starts: Any, ends: Any, keys: int) -> list[slice]:
    """Return the keys that each row sees, clipped to those there are; an end before its start sees none."""
    first = np.clip(integers(starts, "starts"), 0, keys)
    last = np.clip(integers(ends, "ends"), 0, keys)
    return [slice(int(i), int(max(i, j))) for i, j in zip(first, last, strict=True)]


@operation
def paged_mqa_logits(
    q: Any,
    kv_cache: Any,
    weights: Any,
    context_lens: Any,
    block_table: Any,
    *,
    max_context_len: int,
    clean: bool = False,
    arithmetic: Any = EXACT,
    out: str = "float32",
) -> np.ndarray:
    """Return the logits of q[batch, next_n, heads, d] over each sequence's own pages of kv_cache[pages, page, d].

    `context_lens` [batch, next_n] says how many keys each token sees; [batch] says how long each sequence is, and token
    n of next_n then sees all but the last next_n - 1 - n. Elements past that are -Inf; without `clean`, unwritten.
    """
    q, cache, weights = scaled(q, "q"), scaled(kv_cache, "kv_cache"), values(weights, "weights")
    shapes = {"q": ("b n h d", q), "kv_cache": ("pages page d", cache), "block_table": ("b blocks", block_table)}
    extents = bind(shapes)
    _check_rows(weights, extents)
    max_context_len = whole_number("max_context_len", max_context_len, 0)
    seen = keys_seen(context_lens, extents["b"], extents["n"], max_context_len)
    table = integers(block_table, "block_table")
    logits = allocated((extents["b"] * extents["n"], max_context_len), out, -np.inf)
    for sequence in range(extents["b"]):
        longest = int(seen[sequence].max(initial=0))
        if longest == 0:
            continue
        keys = keys_of(cache, table[sequence], longest, sequence)
        rows = slice(sequence * extents["n"], (sequence + 1) * extents["n"])
        scores = _weighted_scores(take(q, sequence), keys, weights[rows], arithmetic, out)
        for row, count in enumerate(seen[sequence]):
            logits[rows][row, :count] = scores[row, :count]
    return logits


def _check_rows(weights: np.ndarray, extents: dict[str, int]) -> None:
    need = (extents["b"] * extents["n"], extents["h"])
    if weights.shape != need:
        raise ShapeError(expected("weights shape", list(weights.shape), f"{list(need)}: [batch * next_n, heads]"))


def keys_seen(context_lens: Any, batch: int, next_n: int, limit: int) -> np.ndarray:
    """Return how many keys each of the [batch, next_n] tokens sees."""
    lengths = integers(context_lens, "context_lens", 0, limit)
    if lengths.shape == (batch, next_n):
        return lengths
    if lengths.shape == (batch,):
        return np.maximum(lengths[:, None] - next_n + 1 + np.arange(next_n), 0)
    raise ShapeError(expected("context_lens shape", list(lengths.shape), f"[{batch}] or [{batch}, {next_n}]"))


def keys_of(cache: ScaledTensor, pages: np.ndarray, count: int, sequence: int) -> ScaledTensor:
    """Return the first `count` keys of a sequence as one [count, d] tensor."""
    total, page, _ = cache.shape
    if page == 0:
        raise ShapeError(expected("kv_cache shape", list(cache.shape), "at least one key a page"))
    used = pages[: -(-count // page)]
    if len(used) * page < count:
        raise ShapeError(
            expected(
                f"block_table[{sequence}]",
                f"{counted(len(pages), 'page')} of {page}",
                f"enough for {counted(count, 'key')}",
            )
        )
    integers(used, f"block_table[{sequence}]", 0, total - 1)
    joined = replace(cache, data=cache.data[used], scale=None if cache.scale is None else cache.scale[used])
    return take_rows(as_rows(joined), slice(0, count))


def _weighted_scores(q: ScaledTensor, kv: ScaledTensor, weights: np.ndarray, arithmetic: Any, out: str) -> np.ndarray:
    """Return the [s, t] sums over heads, rounded to `out`; scores of all heads exist for a few tokens at a time."""
    model = resolve(arithmetic)
    if model is None:
        from dgref.reference.exact import exact_weighted_relu_sum

        return exact_weighted_relu_sum(q, kv, weights, out=out)
    from dgref.reference.reduction_bounds import logit_limits
    from dgref.reference.reductions import mqa_reduce

    kv, key_scale = _scale_of_keys(kv)
    tokens, heads, _ = q.shape
    logits = allocated((tokens, kv.shape[0]), out)
    if 0 in (*q.shape, *kv.shape):
        return logits
    step = max(SCORES_AT_ONCE // max(heads * kv.shape[0], 1), 1)
    for start in range(0, tokens, step):
        part = slice(start, start + step)
        scores = product(as_rows(take(q, part)), kv, arithmetic=model).reshape(-1, heads, kv.shape[0])
        if bounding():
            logits[part] = logit_limits(scores, weights[part], key_scale, out, model.lanes.precision)
            continue
        logits[part] = rounded(mqa_reduce(scores, weights[part], key_scale, model), out, model.output_rounding)
    return logits


def _scale_of_keys(kv: ScaledTensor) -> tuple[ScaledTensor, np.ndarray | None]:
    """Split a scale that a whole key shares from its payload: kernels apply it after the sum over heads."""
    if kv.scale is None or kv.scale.shape[-1] != 1 or kv.scaling.scale_format != "float32":
        return kv, None
    return replace(kv, scale=None, scaling=None), np.asarray(kv.scale[:, 0], np.float32)
