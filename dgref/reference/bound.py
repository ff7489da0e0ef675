"""The derived bound: what any implementation of an arithmetic may give, element by element.

Nothing here is fitted. The recurrences, and why each is an upper limit, are in docs/bound.md; every float64 rounding
of the bound itself is covered by the final inflation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dgref.formats.element import FORMATS
from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference import bound_engine as engine
from dgref.reference import limits as limits_of
from dgref.reference.arithmetic import Arithmetic, resolve
from dgref.reference.bound_instructions import whole_instructions
from dgref.reference.bound_operand import Order, Plan, Side, dequantising, finite, input_rounding
from dgref.reference.bound_plans import one_at_a_time
from dgref.reference.bound_sum import HALF_ULP, TINY, Sum, largest_of
from dgref.reference.checks import own_index, selection
from dgref.reference.engine import threads_for
from dgref.reference.exact import contract_exact
from dgref.reference.exact_operand import as_tensor
from dgref.reference.folding import folded
from dgref.reference.limits import INFLATION, LIMITS
from dgref.reference.operands import take_rows
from dgref.reference.tensor_core import TENSOR_CORES, TensorCore

ROW_TILE, COLUMN_TILE = 512, 2048
_COST = 4  # of a product beside one that is only added
_FP32 = "sm100.tcgen05.bfloat16"  # truncates more than any sum in fp32 rounds


def derived_bound(a: ScaledTensor, b: ScaledTensor, arithmetic: str | Arithmetic, *args: Any, **options: Any) -> Any:
    """Return float64 limits on |implementation - `contract_exact`|, both in the format `out`.

    Arguments are those of `derived_limits`. Inf where an overflow cannot be excluded, NaN where exact is NaN.
    """
    return limits_of.distances(*_of_one(a, b, arithmetic, *args, **options))


def derived_limits(a: ScaledTensor, b: ScaledTensor, arithmetic: str | Arithmetic, *args: Any, **options: Any) -> Any:
    """Return what an implementation may give in place of `contract_exact`, as LIMITS.

    Arguments are (a, b, arithmetic, c, out, alpha, rows, columns, core, order, dequantised): see `Plan`.
    """
    return _of_one(a, b, arithmetic, *args, **options)[1]


def limits_of_any(a: ScaledTensor, b: ScaledTensor, plans: Sequence[Plan], *args: Any) -> np.ndarray:
    """Return the limits of an implementation that has one of several plans; further arguments as `derived_limits`."""
    return _bounded(a, b, plans, *args)[1]


def _of_one(
    a: ScaledTensor,
    b: ScaledTensor,
    arithmetic: str | Arithmetic,
    c: np.ndarray | None = None,
    out: str = "bfloat16",
    alpha: float = 1.0,
    rows: np.ndarray | slice | None = None,
    columns: np.ndarray | slice | None = None,
    core: TensorCore | None = None,
    order: Order = "ascending",
    dequantised: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    plan = Plan(resolve(arithmetic), core or resolve(arithmetic).tensor_core, order, dequantised)
    return _bounded(a, b, [plan], c, out, alpha, rows, columns)


def _bounded(
    a: ScaledTensor,
    b: ScaledTensor,
    plans: Sequence[Plan],
    c: np.ndarray | None,
    out: str,
    alpha: float,
    rows: np.ndarray | slice | None,
    columns: np.ndarray | slice | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact results and the limits of any of the plans."""
    a, b = as_tensor(a, "a"), as_tensor(b, "b")
    m, n = selection(rows, a.shape[-2], "rows"), selection(columns, b.shape[-2], "columns")
    with threads_for(_COST * a.shape[-1] * m.size * n.size):
        exact = contract_exact(a, b, c, alpha, out, rows, columns)
        result = np.empty(exact.shape, LIMITS)
        addend = None if c is None else np.broadcast_to(to_numpy(c), (*exact.shape[:-2], a.shape[-2], b.shape[-2]))
        seen = [_folded(a, b, n, plan) for plan in plans]
        for batch in np.ndindex(*exact.shape[:-2]):
            part = None if addend is None else addend[batch][np.ix_(m, n)].astype(np.float64)
            for number, (x, y, chosen, plan) in enumerate(seen):
                left = Side(x, m, own_index(batch, x.shape[:-2]), plan, _rounding(x, plan.arithmetic.round_a, plan))
                index = own_index(batch, y.shape[:-2])
                right = Side(y, chosen, index, plan, _rounding(y, plan.arithmetic.round_b, plan))
                own = _matrix(left, right, plan, part, alpha, exact[batch], out)
                result[batch] = limits_of.either(result[batch], own) if number else own
    return exact, result


