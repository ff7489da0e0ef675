"""D = A @ B.T + C, dense, and its head-split epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dgref.errors import InputError, ShapeError, expected, shown, whole_number
from dgref.reference.dispatch import EXACT, product
from dgref.reference.operands import bind, operation, scaled


@operation
def gemm(
    a: Any,
    b: Any,
    c: Any = None,
    *,
    arithmetic: Any = EXACT,
    out: str = "bfloat16",
    alpha: float = 1.0,
    head_splits: Sequence[int] | None = None,
    rows: Any = None,
    columns: Any = None,
) -> np.ndarray:
    """Return alpha * a[m, k] @ b[n, k].T + c[m, n], rounded once at the end to `out`.

    `head_splits` (left, mid, right) leaves a gap of `mid` columns after the first `left` columns of each head of
    left + right; no kernel writes the gap, and it is zero here. `rows` and `columns` compute a part of the result.
    """
    a, b = scaled(a, "a"), scaled(b, "b")
    bind({"a": ("m k", a), "b": ("n k", b), "c": ("m n", c)})
    if head_splits is not None and (rows is not None or columns is not None or c is not None):
        raise InputError(expected("head_splits", "also rows, columns or c", "a whole product that starts from zero"))
    d = product(a, b, c, arithmetic=arithmetic, out=out, alpha=alpha, rows=rows, columns=columns)
    return d if head_splits is None else _spread_heads(d, head_splits)


def split_columns(n: int, head_splits: Sequence[int]) -> np.ndarray:
    """Return the output column that each of n columns of a product goes to under a head split."""
    left, mid, right = _extents(head_splits)
    if n % (left + right):
        raise ShapeError(expected("n", n, f"a multiple of left + right = {left + right}, from head_splits"))
    column = np.arange(n)
    return column + (column + right) // (left + right) * mid


def split_width(n: int, head_splits: Sequence[int]) -> int:
    """Return how many columns the output has under a head split."""
    left, mid, right = _extents(head_splits)
    return n + n // (left + right) * mid


def _extents(head_splits: Sequence[int]) -> tuple[int, int, int]:
    need = "three extents >= 0 with left + right > 0"
    if not isinstance(head_splits, Sequence | np.ndarray) or np.shape(head_splits) != (3,):
        raise InputError(expected("head_splits", shown(head_splits), need))
    left, mid, right = (whole_number("head_splits", extent) for extent in head_splits)
    if left + right == 0:
        raise InputError(expected("head_splits", [left, mid, right], need))
    return left, mid, right


def _spread_heads(d: np.ndarray, head_splits: Sequence[int]) -> np.ndarray:
    m, n = d.shape
    targets = split_columns(n, head_splits)
    gapped = np.zeros((m, split_width(n, head_splits)), d.dtype)
    gapped[:, targets] = d
    return gapped
