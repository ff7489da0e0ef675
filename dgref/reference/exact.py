"""The exact oracle: infinitely precise sums of products of dequantised values, rounded once.

Every element is evaluated in float64 with a proven error first. Where that error could change the rounding, or where
the result is too close to a tie to tell, integers decide (`exact_engine`). The answer never depends on which of the
two happened. Conventions: round to nearest, ties to even; above the largest finite value Inf; an exact zero is +0
whatever the signs of its terms; a nonzero result that rounds to zero keeps its sign; NaN and Inf go through products
and sums by IEEE 754 rules (Inf * 0 and Inf - Inf are NaN), and every NaN comes out quiet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dgref.errors import ShapeError, expected
from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference import exact_engine as engine
from dgref.reference.checks import own_index, selection
from dgref.reference.exact_logits import exact_weighted_relu_sum
from dgref.reference.exact_operand import Planes, as_tensor, exact_planes
from dgref.reference.exact_sum import ExactSum, exact_dot, exact_sum_of_squares
from dgref.reference.exact_target import Target, target

__all__ = ["ExactSum", "contract_exact", "exact_dot", "exact_sum_of_squares", "exact_weighted_relu_sum"]

ROW_TILE, COLUMN_TILE = 512, 2048  # bounds memory to (ROW_TILE + COLUMN_TILE) * K + ROW_TILE * COLUMN_TILE float64


def contract_exact(
    a: ScaledTensor,
    b: ScaledTensor,
    c: np.ndarray | None = None,
    alpha: float = 1.0,
    out: str = "bfloat16",
    rows: np.ndarray | slice | None = None,
    columns: np.ndarray | slice | None = None,
) -> np.ndarray:
    """Return c + alpha * sum_k a[..., m, k] * b[..., n, k], infinitely precise and rounded once to `out`.

    Leading axes broadcast. `rows` and `columns` choose outputs. `c` has the full output's shape, or any that
    broadcasts to it, and is added exactly.
    """
    a, b = as_tensor(a, "a"), as_tensor(b, "b")
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(expected("b", f"k = {b.shape[-1]}", f"k = {a.shape[-1]}, as in a"))
    row_numbers, column_numbers = selection(rows, a.shape[-2], "rows"), selection(columns, b.shape[-2], "columns")
    leading = _leading(a.shape[:-2], b.shape[:-2])
    addend = _addend(c, (*leading, a.shape[-2], b.shape[-2]))
    goal = target(out)
    result = np.empty((*leading, row_numbers.size, column_numbers.size), goal.dtype)
    for batch in np.ndindex(*leading):
        for block in _blocks(column_numbers.size, COLUMN_TILE):
            right = exact_planes(b, column_numbers[block], own_index(batch, b.shape[:-2]))
            plain = _Measured.of(right)
            for tile in _blocks(row_numbers.size, ROW_TILE):
                left = exact_planes(a, row_numbers[tile], own_index(batch, a.shape[:-2]), alpha)
                part = None if addend is None else addend[batch][np.ix_(row_numbers[tile], column_numbers[block])]
                with np.errstate(over="ignore", invalid="ignore"):
                    result[(*batch, tile, block)] = _tile(_Measured.of(left), plain, part, goal).astype(goal.dtype)
    return result


@dataclass(frozen=True)
class _Measured:
    """An operand, its float64 nearest, and what the filter needs to know of its rows."""

    exact: Planes
    nearest: np.ndarray
    norms: np.ndarray
    lowest: np.ndarray
    finite: np.ndarray

    @classmethod
    def of(cls, exact: Planes) -> _Measured:
        nearest = np.ascontiguousarray(exact.nearest())
        norms, lowest, finite = engine.measure(nearest)
        return cls(exact, nearest, norms, lowest, finite)

    def clean(self) -> np.ndarray:
        """Return the values with zero for NaN and Inf."""
        return self.nearest if self.finite.all() else np.where(np.isfinite(self.nearest), self.nearest, 0.0)


def _tile(a: _Measured, b: _Measured, c: np.ndarray | None, goal: Target) -> np.ndarray:
    """Return one tile of rounded results as float64."""
    sums = a.clean() @ b.clean().T
    c = np.zeros(sums.shape) if c is None else np.ascontiguousarray(c, np.float64)
    unsettled = np.zeros(sums.shape, np.bool_)
    slack = relative_error(a.nearest.shape[1], a.exact.rounded or b.exact.rounded)
    measured = a.norms, a.lowest, b.norms, b.lowest
    engine.settle(sums, c, *measured, slack, *goal.rounding, unsettled)
    special = ~a.finite[:, None] | ~b.finite | ~np.isfinite(c)
    _settle_exactly(sums, np.nonzero(unsettled & ~special), a, b, c, goal)
    where = np.nonzero(special)
    sums[where] = engine.plain_dots(a.nearest, b.nearest, c[where], *where)
    return sums


def relative_error(k: int, rounded: bool) -> float:
    """Return the bound on |float64 sum - exact| over the product of norms, for any order of summation.

    The sign says whether exactness may be concluded from the operands' bits (docs/bound.md).
    """
    unit = 2.0**-53
    return -(k + 9) * unit * (1 + 2.0**-20) if rounded else (k + 1) * unit * (1 + 2.0**-20)


def _settle_exactly(sums, where, a: _Measured, b: _Measured, c: np.ndarray, goal: Target) -> None:
    if where[0].size == 0:
        return
    if a.exact.divisor == 1.0 and b.exact.divisor == 1.0:
        terms = c[where][:, None]
        sums[where] = engine.exact_dots(a.exact.planes, b.exact.planes, terms, *where, *goal.rounding)
        return
    from dgref.reference.exact_quotient import quotients

    sums[where] = quotients(a.exact, b.exact, c[where], where, goal.rounding)


def _addend(c: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    if c is None:
        return None
    values = to_numpy(c, "c")
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ShapeError(expected("c", values.shape, f"a shape that broadcasts to {shape}")) from None


def _leading(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        raise ShapeError(expected("b", f"leading axes {b}", f"axes that broadcast with {a} of a")) from None


def _blocks(size: int, step: int) -> Iterator[slice]:
    for start in range(0, size, step):
        yield slice(start, min(start + step, size))