def _folded(a: ScaledTensor, b: ScaledTensor, n: np.ndarray, plan: Plan) -> tuple[Any, Any, np.ndarray, Plan]:
    """Return the operands that a plan multiplies, which of the second one's rows are chosen, and the plan for them."""
    if plan.arithmetic.fold_b is None:
        return a, b, n, plan
    a, b, arithmetic = folded(a, take_rows(b, n), plan.arithmetic)
    return a, b, np.arange(n.size), replace(plan, arithmetic=arithmetic)


def _matrix(
    a: Side, b: Side, plan: Plan, c: np.ndarray | None, alpha: float, exact: np.ndarray, out: str
) -> np.ndarray:
    """Return the limits of one matrix of results, tile by tile."""
    limits = np.empty(exact.shape, LIMITS)
    for tile in _tiles(*exact.shape):
        part = None if c is None else c[tile]
        limits[tile] = _rounded(a.take(tile[0]), b.take(tile[1]), plan, part, alpha, exact[tile], out)
    return limits


def _rounding(tensor: ScaledTensor, chosen: str | None, plan: Plan) -> float:
    return dequantising(tensor) if plan.dequantised else input_rounding(tensor, chosen, plan.core)


def _rounded(
    a: Side, b: Side, plan: Plan, c: np.ndarray | None, alpha: float, exact: np.ndarray, out: str
) -> np.ndarray:
    """Return the limits of one tile of results in the format `out`."""
    found = _tile(a, b, plan, c, alpha if np.isfinite(alpha) else 1.0)
    found.error *= INFLATION
    came_in = ~(a.unmixed()[:, None] & b.unmixed() & np.isfinite(alpha))
    came_in |= False if c is None else ~np.isfinite(c)
    exact = exact.astype(np.float64)
    if plan.arithmetic.output_rounding != "nearest_even":
        found.error += engine.ulps(np.abs(found.total) + found.error, FORMATS[out].mantissa_bits)
    own = limits_of.stored(found.total, found.error, found.reach, out, found.undefined)
    return np.where(came_in, limits_of.carried(exact, found.reach, found.undefined), own)


def _tile(a: Side, b: Side, plan: Plan, c: np.ndarray | None, alpha: float) -> Sum:
    """Return one tile before the output is rounded."""
    shape = (a.rows.size, b.rows.size)
    seed = c if plan.arithmetic.c == "core" else None
    ranges = plan.arithmetic.ranges(a.tensor.shape[-1])
    sum, sizes = Sum.zero(shape), np.zeros(shape)
    for number, span in enumerate(ranges):
        part = _split(a, b, plan, span, seed if number == 0 else None)
        if plan.arithmetic.partial != "float32":
            part.round(FORMATS[plan.arithmetic.partial].mantissa_bits)
            part.settle(largest_of(plan.arithmetic.partial))
        sum.add(part)
        sizes += np.abs(part.total)
    for _ in ranges[1:]:  # the partial sums of a reduction in any order are at most the sum of magnitudes
        sum.error += HALF_ULP * (sizes + sum.error) + TINY
    sum.settle()
    if plan.arithmetic.scales == "epilogue":
        k = a.tensor.shape[-1]
        sum.multiply((a.scale(0, k)[:, None], b.scale(0, k)[None]), 2)
    factors = [float(finite(side.factor())) for side in (a, b)] + [alpha]
    if any(factor != 1.0 for factor in factors):
        sum.multiply(factors, 5)
    if c is not None and seed is None:
        sum.add_exactly(finite(c))
        sum.error += HALF_ULP * (np.abs(sum.total) + np.abs(finite(c)) + sum.error) + TINY
    sum.settle()
    return sum


def _split(a: Side, b: Side, plan: Plan, span: tuple[int, int], seed: np.ndarray | None) -> Sum:
    """Return one split: its chains, scaled and promoted one after the other."""
    sum = Sum.zero((a.rows.size, b.rows.size))
    for number, (start, stop) in enumerate(plan.arithmetic.chains(*span)):
        chain = _chain(a, b, plan, start, stop, seed if number == 0 else None)
        if plan.scale_roundings:
            chain.multiply((a.scale(start, stop)[:, None], b.scale(start, stop)[None]), plan.scale_roundings)
        sum.add(chain)
        if number or plan.scale_roundings:
            sum.round(23)
    return sum


