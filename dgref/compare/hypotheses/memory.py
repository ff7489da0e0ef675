"""Outputs that were never written, or written elsewhere, and reads past the end of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from dgref.compare.hypotheses.base import POISON, Misreading, Outputs, Scene, State, hypothesis, poisoned
from dgref.compare.stripes import ranges
from dgref.errors import counted
from dgref.formats import FORMATS, ScaledTensor
from dgref.formats.native import bits_of

Where = Callable[[np.ndarray], np.ndarray]  # which elements of an output


def blank(array: np.ndarray) -> np.ndarray:
    """Return where an output holds what was there before any launch: zero, or the poison."""
    return (bits_of(array) == 0) | _poison(array)


def _poison(array: np.ndarray) -> np.ndarray:
    return bits_of(array) == bits_of(poisoned(np.empty(1, array.dtype)))[0]


def _untouched(scene: Scene) -> Where:
    """Return what tells where an output was never written, as far as it can be told."""
    return _poison if scene.poisoned else blank


@hypothesis(26, likelihood=0.95)
def output_unwritten(scene: Scene) -> Iterator[Misreading]:
    """Part of the output never written: a tile still holds zeros, or what was there before."""
    fix = "check the grid and the tile bounds: the last tile along M or N is what is forgotten most"
    if scene.observed is not None:
        yield from _partly(scene, _untouched(scene), "part of the output was never written", fix)
        return
    for word, place in (("tile", np.s_[..., 64:128, 64:128]), ("last rows", np.s_[..., -3:, :])):
        for byte in (0, POISON):
            after = _erasing(place, byte)
            yield Misreading(f"the {word} of the output never written", after=after, site="d", fix=fix)


@hypothesis(43, likelihood=0.8)
def zeros_written(scene: Scene) -> Iterator[Misreading]:
    """Zeros written in place of sums, where the run shows that they were not there before."""
    if scene.observed is None or not scene.poisoned:
        return
    fix = (
        "check the grid and the tile bounds if the output is cleared first, else what the epilogue of that part stores"
    )
    yield from _partly(scene, _zero, "zeros were written to part of the output", fix)
    if not all(_zero(array).all() for array in scene.observed.values()):
        return
    if any(bits_of(array).any() for array in scene.observed.values()):  # zeros with the signs of sums
        yield _zeros("every output was multiplied by 0", "look for alpha, or for a result scale, of 0", _scaled_by_zero)
    yield _zeros(
        "zeros were written to the whole output",
        "look for a loop over K that is never entered (a number of tiles of K rounded down to 0), for alpha = 0, "
        "and for accumulators that are cleared before they are stored",
        np.zeros_like,
    )


def _zeros(cause: str, fix: str, how: Callable[[np.ndarray], np.ndarray]) -> Misreading:
    after = lambda correct, _: {n: how(d) for n, d in correct.items()}  # noqa: E731
    return Misreading(cause, after=after, site="d", fix=fix, remedy="writing zeros", elementwise=True)


def _scaled_by_zero(array: np.ndarray) -> np.ndarray:
    return np.copysign(np.zeros_like(array), array) if array.dtype.kind not in "iub" else np.zeros_like(array)


def _zero(array: np.ndarray) -> np.ndarray:
    return np.asarray(array == 0)


def _partly(scene: Scene, empty: Where, cause: str, fix: str) -> Iterator[Misreading]:
    """Yield that part of the output is empty, where that is neither all of it nor what an activation leaves."""
    some = any(part.any() for part in _missing(scene, empty))
    whole = all(empty(array).all() for array in scene.observed.values())
    if some and not whole and not _is_rectified(scene):
        yield Misreading(
            cause,
            after=lambda correct, seen: {n: np.where(empty(seen[n]), seen[n], correct[n]) for n in correct},
            site="d",
            fix=fix,
            remedy="leaving that part out",
            elementwise=True,
            likelihood=0.95 if _is_a_tile(scene, empty) else 0.3,
        )


def _missing(scene: Scene, empty: Where) -> Iterator[np.ndarray]:
    """Yield where each output is empty and should not be, as far as is known."""
    for name, observed in scene.observed.items():
        correct = (scene.correct or {}).get(name)
        yield empty(observed) if correct is None else empty(observed) & (bits_of(observed) != bits_of(correct))


def _is_rectified(scene: Scene) -> bool:
    """Say whether what is zero is what should be negative: that is no place of the output."""
    if scene.correct is None:
        return False
    name = next(iter(scene.correct))
    observed, correct = scene.observed[name], scene.correct[name]
    return bool((correct < 0).any()) and np.array_equal((observed == 0) & (correct != 0), correct < 0)


def _is_a_tile(scene: Scene, empty: Where) -> bool:
    """Say whether what is empty and should not be is poison, or fills compact ranges of rows and columns."""
    name = next(iter(scene.observed))
    observed, missing = scene.observed[name], next(_missing(scene, empty))
    if name not in (scene.correct or {}):
        return True
    if (bits_of(observed)[missing] != 0).all():
        return True
    matrix = missing.reshape(-1, missing.shape[-1])
    rows, columns = matrix.any(axis=1), matrix.any(axis=0)
    compact = len(ranges(columns)) <= 2 and len(ranges(rows)) <= 2 * int(np.prod(observed.shape[:-2]))
    return compact and bool(empty(observed).reshape(matrix.shape)[rows][:, columns].all())


@hypothesis(35, likelihood=0.9)
def nothing_ran(scene: Scene) -> Iterator[Misreading]:
    """The whole output holds what was there before: no kernel image for this architecture, or no launch."""
    if scene.observed is None or all(_untouched(scene)(array).all() for array in scene.observed.values()):
        yield Misreading(
            "nothing was written: no kernel ran",
            after=lambda correct, seen: {n: np.zeros_like(d) if seen is None else seen[n] for n, d in correct.items()},
            fix="check the launch's error code, and that the binary holds code for this architecture, such as sm_90a",
            remedy="leaving everything as it was",
            elementwise=True,
        )


def _erasing(place: tuple, byte: int):
    def after(correct: Outputs, _: Outputs) -> Outputs:
        outputs = {}
        for name, array in correct.items():
            outputs[name] = array.copy()
            part = place if array.ndim > 1 else place[:1] + place[1:2]
            outputs[name][part] = np.full(array.dtype.itemsize, byte, np.uint8).view(array.dtype)[0]
        return outputs

    return after


@hypothesis(29, likelihood=0.7)
def output_strides(scene: Scene) -> Iterator[Misreading]:
    """The output written with other strides than it is read with."""
    shape = next(iter(scene.correct.values())).shape if scene.correct else _shape(scene.state)
    if len(shape) < 2 or min(shape[-2:]) < 2:
        return
    columns, order = shape[-1], "pass the output's strides in (row, column) order"
    yield _strided("column by column", lambda d: np.swapaxes(d, -1, -2), order)
    for extra in sorted({-columns % 8, -columns % 64, -columns % 128, 8, 64} - {0}):
        what = f"with a row stride of {columns + extra} instead of {columns}"
        fix = f"pass ld = {columns}, or a buffer of {columns + extra} columns"
        yield _strided(what, lambda d, e=extra: _widened(d, e), fix)


def _shape(state: State) -> tuple[int, ...]:
    from dgref.ops import OPS

    return next(iter(OPS[state.case.op].output_shapes(state.case).values()))


def _strided(what: str, how, fix: str) -> Misreading:
    def after(correct: Outputs, _: Outputs) -> Outputs:
        return {n: np.ascontiguousarray(how(d)).reshape(d.shape) if d.ndim > 1 else d for n, d in correct.items()}

    return Misreading(f"the output was written {what}", after=after, site="d", fix=fix, remedy="reading it so")


def _widened(d: np.ndarray, extra: int) -> np.ndarray:
    """Return what a buffer of d's size holds when every row starts `extra` elements later than it should."""
    gap = np.full((*d.shape[:-1], extra * d.dtype.itemsize), 0xFF, np.uint8).view(d.dtype)
    wide = np.concatenate([d, gap], axis=-1).reshape(*d.shape[:-2], -1)
    return wide[..., : d.shape[-2] * d.shape[-1]].reshape(d.shape)


