"""Which blocks of K an error comes from: the contributions that, dropped or repeated, explain what is wrong.

An output does not show K, but its operands do: each K block adds a known part to each output. A few outputs are enough
to tell which parts are missing, doubled or scaled, because the parts of different blocks are independent numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dgref.compare.stripes import ranges
from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor

_SIDE = 24  # rows and columns of the sample
_BLOCKS = 16  # blocks that a description may name
_EXPLAINED = 1e-3  # what may remain of the error's energy


@dataclass(frozen=True)
class KBlocks:
    """Blocks of K whose contribution is wrong, and the factor at which each of them really came in (1 is right)."""

    block: int
    factors: dict[int, float]  # block number -> factor: 0 missing, 2 doubled, -1 subtracted
    explained: float  # share of the error's energy on the sample

    @property
    def found(self) -> bool:
        """Whether a few blocks explain the error."""
        return bool(self.factors) and self.explained > 1 - _EXPLAINED

    def describe(self, k: int) -> str:
        """Return the words for it, given the extent of K."""
        if not self.found:
            return "no few blocks of K explain the error"
        support = np.zeros(-(-k // self.block), bool)
        support[list(self.factors)] = True
        spans = [(first * self.block, min((last + 1) * self.block, k)) for first, last in ranges(support)]
        words = ", ".join(f"{start}..{stop - 1}" for start, stop in spans)
        words = f"the last {k - spans[0][0]} of K" if len(spans) == 1 and spans[0][1] == k else f"K {words}"
        kinds = {round(factor, 2) for factor in self.factors.values()}
        return f"{words} {_KINDS.get(kinds.pop(), 'scaled') if len(kinds) == 1 else 'scaled'}"


_KINDS = {0.0: "missing", 2.0: "added twice", -1.0: "subtracted"}


def locate_k(actual: Any, a: ScaledTensor, b: ScaledTensor, block: int, differing: np.ndarray | None = None) -> KBlocks:
    """Return the fewest blocks of `block` along K that explain actual - a @ b.T.

    `actual` is a matrix; `differing` marks where it is wrong, and the sample is taken there. Blocks are taken up one by
    one, each time the one that explains most of what remains, as long as that helps (orthogonal matching pursuit).
    """
    with np.errstate(invalid="ignore"):  # ml_dtypes warns of NaN
        values = to_numpy(actual, "actual").astype(np.float64)
    wrong = np.ones(values.shape, bool) if differing is None else differing
    rows = np.sort(np.argsort(-wrong.sum(axis=1), kind="stable")[:_SIDE])
    columns = np.sort(np.argsort(-wrong[rows].sum(axis=0), kind="stable")[:_SIDE])
    parts = _contributions(a, b, rows, columns, block)
    chosen = wrong[np.ix_(rows, columns)]
    error = (values[np.ix_(rows, columns)] - parts.sum(axis=-1))[chosen]
    usable = np.isfinite(error)
    return _pursue(parts[chosen][usable], error[usable], block)


def _contributions(a: ScaledTensor, b: ScaledTensor, rows: np.ndarray, columns: np.ndarray, block: int) -> np.ndarray:
    """Return [row, column, block]: what each block of K adds to each output of the sample."""
    left, right = (_values(t, chosen) for t, chosen in ((a, rows), (b, columns)))
    starts = np.arange(0, left.shape[1], block)
    parts = np.empty((rows.size, columns.size, starts.size))
    for i, s in enumerate(starts):
        parts[..., i] = left[:, s : s + block] @ right[:, s : s + block].T
    return parts


def _values(tensor: ScaledTensor, rows: np.ndarray) -> np.ndarray:
    values = to_numpy(tensor.values())[rows].astype(np.float64)
    scale, factor = tensor.expanded_scale(), tensor.global_factor()
    values = values if scale is None else values * to_numpy(scale)[rows]
    return np.nan_to_num(values if factor is None else values * float(factor), posinf=0.0, neginf=0.0)


def _pursue(parts: np.ndarray, error: np.ndarray, block: int) -> KBlocks:
    energy, chosen, weights = float(error @ error), [], np.zeros(0)
    rest = error
    norms = np.linalg.norm(parts, axis=0) + 1e-300
    while energy and len(chosen) < min(_BLOCKS, parts.shape[1], error.size - 1) and rest @ rest > _EXPLAINED * energy:
        chosen.append(int(np.argmax(np.abs(rest @ parts) / norms)))
        weights = np.linalg.lstsq(parts[:, chosen], error, rcond=None)[0]
        rest = error - parts[:, chosen] @ weights
    explained = 1 - float(rest @ rest) / energy if energy else 0.0
    return KBlocks(block, dict(sorted(zip(chosen, (1 + weights).tolist(), strict=True))), explained)
