"""Payload elements at other places: nibbles, rows, gate and up, operands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dgref.compare.hypotheses.base import Misreading, Scene, State, hypothesis, on
from dgref.formats import LAYOUTS, ScaledTensor
from dgref.reference.operands import take_rows


@hypothesis(21, likelihood=0.9)
def nibble_order(scene: Scene) -> Iterator[Misreading]:
    """The two FP4 codes of a byte in the other order."""
    for name, tensor in scene.state.matrices():
        if tensor.format == "float4_e2m1fn" and tensor.shape[-1] % 2 == 0:
            yield Misreading(
                f"the nibbles of {name} were swapped: the even index was taken from the high half of the byte",
                on(name, _nibbles_swapped),
                name,
                f"put the even index of {name} in the low nibble (packing low_first)",
                "swapping them",
            )


def _nibbles_swapped(tensor: ScaledTensor) -> ScaledTensor:
    data = np.asarray(tensor.data)
    pairs = data.reshape(*data.shape[:-1], -1, 2)[..., ::-1]
    return replace(tensor, data=pairs.reshape(data.shape))


def _rows_where(tensor: ScaledTensor, layout: str, back: bool) -> np.ndarray:
    """Return which row comes where when a layout of rows is applied, or undone."""
    rows = np.arange(tensor.shape[-2], dtype=np.int32)[:, None]
    order = LAYOUTS[layout].unpack(rows.copy(), rows.shape) if back else LAYOUTS[layout].pack(rows)
    return np.asarray(order).reshape(-1)


def _weights(scene: Scene) -> Iterator[tuple[str, ScaledTensor]]:
    """Yield the operands that hold weights: every matrix but the first."""
    return ((n, t) for n, t in list(scene.state.matrices()) if n in ("b", "l1_weights", "l2_weights"))


@hypothesis(22, likelihood=0.8)
def gate_up_order(scene: Scene) -> Iterator[Misreading]:
    """Gate and up in the other order, or interleaved where they should not be."""
    for name, tensor in _weights(scene):
        rows = tensor.shape[-2]
        if rows % 2 or rows < 2 or name == "l2_weights":
            continue
        halves = np.roll(np.arange(rows), rows // 2)
        yield _permuted(name, "up came before gate", halves, "pass gate rows first, then up rows")
        for layout in ("gate_up_interleave_1", "gate_up_interleave_8"):
            if rows % LAYOUTS[layout].divisor == 0:
                step = layout.rpartition("_")[2]
                for back, word in ((False, "were interleaved"), (True, "were taken for interleaved")):
                    order = _rows_where(tensor, layout, back)
                    yield _permuted(name, f"gate and up {word} by {step}", order, f"apply {layout} once, on both sides")


def _permuted(name: str, what: str, order: np.ndarray, fix: str) -> Misreading:
    cause = f"in the rows of {name}, {what}"
    return Misreading(cause, on(name, lambda t: take_rows(t, order)), name, f"{fix} [{name}]", "ordering them so")


@hypothesis(23, likelihood=0.75)
def weight_shuffle(scene: Scene) -> Iterator[Misreading]:
    """Weights shuffled for a kernel that wants them plain, or plain for one that wants them shuffled."""
    for name, tensor in _weights(scene):
        for layout in ("shuffle_rows_16", "shuffle_rows_32"):
            if tensor.shape[-2] % LAYOUTS[layout].divisor == 0:
                for back, word in ((False, "shuffled and read as plain"), (True, "plain and read as shuffled")):
                    order = _rows_where(tensor, layout, back)
                    cause = f"the rows of {name} were {word} ({layout})"
                    fix = f"apply {layout} exactly once to {name} and its scales"
                    yield Misreading(cause, on(name, lambda t, o=order: take_rows(t, o)), name, fix, "reading them so")


@hypothesis(24, likelihood=0.8)
def operands_swapped(scene: Scene) -> Iterator[Misreading]:
    """A and B exchanged, or the payload of one read transposed."""
    state = scene.state
    a, b = state.inputs.get("a"), state.inputs.get("b")
    if isinstance(a, ScaledTensor) and isinstance(b, ScaledTensor) and a.shape == b.shape and "c" not in state.inputs:
        yield Misreading("a and b were swapped", _swapped, "a, b", "pass a first, then b", "swapping them")
    for name, tensor in state.matrices():
        rows, columns = tensor.shape[-2:]
        if min(rows, columns) > 1 and name in ("a", "b", "kv", "l1_weights", "l2_weights"):
            yield Misreading(
                f"the payload of {name} lay transposed to how it was read",
                on(name, _payload_transposed),
                name,
                f"{name} has major {state.major(name)!r}: store it so, or tell the kernel",
                "reading it so",
            )


def _swapped(state: State) -> State:
    return replace(state, inputs={**state.inputs, "a": state.inputs["b"], "b": state.inputs["a"]})


def _payload_transposed(tensor: ScaledTensor) -> ScaledTensor:
    data = np.asarray(tensor.data)
    return replace(tensor, data=np.ascontiguousarray(data.swapaxes(-1, -2)).reshape(data.shape))