@hypothesis(28, likelihood=0.65)
def k_read_past_end(scene: Scene) -> Iterator[Misreading]:
    """The last tile of K reads past the end of its row, into the next one."""
    a, b = scene.state.inputs.get("a"), scene.state.inputs.get("b")
    if not isinstance(a, ScaledTensor) or not isinstance(b, ScaledTensor) or "grouped_layout" in scene.state.inputs:
        return
    k = a.shape[-1]
    for tile in (32, 64, 128):
        if k % tile and k > 1:
            yield Misreading(
                f"the last tile of K was read whole: {counted(-k % tile, 'element')} past every row's end in a and b",
                lambda s, e=-k % tile: s.put("a", _overrun(s.inputs["a"], e)).put("b", _overrun(s.inputs["b"], e)),
                "a, b",
                f"pad K to a multiple of {tile} with zeros, or mask the tail",
                "reading on so",
            )


def _overrun(tensor: ScaledTensor, extra: int) -> ScaledTensor:
    """Return the tensor whose rows go on into the next row; the last one into zeros."""
    data = np.asarray(tensor.data)
    flat = np.concatenate([data.reshape(-1), np.zeros(data.shape[-1] + extra, data.dtype)])
    starts = np.arange(int(np.prod(data.shape[:-1]))) * data.shape[-1]
    longer = flat[starts[:, None] + np.arange(data.shape[-1] + extra)].reshape(*data.shape[:-1], -1)
    if tensor.scale is None:
        return replace(tensor, data=longer)
    width = tensor.scaling.grid(longer.shape)[-1]
    columns = np.minimum(np.arange(width), tensor.scale.shape[-1] - 1)
    return replace(tensor, data=longer, scale=np.asarray(tensor.scale)[..., columns])


