"""HyperConnection pre-norm: D = A @ B.T together with the row sums of squares of A, over K or over splits of K."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from dgref.errors import whole_number
from dgref.reference.dispatch import EXACT, bounding, product, resolve
from dgref.reference.operands import bind, operation, scaled, take_columns

MOST_SPLITS = 1 << 16
SPLIT_BLOCK = 64  # K is handed out in blocks of 64, the first splits taking one more (DeepGEMM, kRemainKBlocks)


@operation
def hc_prenorm(a: Any, b: Any, *, num_splits: int | None = None, arithmetic: Any = EXACT) -> dict[str, np.ndarray]:
    """Return {d: a[m, k] @ b[n, k].T, sqr_sum: the sum of a[m, k]^2 over k}, both float32.

    With `num_splits` both have a leading axis of contiguous parts of K, each rounded by itself. Rounding b to TF32 is
    part of an arithmetic: exactly, b is what it is.
    """
    a, b = scaled(a, "a"), scaled(b, "b")
    extents = bind({"a": ("m k", a), "b": ("n k", b)})
    parts = [_part(a, b, span, arithmetic) for span in split_spans(extents["k"], num_splits)]
    d, squares = (np.stack(column) for column in zip(*parts, strict=True))
    return {"d": d, "sqr_sum": squares} if num_splits is not None else {"d": d[0], "sqr_sum": squares[0]}


def split_spans(k: int, num_splits: int | None) -> list[slice]:
    """Return the parts of K; more splits than blocks leave the last ones empty."""
    count = 1 if num_splits is None else whole_number("num_splits", num_splits, 1, MOST_SPLITS)
    blocks = -(-k // SPLIT_BLOCK)
    taken = [blocks // count + (split < blocks % count) for split in range(count)]
    edges = np.minimum(np.concatenate([[0], np.cumsum(taken)]) * SPLIT_BLOCK, k)
    return [slice(int(start), int(stop)) for start, stop in pairwise(edges)]


def _part(a: Any, b: Any, span: slice, arithmetic: Any) -> tuple[np.ndarray, np.ndarray]:
    part_a, part_b = (take_columns(t, span, slice(None)) for t in (a, b))
    return product(part_a, part_b, arithmetic=arithmetic), _square_sums(part_a, arithmetic)


def _square_sums(a: Any, arithmetic: Any) -> np.ndarray:
    if 0 in a.shape:
        return np.zeros(a.shape[:-1], np.float32)
    model = resolve(arithmetic)
    if model is None:
        from dgref.reference.exact import exact_sum_of_squares

        return exact_sum_of_squares(a, out="float32")
    if bounding():
        from dgref.reference.reduction_bounds import square_sum_limits

        return square_sum_limits(a)
    from dgref.reference.reductions import hc_square_sum

    return hc_square_sum(a, model.but(splits=1, boundaries=()))[0]
