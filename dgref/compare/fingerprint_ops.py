"""Arithmetics of ops that hold several products: the one that shows most is taken apart from the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dgref.compare import fingerprint_space as space
from dgref.compare.fingerprint_problems import Logits, Product, Sample, Squares, plain_values, spread
from dgref.compare.fingerprint_search import search
from dgref.compare.inference import Inference, named
from dgref.errors import DgrefError, InputError, counted, expected
from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import Arithmetic
from dgref.reference.engine_operand import as_scaled
from dgref.reference.operands import take, take_columns, take_rows

_TOKENS = {"small": 2, "medium": 8}


def contiguous(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer from the group that has most rows."""
    from dgref.reference.grouped import psum_spans

    m, layout = as_scaled(inputs["a"]).shape[0], np.asarray(inputs["grouped_layout"])
    if inputs["psum"]:
        rows = [np.arange(m)[span] for span in psum_spans(layout, m, inputs["alignment"])]
    else:
        rows = [np.flatnonzero(layout == group) for group in range(as_scaled(inputs["b"]).shape[0])]
    if not any(chosen.size for chosen in rows):
        raise _no_rows()
    group = max(range(len(rows)), key=lambda g: rows[g].size)
    return _group(inputs, arrays, group, rows[group], (architecture, budget))