@hypothesis(43, likelihood=0.85)
def k_tail_dropped(scene: Scene) -> Iterator[Misreading]:
    """The last part of K left out of the sum."""
    names = [n for n in ("a", "b") if isinstance(scene.state.inputs.get(n), ScaledTensor)]
    if not names or scene.state.case.op == "gemm_grouped_k":
        return
    k = scene.state.inputs[names[0]].shape[-1]
    for stop, fix in _ends(k, least=1 if scene.observed is None else 0).items():
        yield Misreading(
            f"the last {k - stop} of K were dropped",
            lambda s, stop=stop: s.put("a", _zeroed(s.inputs["a"], stop)),
            "k",
            fix,
            "dropping them",
        )


def _ends(k: int, least: int) -> dict[int, str]:
    """Return where a sum over K may stop too early, and what to do about it; not before `least`."""
    floors: dict[int, list[int]] = {}
    for tile in (16, 32, 64, 128):
        floors.setdefault(k // tile * tile, []).append(tile)
    found = {
        stop: f"round the number of K tiles up: K = {k} is no multiple of {', nor of '.join(map(str, tiles))}"
        for stop, tiles in reversed(floors.items())
        if least <= stop < k
    }
    for missing in (128, 64, 32, 16, 1):
        if missing < k:
            found.setdefault(k - missing, f"check where the loop over K ends: it stops {missing} before K = {k}")
    return found


def _zeroed(tensor: ScaledTensor, stop: int) -> ScaledTensor:
    data = np.array(tensor.data)
    data[..., stop:] = FORMATS[tensor.format].encode(np.zeros(1, np.float32))[0]
    return replace(tensor, data=data)
