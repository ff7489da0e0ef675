"""What goes wrong between the scores of single heads and the logits that they are summed to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dgref.compare.hypotheses.base import Misreading, Outputs, Scene, State, hypothesis, on
from dgref.formats import FORMATS, ScaledTensor
from dgref.formats.native import to_numpy
from dgref.reference.dispatch import resolve

_LOGITS = ("mqa_logits", "paged_mqa_logits")


@hypothesis(10, likelihood=0.85)
def relu_misplaced(scene: Scene) -> Iterator[Misreading]:
    """The ReLU of every head's score left out, or taken of their sum instead."""
    if scene.state.case.op in _LOGITS:
        for cause, after in (
            ("the ReLU of the heads' scores was left out", None),
            ("the ReLU was taken of the sum over heads, not of every head's score", _rectified),
        ):
            fix = "take max(score, 0) of every head before its weight is multiplied"
            yield Misreading(cause, _without_relu, "relu", fix, "doing so", after, elementwise=True)


def _rectified(outputs: Outputs, _: Outputs | None) -> Outputs:
    """Return sums with zeros for negative ones; -Inf marks keys that are not seen."""
    return {n: np.where((d < 0) & ~np.isinf(d), d.dtype.type(0), d) for n, d in outputs.items()}


def _without_relu(state: State) -> State:
    """Return heads of which each comes again with the opposite signs: w relu(x) + (-w) relu(-x) = w x.

    Both lie next to each other in one running sum, so that one of them adds zero and the other rounds as w x would.
    """
    model = resolve(state.arithmetic)
    lanes = model.lanes if model else None
    stride, fused_first = (lanes.stride, lanes.start == "second") if lanes else (1, False)
    if lanes:
        state = replace(state, arithmetic=model.but(lanes=replace(lanes, start="zero")))
    order = _strides(state.inputs["weights"].shape[-1], stride, fused_first)
    for name, axis in (("q", -2), ("weights", -1)):
        state = state.put(name, _with_opposites(state.inputs[name], axis, order))
    return state


def _strides(heads: int, stride: int, fused_first: bool) -> np.ndarray:
    """Return the heads of each stride as [stride, head]; the second first where its product is rounded before it."""
    order = np.arange(heads + -heads % stride).reshape(-1, stride)
    return order[[1, 0, *range(2, len(order))]] if fused_first and len(order) > 1 else order


def _with_opposites(tensor: ScaledTensor, axis: int, order: np.ndarray) -> ScaledTensor:
    """Return a tensor whose strides of heads come again with opposite signs; heads past the last are zero."""
    row = FORMATS[tensor.format]
    codes = np.moveaxis(to_numpy(tensor.data), axis, 0).view(row.code_dtype)
    held = np.concatenate([codes, np.zeros((order.size - len(codes), *codes.shape[1:]), codes.dtype)])[order]
    both = np.stack([held, held ^ row.code_dtype.type(row.sign_mask)], axis=1)
    data = np.moveaxis(both.reshape(-1, *codes.shape[1:]), 0, axis)
    if tensor.scale is None:
        return replace(tensor, data=data)
    scale = np.moveaxis(np.asarray(tensor.scale), axis, 0)
    scale = np.concatenate([scale, scale[: order.size - len(scale)]])[order]
    scale = np.moveaxis(np.stack([scale, scale], axis=1).reshape(-1, *scale.shape[2:]), 0, axis)
    return replace(tensor, data=data, scale=scale)


@hypothesis(10, likelihood=0.75, combines=False)
def head_weights_permuted(scene: Scene) -> Iterator[Misreading]:
    """The weights of heads met by the scores of other heads."""
    if scene.state.case.op not in _LOGITS:
        return
    for words, order in (
        ("in reversed order", lambda heads: np.arange(heads)[::-1]),
        ("of the head before", lambda heads: np.roll(np.arange(heads), 1)),
        ("of the head after", lambda heads: np.roll(np.arange(heads), -1)),
    ):
        yield Misreading(
            f"the scores of heads met the weights {words}",
            on("weights", lambda t, o=order: replace(t, data=to_numpy(t.data)[:, o(t.shape[-1])])),
            "weights",
            "check which heads a lane owns, and that weights and scores are indexed alike",
            "taking them so",
        )
