"""Rows of indexer logits, and how ranges of keys, context lengths and block tables are made.

`keys` picks the ranges: `causal` (each row sees one key more than the row before), `ragged` (random), `full`, `empty`
(every other row sees nothing) or `none`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dgref.formats import ScaledTensor
from dgref.ops.op import Op
from dgref.ops.part import Part, Sampler
from dgref.ops.problem import Constraint, Inputs, Operand, Param, Problem
from dgref.reference.attention import key_spans, keys_seen, mqa_logits, paged_mqa_logits
from dgref.reference.operands import take
from dgref.reference.paging import SCHEDULES, paged_mqa_metadata

Q_FORMATS = ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "bfloat16")
LOGITS = ("float32", "bfloat16")
RANGES = ("ragged", "causal", "full", "empty", "none")
ranges = Param("keys", "ragged", "which keys each row sees", RANGES, shapes_inputs_only=True)
head_weights = {"kind": "plain", "formats": ("float32", "bfloat16"), "default": lambda p: "float32"}


def make_lengths(p: Problem, name: str, count: int, limit: int) -> np.ndarray:
    """Return how many keys each of `count` rows sees, at most `limit`."""
    drawn = p.stream(name).integers(0, limit + 1, (count,))
    order = np.arange(count)
    made = {
        "ragged": drawn,
        "causal": np.maximum(limit - count + 1 + order, 0),
        "full": np.full(count, limit),
        "empty": np.where(order % 2 == 0, 0, drawn),
        "none": np.zeros(count, np.int64),
    }
    return np.minimum(made[p["keys"]], limit).astype(np.int32)


def make_starts(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return the first key of each row: 0, or anywhere for ragged ranges."""
    if p["keys"] in ("causal", "full"):
        return np.zeros(p["s"], np.int32)
    return p.stream("starts").integers(0, p["t"] // 2 + 1, (p["s"],)).astype(np.int32)


def make_ends(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return the key after the last of each row."""
    starts = np.asarray(inputs["starts"])
    limit = min(p["t"], p["max_seqlen_k"] or p["t"])
    return np.minimum(starts + make_lengths(p, "ends", p["s"], limit), p["t"]).astype(np.int32)


def _visible(p: Problem, inputs: Inputs) -> int:
    return sum(span.stop - span.start for span in key_spans(inputs["starts"], inputs["ends"], p["t"]))


def _outside(p: Problem, inputs: Inputs) -> dict[str, np.ndarray]:
    if p["clean"]:
        return {}
    undefined = np.ones((p["s"], p["columns"]), bool)
    for row, span in enumerate(key_spans(inputs["starts"], inputs["ends"], p["t"])):
        first = 0 if p["max_seqlen_k"] else span.start
        undefined[row, first : first + span.stop - span.start] = False
    return {"logits": undefined}


def _cut_rows(p: Problem, inputs: Inputs, part: Part) -> dict[str, Any]:
    ranges = {name: np.asarray(inputs[name])[part.rows] for name in ("starts", "ends")}
    return {**ranges, **{name: take(inputs[name], part.rows) for name in ("q", "weights")}}


MQA_LOGITS = Op(
    name="mqa_logits",
    summary="indexer logits: weighted sum over heads of ReLU scores, each row on its own range of keys",
    equation="logits[s,t] = sum_h weights[s,h] * max(sum_d q[s,h,d] * kv[t,d], 0) for starts[s] <= t < ends[s]",
    axes="s h d t",
    inputs=(
        Operand("q", "s h d", formats=Q_FORMATS, default=lambda p: "float8_e4m3fn", meaning="queries of every head"),
        Operand("kv", "t d", formats=Q_FORMATS, default=lambda p: "per_row_fp8", meaning="keys, shared by all heads"),
        Operand("weights", "s h", meaning="of each head, the scale of its query included", **head_weights),
        Operand("starts", "s", "index", meaning="first key of each row", make=make_starts),
        Operand("ends", "s", "index", meaning="key after the last of each row", make=make_ends),
    ),
    outputs=(Operand("logits", "s columns", "plain", LOGITS, touched=_visible),),
    reference=mqa_logits,
    multiply_adds=lambda p, inputs: _visible(p, inputs) * p["h"] * (p["d"] + 1),
    params=(
        Param("clean", True, "elements outside the range are set to -inf"),
        Param("max_seqlen_k", 0, "compressed logits: this many columns, each row from its own start"),
        ranges,
    ),
    constraints=(
        Constraint("max_seqlen_k", "at least 0", lambda p: p["max_seqlen_k"] >= 0),
        Constraint(
            "max_seqlen_k, clean",
            "clean = false for compressed logits",
            lambda p: not (p["max_seqlen_k"] and p["clean"]),
        ),
    ),
    derived={"columns": lambda p: p["max_seqlen_k"] or p["t"]},
    out_formats=LOGITS,
    undefined=_outside,
    sampler=Sampler(("s", None), _cut_rows, lambda p, name, array, part: array[part.rows]),
    notes="FP8 keys have one float32 scale each; FP4 queries and keys one UE8M0 scale for 32 elements. Outside the "
    "range a row holds -inf, or nothing defined without `clean`.",
)


def _blocks(p: Problem) -> int:
    return -(-p["max_context_len"] // p["page"])


def make_context(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return how many keys each token sees, or how long each sequence is; the last token sees the whole of it."""
    whole = make_lengths(p, "context_lens", p["batch"], p["max_context_len"])
    if not p["per_token"]:
        return whole
    seen = p.stream("context_lens/tokens").integers(0, 1 << 16, (p["batch"], p["next_n"])) * (whole[:, None] + 1) >> 16
    seen[:, -1:] = whole[:, None]
    return seen.astype(np.int32)


def make_table(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return the pages of each sequence: every page is used once, in a shuffled order."""
    order = np.argsort(p.stream("block_table").words(p["pages"]), kind="stable")
    return order.astype(np.int32).reshape(p["batch"], _blocks(p))


def fill_cache(p: Problem, recipe: str, inputs: Inputs) -> ScaledTensor:
    """Return the key cache, quantised key by key."""
    flat = p.generate("kv_cache", (p["pages"] * p["page"], p["d"]), recipe)
    shape = (p["pages"], p["page"])
    scale = None if flat.scale is None else flat.scale.reshape(*shape, flat.scale.shape[-1])
    return replace(flat, data=flat.data.reshape(*shape, p["d"]), scale=scale)


def _seen(p: Problem, inputs: Inputs) -> np.ndarray:
    return keys_seen(inputs["context_lens"], p["batch"], p["next_n"], p["max_context_len"])


def _pages_in_use(p: Problem, inputs: Inputs) -> int:
    longest = _seen(p, inputs).max(axis=1, initial=0)
    return int(longest.sum())


def _past_context(p: Problem, inputs: Inputs) -> dict[str, np.ndarray]:
    if p["clean"]:
        return {}
    return {"logits": np.arange(p["max_context_len"]) >= _seen(p, inputs).reshape(-1, 1)}


PAGED_MQA_LOGITS = Op(
    name="paged_mqa_logits",
    summary="indexer logits on a paged key cache, for next_n tokens of every sequence",
    equation="logits[b*next_n+n,t] = sum_h weights[b*next_n+n,h] * max(sum_d q[b,n,h,d] * key(b,t)[d], 0), "
    "key(b,t) = kv_cache[block_table[b, t // page], t % page]",
    axes="batch next_n h d page max_context_len",
    inputs=(
        Operand("q", "batch next_n h d", formats=Q_FORMATS, default=lambda p: "float8_e4m3fn"),
        Operand(
            "kv_cache",
            "pages page d",
            formats=Q_FORMATS,
            default=lambda p: "per_row_fp8",
            fill=fill_cache,
            touched=lambda p, inputs: _pages_in_use(p, inputs) * p["d"],
        ),
        Operand("weights", "rows h", **head_weights),
        Operand(
            "context_lens",
            lambda p: "batch next_n" if p["per_token"] else "batch",
            "index",
            meaning="keys that each token sees, or length of each sequence",
            make=make_context,
        ),
        Operand("block_table", "batch blocks", "index", meaning="pages of each sequence", make=make_table),
    ),
    outputs=(
        Operand(
            "logits",
            "rows max_context_len",
            "plain",
            LOGITS,
            touched=lambda p, inputs: int(_seen(p, inputs).sum()),
        ),
    ),
    reference=paged_mqa_logits,
    multiply_adds=lambda p, inputs: int(_seen(p, inputs).sum()) * p["h"] * (p["d"] + 1),
    params=(
        Param("clean", False, "elements past the context are set to -inf"),
        Param("per_token", True, "context_lens is [batch, next_n], not [batch]", shapes_inputs_only=True),
        ranges,
    ),
    constraints=(
        Constraint("page", "at least 1", lambda p: p["page"] >= 1),
        Constraint("next_n", "at least 1", lambda p: p["next_n"] >= 1),
    ),
    derived={
        "blocks": lambda p: _blocks(p) if p["page"] else 0,
        "pages": lambda p: p["batch"] * p["blocks"],
        "rows": lambda p: p["batch"] * p["next_n"],
    },
    out_formats=LOGITS,
    undefined=_past_context,
    extents_as_options=("max_context_len",),
    notes="With `context_lens` [batch], token n of next_n sees all but the last next_n - 1 - n keys.",
)

PAGED_MQA_METADATA = Op(
    name="paged_mqa_metadata",
    summary="how the paged logits kernel shares out its work: where each SM starts",
    equation="schedule[i] = (query, unit of 256 keys) of the first unit of SM i; work is split evenly in units",
    axes="batch next_n max_context_len num_sms",
    inputs=(
        Operand("context_lens", "batch next_n", "index", meaning="keys that each token sees", make=make_context),
        Operand(
            "indices",
            "batch",
            "index",
            when=lambda p: p["ragged"],
            meaning="the sequence that each token belongs to, ascending",
            make=lambda p, inputs: np.sort(
                p.stream("indices").integers(0, max(p["batch"] // 2, 1), (p["batch"],))
            ).astype(np.int32),
        ),
    ),
    outputs=(Operand("schedule", "starts two", "index"),),
    reference=paged_mqa_metadata,
    multiply_adds=lambda p, inputs: 0,
    params=(
        Param("schedule", "sm90", "whose rule", SCHEDULES),
        Param("ragged", False, "tokens of equal index are one sequence; next_n is 1", shapes_inputs_only=True),
        Param("per_token", True, "context_lens is [batch, next_n]", (True,), shapes_inputs_only=True),
        ranges,
    ),
    constraints=(
        Constraint("num_sms", "at least 1", lambda p: p["num_sms"] >= 1),
        Constraint("next_n", "at least 1", lambda p: p["next_n"] >= 1),
        Constraint("ragged, next_n", "next_n = 1 where ragged", lambda p: not p["ragged"] or p["next_n"] == 1),
    ),
    derived={"starts": lambda p: p["num_sms"] + 1, "two": lambda p: 2},
    takes_arithmetic=False,
    extents_as_options=("num_sms",),
    told={"max_context_len": lambda p, inputs: int(inputs["context_lens"].max(initial=0))},
    notes="A sequence is as long as its last token sees.",
)
ROWS = (MQA_LOGITS, PAGED_MQA_LOGITS, PAGED_MQA_METADATA)
