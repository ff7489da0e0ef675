"""Which outputs hypotheses are tried on: most of them where something is wrong."""

from __future__ import annotations

import numpy as np

from dgref.compare.hypotheses.base import State
from dgref.compare.prediction import Bound, Observation
from dgref.compare.stripes import ranges
from dgref.compare.verdict import same
from dgref.formats import dequantize
from dgref.ops import OPS, Part
from dgref.reference.limits import within

TELLING = 16  # differing outputs, below which one of some hundred variants may fit all of them by chance
_WORTH_SAMPLING = 1 << 21  # multiply-adds; below, everything costs no more than a sample
_OUTLIER = 8.0  # times the median residual
_FILLED = 0.4  # of a rectangle that one fault makes wrong: 16-bit outputs often round to the same value
_ROWS, _COLUMNS = (14, 6), (20, 8)  # differing ones, and any others


def suspect_places(wrong: np.ndarray) -> np.ndarray:
    """Return where an output is wrong as a matrix; leading axes are laid one over the other."""
    wrong = np.atleast_2d(wrong)
    return wrong.reshape(-1, *wrong.shape[-2:]).any(axis=0)


def suspects(observation: Observation, correct: dict[str, np.ndarray], bound: Bound) -> np.ndarray:
    """Return where the first output differs; where a bound decides, what differs much, or is beyond it."""
    name = next(iter(correct))
    observed = observation.outputs[name]
    wrong = ~same(observed, correct[name], nan_equal=True)
    mask = observation.defined.get(name)
    wrong = wrong if mask is None else wrong & mask
    if observation.limits is None or not wrong.any():
        return wrong
    far = wrong & _far(observed, correct[name])
    if np.count_nonzero(far) >= TELLING:
        return far  # without the bound, which takes longer than all else
    limits = bound()
    return wrong & ~within(observed, limits[name]) if name in limits else far


def _far(observed: np.ndarray, correct: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        x, y = (side.astype(np.float64) for side in (observed, correct))
        return ~(np.abs(x - y) <= 2.0**-5 * np.maximum(np.abs(x), np.abs(y)))


def choose_part(state: State, work: int, wrong: tuple[np.ndarray, np.ndarray] | None) -> Part | None:
    """Return a sample of rows and columns, most of them where something is `wrong`; None: take everything."""
    op = OPS[state.case.op]
    if work <= _WORTH_SAMPLING or op.sampler is None:
        return None
    rows, columns = op.rows_and_columns(state.case)
    if wrong is None:
        return Part(_spread(rows, 2 * sum(_ROWS)), _spread(columns, 2 * sum(_COLUMNS)))
    by_row, by_column = wrong
    if by_column.size != columns:  # an output wider than the product: columns between heads are nobody's
        by_column = np.ones(columns, bool)
    return Part(_mixed(by_row, rows, _ROWS), _mixed(by_column, columns, _COLUMNS))


def projected_places(state: State, observation: Observation) -> tuple[np.ndarray, np.ndarray] | None:
    """Return which rows and columns of a dense product stand out, without computing the product.

    D x - A (B^T x) for random signs x is rounding noise in every row that is right (Freivalds), so that one wrong
    element shows in its row and, from the other side, in its column. None for other ops, or where nothing stands out.
    """
    if state.case.op != "gemm" or state.case.params.get("head_splits"):
        return None
    d = observation.outputs["d"].astype(np.float32)
    with np.errstate(all="ignore"):
        a, b = (np.asarray(dequantize(state.inputs[name]), np.float32) for name in ("a", "b"))
        c = state.inputs.get("c")
        d = d if c is None else d - np.asarray(c.values(), np.float32)
        rng = np.random.default_rng(0)
        x, y = (rng.integers(0, 2, extent).astype(np.float32) * 2 - 1 for extent in (d.shape[1], d.shape[0]))
        rows, columns = _outliers(d @ x - a @ (x @ b)), _outliers(y @ d - b @ (y @ a))
    return (rows, columns) if rows.any() and columns.any() else None


def _outliers(residual: np.ndarray) -> np.ndarray:
    size = np.abs(residual)
    usual = np.median(size[np.isfinite(size)]) if np.isfinite(size).any() else 0.0
    return ~(size <= _OUTLIER * usual) & (size != 0)


def _mixed(wrong: np.ndarray, extent: int, counts: tuple[int, int]) -> np.ndarray:
    """Return some indices where something is wrong, and some of all."""
    places = np.flatnonzero(wrong)
    chosen = places[_spread(places.size, counts[0])]
    return np.unique(np.concatenate([chosen, _spread(extent, counts[1])]))


def rectangle(wrong: np.ndarray) -> tuple[Part, str] | None:
    """Return the rows and columns that hold every difference, and words for them; None where they are most of all."""
    rows, columns = wrong.any(axis=1), wrong.any(axis=0)
    inside = wrong[rows][:, columns]
    if not inside.size or inside.size > wrong.size // 2 or inside.mean() < _FILLED:
        return None
    words = [_place(axis, name) for axis, name in ((rows, "rows"), (columns, "columns")) if not axis.all()]
    return Part(np.flatnonzero(rows), np.flatnonzero(columns)), "in " + " and ".join(words)


def _place(chosen: np.ndarray, name: str) -> str:
    spans = ranges(chosen)
    return f"{name} {spans[0][0]}..{spans[0][1]}" if len(spans) == 1 else f"{len(spans)} ranges of {name}"


def _spread(extent: int, count: int) -> np.ndarray:
    """Return up to `count` indices spread over an axis at uneven distances, both ends included."""
    if extent <= count:
        return np.arange(extent)
    steps = np.arange(count)
    gap = (extent - 1) / (count - 1)
    places = (steps * gap + (steps * 7 % 11 - 5) / 11 * gap).round().astype(np.int64)
    return np.unique(np.append(np.clip(places, 0, extent - 1), [0, extent - 1]))
