"""The one place that chooses between the exact oracle and the model of an implementation.

Operations are written once on `product`; they never ask which arithmetic they run under, nor on which path.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from dgref.formats.element import FORMATS
from dgref.formats.tensor import ScaledTensor
from dgref.reference.operands import values

EXACT = "exact"
Path = Literal["fast", "readable", "bound"]
_PATH: ContextVar[Path] = ContextVar("path", default="fast")


@contextmanager
def using(path: Path) -> Iterator[None]:
    """Compute on another path: `readable` is the short tensor-core model, and fractions for the exact result;
    `bound` gives, in place of every result, the float64 limit on how far an implementation may be from exact.
    """
    token = _PATH.set(path)
    try:
        yield
    finally:
        _PATH.reset(token)


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
    c = None if c is None else values(c, "c")
    if bounding():
        return _limits(a, b, c, model, out, alpha, rows, columns)
    if 0 in (*a.shape, *b.shape):
        return _nothing_to_add(_result_shape(a, b, rows, columns), c, out)
    if model is None and _PATH.get() == "readable":
        return _by_fractions(a, b, c, alpha, out)[..., _all(rows), :][..., _all(columns)]
    if model is None:
        from dgref.reference.exact import contract_exact

        return contract_exact(a, b, c, alpha=alpha, out=out, rows=rows, columns=columns)
    from dgref.reference.contraction import contract, finish

    seed = c if model.c == "core" and alpha == 1.0 else None
    accumulator = contract(a, b, model, seed, rows=rows, columns=columns, engine=_PATH.get())
    start = None if c is None or seed is not None else c[..., _all(rows), :][..., _all(columns)]
    return finish(accumulator, start, out, None if alpha == 1.0 else alpha, rounding=model.output_rounding)


def bounding() -> bool:
    """Say whether limits are computed in place of results."""
    return _PATH.get() == "bound"


def allocated(shape: tuple[int, ...], out: str) -> np.ndarray:
    """Return zeros for a result in the format `out`, or for its limits."""
    return np.zeros(shape, np.float64 if bounding() else FORMATS[out].native_dtype)


def _limits(a: Any, b: Any, c: Any, model: Any, out: str, alpha: float, rows: Any, columns: Any) -> np.ndarray:
    """Return the limits of any order of adding on the model's accumulator: instructions of one product each."""
    from dgref.reference.bound import derived_bound

    if 0 in (*a.shape, *b.shape):
        return np.zeros(_result_shape(a, b, rows, columns))
    core = replace(model.tensor_core, step=1) if model.tensor_core.group == 1 else None
    return derived_bound(a, b, model, c, out, alpha, rows, columns, core=core, ordered=False)


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


def _all(chosen: Any) -> Any:
    return slice(None) if chosen is None else chosen


def _nothing_to_add(shape: tuple[int, ...], c: Any, out: str) -> np.ndarray:
    return rounded(np.zeros(shape, np.float32) if c is None else c, out)


def _result_shape(a: ScaledTensor, b: ScaledTensor, rows: Any, columns: Any) -> tuple[int, ...]:
    m = a.shape[-2] if rows is None else len(rows)
    n = b.shape[-2] if columns is None else len(columns)
    return (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), m, n)


def rounded(array: np.ndarray, out: str, rounding: str = "nearest_even") -> np.ndarray:
    """Return float32 values rounded to the native dtype of `out`, as the last step of a kernel."""
    from dgref.reference.contraction import finish

    return finish(np.asarray(array, np.float32), out=out, rounding=rounding)