def masked(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer from the group that has most rows."""
    counts = np.asarray(inputs["masked_m"])
    if not counts.any():
        raise _no_rows()
    group = int(np.argmax(counts))
    inner = {**inputs, "a": take(as_scaled(inputs["a"]), group)}
    outputs = {name: array[group] for name, array in arrays.items()}
    return _group(inner, outputs, group, np.arange(counts[group]), (architecture, budget))


def _no_rows() -> InputError:
    return InputError(expected("groups", "no rows in any", "one group with rows"))


def _group(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], group: int, rows: np.ndarray, how: tuple
) -> Inference:
    """Infer from the rows of one group."""
    a, b = take_rows(as_scaled(inputs["a"]), rows), take(as_scaled(inputs["b"]), group)
    architecture, budget = how
    found = search(Product(a, b, next(iter(arrays.values()))[rows], None, architecture), budget)
    among = "" if rows[-1] - rows[0] < rows.size else f", {rows.size} of them"
    return replace(found, evidence=(f"group {group}, rows {rows[0]}..{rows[-1]}{among}", *found.evidence))


def prenorm(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer the product first, then the order of the squares, of the first part of K; one arithmetic holds both."""
    from dgref.reference.hyperconnection import split_spans

    a, b = as_scaled(inputs["a"]), as_scaled(inputs["b"])
    if inputs["num_splits"] is not None:
        span = split_spans(a.shape[-1], inputs["num_splits"])[0]
        a, b = (take_columns(tensor, span, slice(None)) for tensor in (a, b))
        arrays = {name: array[0] for name, array in arrays.items()}
    d = arrays.get("d", next(iter(arrays.values())))
    found = search(Product(a, b, d, None, architecture), budget)
    if "sqr_sum" not in arrays:
        return found
    squares = search(Squares(a, arrays["sqr_sum"], found.nearest.core), budget)
    both = named(found.nearest.but(lanes=squares.nearest.lanes))
    complete = found.arithmetic is not None and squares.arithmetic is not None
    compared = found.compared + squares.compared
    equal = found.agreement * found.compared + squares.agreement * squares.compared
    return replace(
        found,
        arithmetic=both if complete else None,
        nearest=both,
        agreement=equal / compared,
        compared=compared,
        tried=found.tried + squares.tried,
        seconds=found.seconds + squares.seconds,
        evidence=(*found.evidence, *(f"squares: {line}" for line in squares.evidence)),
    )


def k_grouped(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer from the group that has most of K."""
    from dgref.reference.grouped import k_spans, scale_spans

    a, b = as_scaled(inputs["a"]), as_scaled(inputs["b"])
    spans = list(k_spans(inputs["grouped_layout"], a.shape[-1], inputs["psum"], inputs["alignment"]))
    if not any(span.stop > span.start for span in spans):
        raise InputError(expected("groups", "no K in any", "one group with some of K"))
    group = max(range(len(spans)), key=lambda g: spans[g].stop - spans[g].start)
    parts = [take_columns(t, spans[group], scale_spans(t, spans, n)[group]) for t, n in ((a, "a"), (b, "b"))]
    c = inputs.get("c")
    start = None if c is None else plain_values(c)[group]
    found = search(Product(*parts, next(iter(arrays.values()))[group], start, architecture), budget)
    return replace(found, evidence=(f"group {group}, K {spans[group].start}..{spans[group].stop - 1}", *found.evidence))


def einsum(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer from the first of the products that an expression stands for."""
    from dgref.reference.einsum import as_products

    a, b, natural = as_products(inputs["expression"], inputs["a"], inputs["b"])
    d, c = natural(next(iter(arrays.values()))), inputs.get("c")
    start = None if c is None else natural(plain_values(c))
    if len(a.shape) == 3:
        a, d, start = take(a, 0), d[0], None if start is None else start[0]
        b = take(b, 0) if len(b.shape) == 3 else b
    return search(Product(a, b, d, start, architecture), budget)


def paged_logits(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer from the sequence that sees most keys, its pages gathered."""
    from dgref.reference.attention import keys_of, keys_seen

    q, logits = as_scaled(inputs["q"]), next(iter(arrays.values()))
    batch, tokens = q.shape[:2]
    seen = keys_seen(inputs["context_lens"], batch, tokens, logits.shape[-1])
    sequence = int(np.argmax(seen.max(axis=1, initial=0))) if seen.size else 0
    longest = int(seen[sequence].max(initial=0)) if seen.size else 0
    if not longest:
        raise InputError(expected("logits", "no visible key in any row", "at least one"))
    rows = slice(sequence * tokens, (sequence + 1) * tokens)
    parts = {
        "q": take(q, sequence),
        "kv": keys_of(as_scaled(inputs["kv_cache"]), np.asarray(inputs["block_table"])[sequence], longest, sequence),
        "weights": plain_values(inputs["weights"])[rows],
        "ends": seen[sequence],
    }
    found = search(Logits(parts, logits[rows, :longest], architecture), budget)
    return replace(found, evidence=(f"sequence {sequence}, {counted(longest, 'key')}", *found.evidence))


def expert_layer(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer both linear layers at once, from the layer's output."""
    found = search(Layer(inputs, arrays.get("y", next(iter(arrays.values()))), architecture), budget)
    note = "linear 1 and 2 as one: rounding the activation hides from the output most of what tells linear 1 apart"
    return replace(found, evidence=(note, *found.evidence))


class Layer:
    """A fused expert layer, recomputed whole for some of its tokens."""

    def __init__(self, inputs: Mapping[str, Any], y: np.ndarray, architecture: str | None = None):
        self.inputs, self.y, self.architecture = dict(inputs), y, architecture
        self.x, self.weight = as_scaled(inputs["x"]), as_scaled(inputs["l1_weights"])
        self.k = self.x.shape[-1]

    def presets(self) -> list[Arithmetic]:
        return space.presets(self.x, self.weight, self.architecture)

    def plans(self) -> list[Arithmetic]:
        return space.plans(self.x, self.weight, self.architecture)

    def endings(self, plan: Arithmetic) -> Iterator[Arithmetic]:
        return iter(())

    def splits(self, plan: Arithmetic) -> Iterator[Arithmetic]:
        return space.splits(plan, self.k)

    def _tokens(self, sample: Sample) -> np.ndarray:
        extent = self.y.shape[1]
        return spread(extent, _TOKENS.get(sample, extent))

    def observed(self, sample: Sample) -> np.ndarray:
        return self.y[:, self._tokens(sample)]

    def computed(self, arithmetic: Arithmetic, sample: Sample) -> np.ndarray:
        from dgref.reference import mega_moe

        chosen = {name: _at(self.inputs[name], self._tokens(sample)) for name in ("x", "topk_idx", "topk_weights")}
        weights = {name: self.inputs[name] for name in ("l1_weights", "l2_weights")}
        options = {name: self.inputs[name] for name in ("activation_clamp", "granularity")}
        try:
            return mega_moe(**chosen, **weights, **options, arithmetic=arithmetic)["y"]
        except DgrefError as error:  # the two layers have scales of different blocks: not every arithmetic fits both
            raise InputError(str(error)) from None


def _at(operand: Any, tokens: np.ndarray) -> Any:
    """Return an operand of [ranks, tokens, ...] for some tokens."""
    if not isinstance(operand, ScaledTensor):
        return np.asarray(operand)[:, tokens]
    scale = None if operand.scale is None else to_numpy(operand.scale)[:, tokens]
    return replace(operand, data=to_numpy(operand.data)[:, tokens], scale=scale)
