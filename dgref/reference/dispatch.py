"""The one place that chooses between the exact oracle and the model of an implementation.

Operations are written once on `product`; they never ask which arithmetic they run under.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgref.errors import UnsupportedError, expected
from dgref.formats.element import FORMATS
from dgref.formats.tensor import ScaledTensor

EXACT = "exact"


def resolve(arithmetic: Any) -> Any:
    """Return the Arithmetic of a name, or None for the exact oracle."""
    if isinstance(arithmetic, str):
        from dgref.reference.arithmetic import ARITHMETICS

        return None if arithmetic == EXACT else ARITHMETICS[arithmetic]
    return arithmetic


def product(
    a: ScaledTensor,
    b: ScaledTensor,
    c: Any = None,
    *,
    arithmetic: Any = EXACT,
    out: str = "float32",
    alpha: float = 1.0,
    rows: Any = None,
    columns: Any = None,
) -> np.ndarray:
    """Return alpha * a @ b.T + c for a [..., m, k] and b [..., n, k], in the native dtype of `out`."""
    out = FORMATS[out].name
    model = resolve(arithmetic)
    if 0 in (*a.shape, *b.shape):
        return _nothing_to_add(_result_shape(a, b, rows, columns), c, out)
    if model is None:
        from dgref.reference.exact import contract_exact

        return contract_exact(a, b, c, alpha=alpha, out=out, rows=rows, columns=columns)
    if alpha != 1.0:
        raise UnsupportedError(expected("alpha", alpha, "1: the order in which a model scales its sum is not declared"))
    from dgref.reference.contraction import contract, finish

    return finish(contract(a, b, model, rows=rows, columns=columns), c, out)


def _nothing_to_add(shape: tuple[int, ...], c: Any, out: str) -> np.ndarray:
    from dgref.reference.operands import values

    return rounded(np.zeros(shape, np.float32) if c is None else values(c, "c"), out)


def _result_shape(a: ScaledTensor, b: ScaledTensor, rows: Any, columns: Any) -> tuple[int, ...]:
    m = a.shape[-2] if rows is None else len(rows)
    n = b.shape[-2] if columns is None else len(columns)
    return (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), m, n)


def rounded(values: np.ndarray, out: str) -> np.ndarray:
    """Return float32 values rounded to nearest even in the native dtype of `out`; overflow is Inf, as GPUs store."""
    row = FORMATS[out]
    if row.name == "float32":
        return np.asarray(values, np.float32)
    return row.encode(np.asarray(values, np.float32), overflow="inf").view(row.native_dtype)
