"""Payload elements at other places: nibbles, rows, gate and up, operands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dgref.compare.hypotheses.base import Misreading, Scene, State, hypothesis, on
from dgref.formats import FORMATS, LAYOUTS, ScaledTensor
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
                f"take the even index of {name} from the low nibble (packing low_first), or pack it as it is read",
                "swapping them",
            )


_ALIKE = {"float8_e4m3fn": "float8_e5m2", "float8_e5m2": "float8_e4m3fn"}


@hypothesis(6, likelihood=0.88)
def payload_format(scene: Scene) -> Iterator[Misreading]:
    """A payload of E4M3 read as E5M2, or the other way round."""
    for name, tensor in scene.state.matrices():
        if tensor.format in _ALIKE:
            other = _ALIKE[tensor.format]
            yield Misreading(
                f"the payload of {name} is {tensor.format} and was read as {other}",
                on(name, lambda t, f=other: replace(t, format=f)),
                name,
                f"pass {name}'s own format to the kernel; quantise with a recipe of {other} if it takes nothing else",
                "reading it so",
            )


@hypothesis(41, likelihood=0.74)
def subnormals_flushed(scene: Scene) -> Iterator[Misreading]:
    """Subnormal elements of the operands taken as zero."""
    names = [name for name, tensor in scene.state.matrices() if FORMATS[tensor.format].bits in (8, 16)]
    for chosen in (*([name] for name in names), names if len(names) > 1 else []):
        if chosen:
            yield Misreading(
                f"subnormal elements of {' and '.join(chosen)} were taken as zero",
                lambda s, chosen=chosen: _flushed(s, chosen),
                "+".join(chosen),
                "convert without flushing (no -ftz=true, no fast math), and keep the subnormals of 8 bits",
                "taking them so",
            )


def _flushed(state: State, names: list[str]) -> State:
    for name in names:
        tensor = state.inputs[name]
        values = np.asarray(tensor.values(), np.float64)
        tiny = np.abs(values) < 2.0 ** FORMATS[tensor.format].emin
        data = np.asarray(tensor.data)
        state = state.put(name, replace(tensor, data=np.where(tiny, np.zeros((), data.dtype), data)))
    return state


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
