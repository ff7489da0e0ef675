"""What an epilogue does to right sums: an activation too many, C twice, another rounding, elements at other places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from dgref.compare.hypotheses.base import After, Change, Misreading, Outputs, Scene, hypothesis, on
from dgref.formats import FORMATS, ScaledTensor
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic
from dgref.reference.dispatch import rounded

_PRODUCTS = ("gemm", "gemm_grouped_contiguous", "gemm_grouped_masked", "gemm_grouped_k", "einsum")


@hypothesis(10, likelihood=0.97)
def activation_fused(scene: Scene) -> Iterator[Misreading]:
    """A ReLU that nobody asked for: negative outputs are zero."""
    if scene.state.case.op in _PRODUCTS:
        yield Misreading(
            "negative outputs became zero: a ReLU is fused into the epilogue",
            after=lambda correct, _: {n: _rectified(d) for n, d in correct.items()},
            site="d",
            fix="launch the kernel without an activation (CUBLASLT_EPILOGUE_DEFAULT), or declare another operation",
            remedy="doing so",
            elementwise=True,
        )


def _rectified(d: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.where(d < 0, d.dtype.type(0), d)


@hypothesis(10, likelihood=0.7)
def c_added_twice(scene: Scene) -> Iterator[Misreading]:
    """C added twice, or subtracted."""
    if not isinstance(scene.state.inputs.get("c"), ScaledTensor):
        return
    for factor, words in ((2.0, "added twice"), (-1.0, "subtracted")):
        yield Misreading(
            f"c was {words}",
            on("c", lambda t, f=factor: _times(t, f)),
            "c",
            "check beta, and that only one split of K starts from c",
            "doing so",
        )


def _times(tensor: ScaledTensor, factor: float) -> ScaledTensor:
    values = np.asarray(tensor.values(), np.float32) * np.float32(factor)
    return ScaledTensor(FORMATS[tensor.format].encode(values), tensor.format)


@hypothesis(41, likelihood=0.72)
def output_truncated(scene: Scene) -> Iterator[Misreading]:
    """Sums cut off to the output format where they should be rounded to nearest."""
    arithmetic = scene.state.arithmetic
    model = ARITHMETICS[arithmetic] if isinstance(arithmetic, str) and arithmetic in ARITHMETICS else arithmetic
    out = scene.state.case.out
    if out not in ("bfloat16", "float16"):
        return
    words = (
        f"fp32 sums were cut off to {out} where they should be rounded to nearest even",
        "d",
        "convert with cvt.rn, not by dropping the low half of the word",
        "cutting them off",
    )
    if isinstance(model, Arithmetic):
        cut = model.but(output_rounding="toward_zero")
        yield _truncating(words, lambda s: replace(s, arithmetic=cut))
    elif scene.state.case.op in _PRODUCTS:  # the exact sums, rounded to fp32 as a kernel has them
        yield _truncating(
            words,
            lambda s: replace(s, case=replace(s.case, out="float32")),
            lambda sums, _: {n: rounded(d, out, "toward_zero") for n, d in sums.items()},
        )


def _truncating(words: tuple[str, str, str, str], change: Change, after: After | None = None) -> Misreading:
    cause, site, fix, remedy = words
    return Misreading(cause, change, site, fix, remedy, after, elementwise=True)


@hypothesis(29, likelihood=0.6, combines=False)
def output_permuted(scene: Scene) -> Iterator[Misreading]:
    """Rows or columns of the output at the places of others."""
    if scene.state.case.op not in _PRODUCTS:
        return
    if scene.observed is None:
        for axis, word in ((-1, "columns"), (-2, "rows")):
            yield _moved(f"{word} of the output were written 8 by 8 in swapped pairs", axis, _swapped_eights)
        return
    if scene.correct is None:
        return
    name = next(iter(scene.correct))
    for axis, word in ((-1, "columns"), (-2, "rows")):
        order = _order(scene.observed[name], scene.correct[name], axis)
        if order is not None:
            moved = np.flatnonzero(order != np.arange(order.size))
            first = f"{word[:-1]} {moved[0]} holds what belongs into {word[:-1]} {order[moved[0]]}"
            cause = f"{moved.size} {word} of the output hold what belongs elsewhere: {first}"
            yield _moved(cause, axis, lambda extent, found=order: found)


def _moved(cause: str, axis: int, order: Callable[[int], np.ndarray]) -> Misreading:
    def after(correct: Outputs, _: Outputs) -> Outputs:
        return {n: np.take(d, order(d.shape[axis]), axis) if d.ndim > 1 else d for n, d in correct.items()}

    fix = "check how the epilogue maps registers and threads to the output (stmatrix, swizzled stores, warp offsets)"
    return Misreading(cause, after=after, site="d", fix=fix, remedy="putting them so")


def _swapped_eights(extent: int) -> np.ndarray:
    order = np.arange(extent)
    whole = extent // 16 * 16
    order[:whole] = order[:whole].reshape(-1, 2, 8)[:, ::-1].reshape(-1)
    return order


def _order(observed: np.ndarray, correct: np.ndarray, axis: int) -> np.ndarray | None:
    """Return which line of the correct output each observed line holds; None unless all are found and some moved."""
    if observed.ndim < 2 or observed.shape != correct.shape:
        return None
    seen, right = (_lines(array, axis) for array in (observed, correct))
    places: dict[bytes, int] = {}
    for place, line in enumerate(right):
        places.setdefault(line, place)
    order = np.array([place if line == right[place] else places.get(line, -1) for place, line in enumerate(seen)])
    return order if (order >= 0).all() and (order != np.arange(order.size)).any() else None


def _lines(array: np.ndarray, axis: int) -> list[bytes]:
    return [np.ascontiguousarray(line).tobytes() for line in np.moveaxis(array, axis, 0)]
