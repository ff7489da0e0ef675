"""Values of a neighbour: scales of the row or block before, a stage of K not refilled, a split of K that is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from dgref.compare.hypotheses.base import Misreading, Scene, hypothesis, on
from dgref.errors import counted
from dgref.formats import FORMATS, ScaledTensor

_STAGE = 128  # of K: what pipelines load at once
_FEW = 8  # stages that are tried one by one; of more, the last


@hypothesis(15, likelihood=0.68)
def scale_of_neighbour(scene: Scene) -> Iterator[Misreading]:
    """The scales of the row, block or group before or after: an address off by one."""
    for name, tensor in scene.state.scaled():
        grid = np.asarray(tensor.scale)
        rows = "row" if tensor.scaling.extents(tensor.shape)[0] == 1 else "block of rows"
        names = ("group", rows, "block of K")[-grid.ndim :]
        for axis, word in enumerate(names):
            for step, side in ((1, "previous"), (-1, "next")) if grid.shape[axis] > 1 else ():
                cause = f"{name}'s scales of the {side} {word} were read"
                yield _other_scales(name, cause, lambda g, s=step, x=axis: np.roll(g, s, axis=x))
        if len(names) == 3 and len(grid) > 1:
            cause = f"{name}'s scales of the first group were read for every group"
            yield _other_scales(name, cause, lambda g: np.repeat(g[:1], len(g), axis=0))


def _other_scales(name: str, cause: str, how: Callable[[np.ndarray], np.ndarray]) -> Misreading:
    fix = (
        f"check the index with which the scales of {name} are addressed: row, block of K, group, stage of the pipeline"
    )
    change = on(name, lambda t: t.with_scale(np.ascontiguousarray(how(np.asarray(t.scale)))))
    return Misreading(cause, change, name, fix, "reading them so")


@hypothesis(39, likelihood=0.66, combines=False)
def stale_stage(scene: Scene) -> Iterator[Misreading]:
    """A stage of K multiplied before it was refilled: what an earlier stage held."""
    names = [name for name, _ in scene.state.matrices() if name in ("a", "b")]
    if scene.state.case.op == "gemm_grouped_k":
        return
    for name in names:
        stages = scene.state.inputs[name].shape[-1] // _STAGE
        for depth in range(1, min(stages, 5)):
            yield _stale(name, f"from stage {depth} on", depth, range(depth, stages))
            alone = range(depth, stages) if stages <= _FEW else (stages - 1,)
            yield from (_stale(name, f"in stage {stage}", depth, range(stage, stage + 1)) for stage in alone)


def _stale(name: str, where: str, depth: int, stages: range) -> Misreading:
    def change(tensor: ScaledTensor) -> ScaledTensor:
        data = np.array(tensor.data)
        for stage in stages:
            place, held = (slice(s * _STAGE, (s + 1) * _STAGE) for s in (stage, stage - depth))
            data[..., place] = np.asarray(tensor.data)[..., held]
        return replace(tensor, data=data)

    cause = f"{where} ({_STAGE} of K each), {name} still held what it held {counted(depth, 'stage')} before"
    fix = "wait for the barrier of the stage before multiplying, and for its reader before refilling it"
    return Misreading(cause, on(name, change), name, fix, "multiplying that")


@hypothesis(43, likelihood=0.8, combines=False)
def split_dropped(scene: Scene) -> Iterator[Misreading]:
    """One of the parts that K was split into never added."""
    a = scene.state.inputs.get("a")
    if not isinstance(a, ScaledTensor) or scene.state.case.op == "gemm_grouped_k":
        return
    k, seen = a.shape[-1], set()
    for count in (2, 3, 4, 8):
        for unit in (128, 64):
            edges = _edges(k, count, unit)
            for start, stop in pairwise(edges):
                if 0 < stop - start < k and (start, stop) not in seen:
                    seen.add((start, stop))
                    yield _without(start, stop)


def _edges(k: int, count: int, unit: int) -> list[int]:
    """Return where splits of whole units begin, the first ones taking what is left over."""
    each, longer = divmod(-(-k // unit), count)
    return [min((split * each + min(split, longer)) * unit, k) for split in range(count + 1)]


def _without(start: int, stop: int) -> Misreading:
    def change(tensor: ScaledTensor) -> ScaledTensor:
        data = np.array(tensor.data)
        data[..., start:stop] = FORMATS[tensor.format].encode(np.zeros(1, np.float32))[0]
        return replace(tensor, data=data)

    cause = f"K {start}..{stop - 1} was left out: a part of a split sum was never added"
    fix = "check that every split is launched, and that the reduction waits for all of them"
    return Misreading(cause, on("a", change), "k", fix, "leaving it out")
