"""Arithmetics of ops that hold several products: the one that shows most is taken apart from the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dgref.compare import fingerprint_space as space
from dgref.compare.fingerprint_problems import Product, Sample, spread
from dgref.compare.fingerprint_search import search
from dgref.compare.inference import Inference
from dgref.errors import DgrefError, InputError, expected
from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import Arithmetic
from dgref.reference.engine_operand import as_scaled
from dgref.reference.operands import take, take_columns

_TOKENS = {"small": 2, "medium": 8}


def k_grouped(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer from the group that has most of K."""
    from dgref.reference.grouped import k_spans, scale_spans

    a, b = as_scaled(inputs["a"]), as_scaled(inputs["b"])
    layout = np.asarray(inputs["grouped_layout"])
    spans = list(k_spans(layout, a.shape[-1], inputs.get("psum", False), inputs.get("alignment", 128)))
    if not any(span.stop > span.start for span in spans):
        raise InputError(expected("groups", "no K in any", "one group with some of K"))
    group = max(range(len(spans)), key=lambda g: spans[g].stop - spans[g].start)
    parts = [take_columns(t, spans[group], scale_spans(t, spans, n)[group]) for t, n in ((a, "a"), (b, "b"))]
    c = inputs.get("c")
    start = None if c is None else _values(c)[group]
    found = search(Product(*parts, next(iter(arrays.values()))[group], start, architecture), budget)
    return replace(found, evidence=(f"group {group}, K {spans[group].start}..{spans[group].stop - 1}", *found.evidence))


def einsum(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer from the first of the products that an expression stands for."""
    from dgref.reference.einsum import as_products

    if "expression" not in inputs:
        raise InputError(expected("expression", "none", "the expression of the case, such as 'bhr,hdr->bhd'"))
    a, b, natural = as_products(inputs["expression"], inputs["a"], inputs["b"])
    d, c = natural(next(iter(arrays.values()))), inputs.get("c")
    start = None if c is None else natural(_values(c))
    if len(a.shape) == 3:
        a, d, start = take(a, 0), d[0], None if start is None else start[0]
        b = take(b, 0) if len(b.shape) == 3 else b
    return search(Product(a, b, d, start, architecture), budget)


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
        options = {name: self.inputs[name] for name in ("activation_clamp", "granularity") if name in self.inputs}
        try:
            return mega_moe(**chosen, **weights, **options, arithmetic=arithmetic)["y"]
        except DgrefError as error:  # the two layers have scales of different blocks: not every arithmetic fits both
            raise InputError(str(error)) from None


def _values(c: Any) -> np.ndarray:
    return np.asarray(to_numpy(as_scaled(c).values(), "c"), np.float32)


def _at(operand: Any, tokens: np.ndarray) -> Any:
    """Return an operand of [ranks, tokens, ...] for some tokens."""
    if not isinstance(operand, ScaledTensor):
        return np.asarray(operand)[:, tokens]
    scale = None if operand.scale is None else to_numpy(operand.scale)[:, tokens]
    return replace(operand, data=to_numpy(operand.data)[:, tokens], scale=scale)
