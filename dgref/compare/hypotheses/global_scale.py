"""The one FP32 scale beside the blocks' own, scales that never enter, and arguments that nobody reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dgref.compare.hypotheses.base import (
    After,
    Misreading,
    Outputs,
    Scene,
    State,
    hypothesis,
    on,
    scale_floats,
    with_floats,
)
from dgref.formats import FORMATS, ScaledTensor
from dgref.formats.tensor import global_range
from dgref.ops import OPS


def _with_global(scene: Scene) -> Iterator[tuple[str, ScaledTensor]]:
    return ((name, tensor) for name, tensor in scene.state.scaled() if tensor.global_scale is not None)


def _factor(tensor: ScaledTensor, factor: np.ndarray) -> ScaledTensor:
    """Return the tensor whose global factor is this, in the convention that it stores."""
    stored = 1 / factor if tensor.scaling.global_scale == "divide" else factor
    if tensor.scaling.global_scale == "amax":
        stored = factor * global_range(tensor.scaling, tensor.format)
    return replace(tensor, global_scale=np.asarray(stored, np.float32))


@hypothesis(7, likelihood=0.75)
def global_scale_inverted(scene: Scene) -> Iterator[Misreading]:
    """The global scale multiplied where it divides, or the other way round."""
    for name, tensor in _with_global(scene):
        stored = tensor.scaling.global_scale
        yield Misreading(
            f"the global scale of {name} was inverted",
            on(name, lambda t: replace(t, global_scale=np.float32(1) / np.asarray(t.global_scale, np.float32))),
            name,
            f"{name}'s recipe stores the kind that one must {stored} by: pass it so, or its reciprocal",
            "inverting it",
        )


@hypothesis(8, likelihood=0.75)
def global_scale_missing(scene: Scene) -> Iterator[Misreading]:
    """The global scale left out, or 1.0 in its place."""
    for name, _ in _with_global(scene):
        yield Misreading(
            f"the global scale of {name} was left out",
            on(name, lambda t: _factor(t, np.ones_like(np.asarray(t.global_scale, np.float64)))),
            name,
            f"multiply by {name}'s global scale: in the epilogue (alpha), or in the block scales",
            "leaving it out",
        )


@hypothesis(9, likelihood=0.65)
def shard_global_scale_shared(scene: Scene) -> Iterator[Misreading]:
    """One global scale used for parts that have different ones: gate and up, experts, shards."""
    for name, tensor in _with_global(scene):
        stored = np.asarray(tensor.global_scale)
        if stored.ndim and np.unique(stored).size > 1:
            for word, chosen in (("the first", stored.reshape(-1)[0]), ("the largest", stored.max())):
                yield Misreading(
                    f"{word} of {name}'s {stored.size} global scales was used for all of them",
                    on(name, lambda t, v=chosen: replace(t, global_scale=np.full_like(np.asarray(t.global_scale), v))),
                    name,
                    f"requantise {name} to one global scale, or pass one for each part",
                    "using it so",
                )


@hypothesis(10, likelihood=0.6)
def scale_ignored(scene: Scene) -> Iterator[Misreading]:
    """The scales of an operand never applied."""
    for name, tensor in scene.state.scaled():
        if not (scale_floats(tensor) == 1).all():
            yield Misreading(
                f"the scales of {name} were never applied",
                on(name, lambda t: with_floats(t, np.ones(t.scale.shape, np.float32))),
                name,
                f"pass {name}'s scales, and check that the kernel's epilogue reads them",
                "leaving them out",
            )


@hypothesis(10, likelihood=0.58)
def scale_applied_twice(scene: Scene) -> Iterator[Misreading]:
    """The scales of an operand multiplied twice."""
    for name, tensor in scene.state.scaled():
        if not (scale_floats(tensor) == 1).all():
            yield Misreading(
                f"the scales of {name} were applied twice",
                on(name, lambda t: with_floats(t, scale_floats(t) ** 2)),
                name,
                f"multiply by {name}'s scales once: in the main loop, in the epilogue, or folded into something else",
                "multiplying by them twice",
            )


@hypothesis(10, likelihood=0.8)
def argument_ignored(scene: Scene) -> Iterator[Misreading]:
    """An argument that has no effect: C, a clamp, head weights."""
    state = scene.state
    if isinstance(state.inputs.get("c"), ScaledTensor):
        yield Misreading(
            "c was never added",
            on("c", lambda t: replace(t, data=np.zeros_like(np.asarray(t.data)))),
            "c",
            "pass c (accumulate), and check that the kernel starts from it",
            "leaving it out",
        )
    if state.case.params.get("activation_clamp") is not None:
        yield Misreading(
            "the activation clamp was ignored",
            lambda s: s.param(activation_clamp=None),
            "activation_clamp",
            f"pass activation_clamp={state.case.params['activation_clamp']}",
            "leaving it out",
        )
    for name in ("topk_weights", "weights"):
        if isinstance(state.inputs.get(name), ScaledTensor):
            yield Misreading(
                f"{name} was ignored: every weight was taken as 1",
                lambda s, n=name: _ones(s, n),
                name,
                f"pass {name}",
                "taking them so",
            )


@hypothesis(4, 10, likelihood=0.65)
def output_gain(scene: Scene) -> Iterator[Misreading]:
    """Every output off by one factor: alpha or a result scale applied wrongly, twice or not at all."""
    row = OPS[scene.state.case.op]
    if not row.takes_arithmetic or row.name == "mega_moe":
        return
    out = FORMATS[scene.state.case.out if row.out_formats else "float32"].native_dtype
    scaled = any(True for _ in scene.state.scaled())
    gains = _GAINS[scaled] if scene.observed is None else _measured_gains(scene)
    for gain in gains:
        yield Misreading(
            f"every output was multiplied by {gain:g}",
            lambda state: replace(state, case=replace(state.case, out="float32" if row.out_formats else None)),
            row.outputs[0].name,
            f"look for alpha, or for a result scale, of {gain:g} or {1 / gain:g}",
            "doing so",
            _multiplied(gain, out),
            elementwise=True,
        )


_GAINS = {False: (2.0, 0.5, 4.0, 0.125, 1.5, 0.3), True: (1.5, 0.3, 0.75, 3.0)}  # with scales, 2^n is theirs


def _multiplied(gain: float, dtype: np.dtype) -> After:
    def after(outputs: Outputs, _: Outputs | None) -> Outputs:
        with np.errstate(all="ignore"):
            first = next(iter(outputs))
            return {**outputs, first: (np.float32(gain) * outputs[first]).astype(dtype)}

    return after


def _measured_gains(scene: Scene) -> list[float]:
    """Return the factor between observed and correct outputs, and the short numbers that it may stand for."""
    if scene.correct is None:
        return [2.0, 0.5]
    first = next(iter(scene.correct))
    observed, correct = (np.asarray(side[first], np.float64).ravel() for side in (scene.observed, scene.correct))
    usable = np.isfinite(observed) & np.isfinite(correct) & (correct != 0) & (observed != 0)
    if not usable.any():
        return []
    gain = float(np.median(observed[usable] / correct[usable]))
    if gain == 0 or not 2.0**-64 < abs(gain) < 2.0**64:
        return []
    power = float(2.0 ** np.round(np.log2(abs(gain)))) * np.sign(gain)
    short = [float(f"{gain:.{digits}g}") for digits in (1, 2, 3)]
    return [value for value in dict.fromkeys([power, *short]) if value not in (0.0, 1.0)]


def _ones(state: State, name: str) -> State:
    tensor = state.inputs[name]
    return state.put(name, replace(tensor, data=FORMATS[tensor.format].encode(np.ones(tensor.shape, np.float32))))
