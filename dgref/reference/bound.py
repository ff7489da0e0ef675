"""The derived bound: what any implementation of an arithmetic may give, element by element.

Nothing here is fitted. The recurrences, and why each is an upper limit, are in docs/bound.md; every float64 rounding
of the bound itself is covered by the final inflation.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from dgref.reference.bound_operand import Order, Plan, Side, finite, input_rounding
from dgref.reference.bound_sum import HALF_ULP, TINY, Sum, largest_of
from dgref.reference.checks import own_index, selection
from dgref.reference.exact import contract_exact
from dgref.reference.exact_operand import as_tensor
from dgref.reference.limits import INFLATION, LIMITS
from dgref.reference.tensor_core import TENSOR_CORES, TensorCore

ROW_TILE, COLUMN_TILE = 512, 2048
_FP32 = "sm100.tcgen05.bfloat16"  # truncates more than any sum in fp32 rounds


def derived_bound(a: ScaledTensor, b: ScaledTensor, arithmetic: str | Arithmetic, *args: Any, **options: Any) -> Any:
    """Return float64 limits on |implementation - `contract_exact`|, both in the format `out`.

    Arguments are those of `derived_limits`. Inf where an overflow cannot be excluded, NaN where exact is NaN.
    """
    return limits_of.distances(*_bounded(a, b, arithmetic, *args, **options))


def derived_limits(a: ScaledTensor, b: ScaledTensor, arithmetic: str | Arithmetic, *args: Any, **options: Any) -> Any:
    """Return what an implementation may give in place of `contract_exact`, as LIMITS.

    Arguments are (a, b, arithmetic, c, out, alpha, rows, columns, core, order). The implementation has the chains,
    promotions, splits and scale products of `arithmetic`, and the accumulator of its tensor core or of `core`. Within
    a chain it takes K in `order`: "ascending", or in whole "instructions" of consecutive K, in any order and any number
    of further chains, or in "any" order.
    """
    return _bounded(a, b, arithmetic, *args, **options)[1]


def _bounded(
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
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact results and their limits."""
    arithmetic = resolve(arithmetic)
    plan = Plan(arithmetic, core or arithmetic.tensor_core, order)
    a, b = as_tensor(a, "a"), as_tensor(b, "b")
    exact = contract_exact(a, b, c, alpha, out, rows, columns)
    result = np.empty(exact.shape, LIMITS)
    m, n = selection(rows, a.shape[-2], "rows"), selection(columns, b.shape[-2], "columns")
    addend = None if c is None else np.broadcast_to(to_numpy(c), (*exact.shape[:-2], a.shape[-2], b.shape[-2]))
    for batch in np.ndindex(*exact.shape[:-2]):
        left = Side(a, m, own_index(batch, a.shape[:-2]), plan, input_rounding(a, arithmetic.round_a, plan.core))
        right = Side(b, n, own_index(batch, b.shape[:-2]), plan, input_rounding(b, arithmetic.round_b, plan.core))
        for tile in _tiles(m.size, n.size):
            part = None if addend is None else addend[batch][np.ix_(m[tile[0]], n[tile[1]])].astype(np.float64)
            sides = left.take(tile[0]), right.take(tile[1])
            result[batch][tile] = _rounded(*sides, plan, part, alpha, exact[batch][tile], out)
    return exact, result


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
    infinite = a.overflowing()[:, None] | b.overflowing()
    above[infinite] = below[infinite] = np.inf
    shift, error = _ORDERS[plan.order](*operands, begin, error, plan, sizes * INFLATION)
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


_ORDERS = {"ascending": _ascending, "instructions": _whole_instructions, "any": _any_order}


def _instructions(a: list, b: list, step: int) -> Iterator[tuple[slice, tuple[np.ndarray, np.ndarray]]]:
    """Yield the K of each instruction, and the largest binade in it of every row of both sides."""
    extent = a[0].shape[1]
    for low in range(0, extent, step):
        k = slice(low, min(low + step, extent))
        yield k, (a[1][:, k].max(axis=1), b[1][:, k].max(axis=1))


def one_at_a_time(core: TensorCore) -> TensorCore:
    """Return a core that aligns one product at a time: in any order, what it loses covers every other step."""
    return replace(core, step=1) if core.group == 1 else core


def halved(core: TensorCore) -> TensorCore:
    """Return a core that takes half an instruction at a time: in any order, what it loses covers whole ones."""
    return replace(core, step=core.k // 2)


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