def _chain(a: Side, b: Side, plan: Plan, start: int, stop: int, seed: np.ndarray | None) -> Sum:
    """Return a chain's exact sum in float64, and the limit on what its instructions lose."""
    operands = [[array[:, start:stop] for array in side.seen] for side in (a, b)]
    (x, _), (y, _) = operands
    error = _input_error(x, y, a.rounding, b.rounding)
    error += (stop - start + 9) * 2.0**-52 * np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    begin = np.zeros(error.shape) if seed is None else finite(seed)
    sizes, exact = np.abs(begin) + np.abs(x) @ np.abs(y).T, begin + x @ y.T
    above, below = (np.maximum((sizes + sign * exact) / 2, 0) for sign in (1, -1))
    if plan.order == "rounded":
        error += HALF_ULP * (np.abs(x) @ np.abs(y).T) + (stop - start) * TINY  # of products
    infinite = a.overflowing()[:, None] | b.overflowing()
    above[infinite] = below[infinite] = np.inf
    reach = sizes if plan.order != "rounded" else np.maximum(above, below)
    shift, error = _ORDERS[plan.order](*operands, begin, error, plan, reach * INFLATION)
    sum = Sum(exact + shift, error, above + np.abs(shift), below + np.abs(shift), infinite)
    sum.settle()
    return sum


def _ascending(a: list, b: list, begin: np.ndarray, error: np.ndarray, plan: Plan, sizes: np.ndarray) -> tuple:
    """Instructions over K from its first element to its last."""
    total = begin.copy()
    for k, tops in _instructions(a, b, plan.core.step):
        engine.align(total, error, a[0][:, k] @ b[0][:, k].T, *tops, plan.terms, *plan.widths)
    return 0.0, error


def _any_order(a: list, b: list, begin: np.ndarray, error: np.ndarray, plan: Plan, sizes: np.ndarray) -> tuple:
    """Instructions over any elements of K: no partial sum exceeds the sum of magnitudes."""
    tops, steps = (a[1].max(axis=1, initial=0), b[1].max(axis=1, initial=0)), -(-a[0].shape[1] // plan.core.step)
    engine.align_in_any_order(error, sizes, steps, *tops, plan.terms, *plan.widths)
    return 0.0, error


def _rounded_in_any_order(
    a: list, b: list, begin: np.ndarray, error: np.ndarray, plan: Plan, sizes: np.ndarray
) -> tuple:
    """Sums of two terms at a time, each rounded to fp32: none exceeds the terms of one sign."""
    tops = a[1].max(axis=1, initial=0), b[1].max(axis=1, initial=0)
    engine.align_in_any_order(error, sizes, a[0].shape[1], *tops, 0, 0.0, 24, 0.0, True)  # half an ulp each
    return 0.0, error


def _whole_instructions(a: list, b: list, begin: np.ndarray, error: np.ndarray, plan: Plan, sizes: np.ndarray) -> tuple:
    """Whole instructions of every published kind, in any order and any chains, or fp32 sums: the ends of all."""
    wide = Plan(plan.arithmetic, one_at_a_time(TENSOR_CORES[_FP32]), "any")
    _, in_fp32 = _any_order(a, b, begin, np.zeros(error.shape), wide, sizes)
    low, high = -in_fp32, in_fp32
    roundings = -(-a[0].shape[1] // plan.core.k) * HALF_ULP  # where chains meet in fp32
    meeting = roundings / (1 - roundings)
    least, most = whole_instructions(a, b, begin, *plan.grid, meeting)
    low, high = np.minimum(low, least), np.maximum(high, most)
    return (low + high) / 2, (high - low) / 2 + error


_ORDERS = {
    "ascending": _ascending,
    "instructions": _whole_instructions,
    "any": _any_order,
    "rounded": _rounded_in_any_order,
}


def _instructions(a: list, b: list, step: int) -> Iterator[tuple[slice, tuple[np.ndarray, np.ndarray]]]:
    """Yield the K of each instruction, and the largest binade in it of every row of both sides."""
    extent = a[0].shape[1]
    for low in range(0, extent, step):
        k = slice(low, min(low + step, extent))
        yield k, (a[1][:, k].max(axis=1), b[1][:, k].max(axis=1))


def _input_error(x: np.ndarray, y: np.ndarray, x_rounding: float, y_rounding: float) -> np.ndarray:
    if not (x_rounding or y_rounding):
        return np.zeros((len(x), len(y)))
    relative = x_rounding + y_rounding + x_rounding * y_rounding
    wide = [np.maximum(np.abs(v), 2.0**-126) if r else np.abs(v) for v, r in ((x, x_rounding), (y, y_rounding))]
    return relative * (wide[0] @ wide[1].T)


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, rows, ROW_TILE):
        for left in range(0, columns, COLUMN_TILE):
            yield slice(top, min(top + ROW_TILE, rows)), slice(left, min(left + COLUMN_TILE, columns))
