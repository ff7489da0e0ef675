"""The one place that chooses between the exact oracle and the model of an implementation.

Operations are written once on `product`; they never ask which arithmetic they run under, nor on which path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np

from dgref.errors import InputError, expected
from dgref.formats.element import FORMATS
from dgref.formats.tensor import ScaledTensor
from dgref.reference.checks import real, selection
from dgref.reference.exact_target import target
from dgref.reference.operands import values

EXACT = "exact"
Path = Literal["fast", "readable", "bound"]
_PATH: ContextVar[Path] = ContextVar("path", default="fast")


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Compute on another path: `readable` is the short tensor-core model, and fractions for the exact result;
    `bound` gives, in place of every result, what an implementation may give (dgref.reference.limits).
    """
    token = _PATH.set(path)
    try:
        yield
    finally:
        _PATH.reset(token)


def resolve(arithmetic: Any) -> Any:
    """Return the Arithmetic of a name, or None for the exact oracle."""
    if arithmetic is None or (isinstance(arithmetic, str) and arithmetic == EXACT):
        return None
    from dgref.reference.arithmetic import resolve

    return resolve(arithmetic)


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
    out, alpha, model = FORMATS[out].name, _float32_range(alpha), resolve(arithmetic)
    target(out)
    c = None if c is None else values(c, "c")
    rows = None if rows is None else selection(rows, a.shape[-2], "rows")
    columns = None if columns is None else selection(columns, b.shape[-2], "columns")
    if bounding():
        return _limits(a, b, c, model, out, alpha, rows, columns)
    if 0 in (*a.shape, *b.shape):
        shape = _result_shape(a, b, rows, columns)
        return rounded(np.zeros(shape, np.float32) if c is None else _chosen(c, rows, columns), out)
    if model is None and _PATH.get() == "readable":
        return _chosen(_by_fractions(a, b, c, alpha, out), rows, columns)
    if model is None:
        from dgref.reference.exact import contract_exact

        return contract_exact(a, b, c, alpha=alpha, out=out, rows=rows, columns=columns)
    from dgref.reference.contraction import contract, finish

    seed = c if model.c == "core" and alpha == 1.0 else None
    accumulator = contract(a, b, model, seed, rows=rows, columns=columns, engine=_PATH.get())
    start = None if c is None or seed is not None else _chosen(c, rows, columns)
    return finish(accumulator, start, out, None if alpha == 1.0 else alpha, rounding=model.output_rounding)


def bounding() -> bool:
    """Say whether limits are computed in place of results."""
    return _PATH.get() == "bound"


def allocated(shape: tuple[int, ...], out: str, fill: float = 0.0) -> np.ndarray:
    """Return a constant result in the format `out`, or limits that allow nothing else."""
    if bounding():
        from dgref.reference.limits import around

        return around(np.full(shape, fill), 0.0)
    return np.full(shape, fill, FORMATS[out].native_dtype)


def size_limits(a: Any, b: Any, arithmetic: Any) -> np.ndarray:
    """Return limits in fp32 whose width no operands of smaller magnitudes exceed: those of terms in any order."""
    return _limits(a, b, None, resolve(arithmetic), "float32", 1.0, None, None, by_size=True)


def _limits(
    a: Any,
    b: Any,
    c: Any,
    model: Any,
    out: str,
    alpha: float,
    rows: Any,
    columns: Any,
    by_size: bool = False,
) -> np.ndarray:
    """Return the limits of the model in every order that is in use; where it is undeclared, of every other way too."""
    from dgref.reference.bound import limits_of_any
    from dgref.reference.bound_plans import plans_of
    from dgref.reference.limits import around

    if 0 in (*a.shape, *b.shape):
        none = np.zeros(_result_shape(a, b, rows, columns)) if c is None else _chosen(c, rows, columns)
        return around(rounded(none, out), 0.0)
    plans = plans_of(a, b, model, c, alpha, by_size)
    return limits_of_any(a, b, plans, c, out, alpha, rows, columns)


def _by_fractions(a: ScaledTensor, b: ScaledTensor, c: Any, alpha: float, out: str) -> np.ndarray:
    from dgref.reference.operands import take
    from dgref.reference.rational import contract_rational

    if len(a.shape) > 2:
        parts = [
            (take(a, i), take(b, i) if len(b.shape) > 2 else b, None if c is None else c[i]) for i in range(a.shape[0])
        ]
        return np.stack([_by_fractions(*part, alpha, out) for part in parts])
    dtype = FORMATS[out].native_dtype
    return contract_rational(a, b, c, alpha, out).astype(np.float32).astype(dtype)  # both steps exact


def _chosen(full: np.ndarray, rows: np.ndarray | None, columns: np.ndarray | None) -> np.ndarray:
    full = full if rows is None else full[..., rows, :]
    return full if columns is None else full[..., columns]


def _float32_range(alpha: Any) -> float:
    """Return alpha; kernels hold it in fp32, so a finite one that fp32 lacks is refused."""
    alpha = real(alpha, "alpha")
    if np.isfinite(alpha) and abs(alpha) > FORMATS["float32"].max:
        raise InputError(expected("alpha", alpha, "a float32"))
    return alpha


def _result_shape(a: ScaledTensor, b: ScaledTensor, rows: Any, columns: Any) -> tuple[int, ...]:
    m = a.shape[-2] if rows is None else len(rows)
    n = b.shape[-2] if columns is None else len(columns)
    return (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), m, n)


def rounded(array: np.ndarray, out: str, rounding: str = "nearest_even") -> np.ndarray:
    """Return float32 values rounded to the native dtype of `out`, as the last step of a kernel."""
    from dgref.reference.contraction import finish

    return finish(np.asarray(array, np.float32), out=out, rounding=rounding)
