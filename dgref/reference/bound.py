"""The derived bound: how far from exact any implementation of an arithmetic can be, element by element.

Nothing here is fitted. The recurrences, and why each is an upper limit, are in docs/bound.md; every float64 rounding
of the bound itself is covered by the final inflation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from dgref.errors import InputError, expected
from dgref.formats.element import FORMATS
from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference import bound_engine as engine
from dgref.reference.arithmetic import Arithmetic, resolve
from dgref.reference.checks import selection
from dgref.reference.exact import contract_exact, own_index
from dgref.reference.exact_operand import as_tensor, decode64
from dgref.reference.exact_target import target
from dgref.reference.tensor_core import OUTPUT_MANTISSA, TensorCore

ROW_TILE, COLUMN_TILE = 512, 2048
_HALF_ULP = 2.0**-24  # of fp32, relative
_TINY = 2.0**-150  # half the smallest fp32: the absolute error of a rounding that underflows
_MAY_OVERFLOW = 2.0 ** (127 - 40)  # an error this large needs a term near fp32's largest, in any accumulator of 40 bits
_INFLATION = 1.0 + 2.0**-20  # over the float64 roundings of the bound's own sums, which are 2^-53 each


def derived_bound(
    a: ScaledTensor,
    b: ScaledTensor,
    arithmetic: str | Arithmetic,
    c: np.ndarray | None = None,
    out: str = "bfloat16",
    alpha: float = 1.0,
    rows: np.ndarray | slice | None = None,
    columns: np.ndarray | slice | None = None,
    core: TensorCore | None = None,
    ordered: bool = True,
) -> np.ndarray:
    """Return float64 limits on |implementation - `contract_exact`|, both in the format `out`.

    The implementation has the chains, promotions, splits and scale products of `arithmetic`, and the accumulator of
    its tensor core or of `core`. `ordered=False` lets it take K in any order within a chain. The limit is Inf where
    an overflow cannot be excluded, and NaN where the exact result is NaN.
    """
    arithmetic = resolve(arithmetic)
    plan = _Plan(arithmetic, core or arithmetic.tensor_core, ordered)
    a, b = as_tensor(a, "a"), as_tensor(b, "b")
    exact = contract_exact(a, b, c, alpha, out, rows, columns)
    result = np.empty(exact.shape)
    m, n = selection(rows, a.shape[-2], "rows"), selection(columns, b.shape[-2], "columns")
    addend = None if c is None else np.broadcast_to(to_numpy(c), (*exact.shape[:-2], a.shape[-2], b.shape[-2]))
    for batch in np.ndindex(*exact.shape[:-2]):
        left = _Side(a, m, own_index(batch, a.shape[:-2]), plan, _input_rounding(a, arithmetic.round_a, plan.core))
        right = _Side(b, n, own_index(batch, b.shape[:-2]), plan, _input_rounding(b, arithmetic.round_b, plan.core))
        for tile in _tiles(m.size, n.size):
            part = None if addend is None else addend[batch][np.ix_(m[tile[0]], n[tile[1]])].astype(np.float64)
            error = _tile(left.take(tile[0]), right.take(tile[1]), plan, part, alpha)
            special = ~(left.take(tile[0]).finite()[:, None] & right.take(tile[1]).finite())
            special |= False if part is None else ~np.isfinite(part)
            result[batch][tile] = _after_rounding(error, exact[batch][tile].astype(np.float64), special, out)
    return result


@dataclass(frozen=True)
class _Plan:
    """What the recurrence needs to know of an arithmetic."""

    arithmetic: Arithmetic
    core: TensorCore
    ordered: bool

    @property
    def terms(self) -> int:
        """The number of terms that one alignment truncates, C included."""
        return self.core.step // self.core.group + 1

    @property
    def widths(self) -> tuple[float, int, float, bool]:
        """The unit of truncation, the result's mantissa bits, the smallest alignment, whether C is one of the terms."""
        core = self.core
        aligned = core.c == "aligned"
        return 2.0**-core.fraction_bits, OUTPUT_MANTISSA[core.output], 2.0 ** max(core.floor, -1000), aligned

    @property
    def scaled_outside(self) -> bool:
        return self.arithmetic.scales in ("product", "each")

    @property
    def scale_roundings(self) -> int:
        """Roundings between a chain and its scaled value; an fma does the last one inside the addition."""
        return (1 if self.arithmetic.promotion == "fma" else 2) if self.scaled_outside else 0


@dataclass(frozen=True)
class _Side:
    """The chosen rows of one matrix operand, and the relative error of bringing them into the core's format."""

    tensor: ScaledTensor
    rows: np.ndarray
    batch: tuple[int, ...]
    plan: _Plan
    rounding: float

    def take(self, part: slice) -> _Side:
        """Return the same side for a part of its rows."""
        return replace(self, rows=self.rows[part])

    @cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """What the multiplier sees of the rows, and the power of two that each element aligns by."""
        codes = to_numpy(self.tensor.data)[self.batch][self.rows]
        values = _finite(decode64(self.tensor.format, codes))
        anchors = engine.anchors(values, FORMATS[self.tensor.format].emin)
        if self.rounding:
            anchors *= 2.0  # rounding an operand may carry into the next binade
        if self.plan.arithmetic.scales != "core" or self.tensor.scale is None:
            return values, anchors
        scales = _finite(self._grid())
        width = self.tensor.scaling.extents(self.tensor.shape)[1]
        scales = np.ascontiguousarray(np.repeat(scales, width, axis=1)[:, : codes.shape[1]])
        scale_anchors = engine.anchors(scales, -1000)
        grouped = self.plan.core.group > 1  # a group's exact sum is aligned by its scales alone
        return values * scales, scale_anchors if grouped else anchors * scale_anchors

    def scale(self, start: int, stop: int) -> np.ndarray:
        """Return the one scale of each row that multiplies a chain from outside."""
        if self.tensor.scale is None:
            return np.ones(self.rows.size)
        width = self.tensor.scaling.extents(self.tensor.shape)[1]
        if start // width != max(stop - 1, start) // width:
            raise InputError(expected("chain", f"K {start}..{stop}", f"within one scale block of {width}"))
        return np.abs(_finite(self._grid()[:, start // width]))

    def finite(self) -> np.ndarray:
        """Return which rows hold neither NaN nor Inf."""
        payload = decode64(self.tensor.format, to_numpy(self.tensor.data)[self.batch][self.rows])
        finite = np.isfinite(payload).all(axis=1)
        return finite if self.tensor.scale is None else finite & np.isfinite(self._grid()).all(axis=1)

    def factor(self) -> float:
        """Return the magnitude of the global factor of the matrix."""
        factor = self.tensor.global_factor()
        return 1.0 if factor is None else abs(float(np.broadcast_to(factor, self.tensor.shape[:-2])[self.batch]))

    def _grid(self) -> np.ndarray:
        height = self.tensor.scaling.extents(self.tensor.shape)[0]
        return to_numpy(self.tensor.scale_values())[self.batch][self.rows // height].astype(np.float64)


def _tile(a: _Side, b: _Side, plan: _Plan, c: np.ndarray | None, alpha: float) -> np.ndarray:
    """Return the error limits of one tile before the output is rounded."""
    shape = (a.rows.size, b.rows.size)
    seed = c if plan.arithmetic.c == "core" else None
    ranges = plan.arithmetic.ranges(a.tensor.shape[-1])
    total, error = np.zeros(shape), np.zeros(shape)
    for number, span in enumerate(ranges):
        part, part_error = _split(a, b, plan, span, seed if number == 0 else None)
        _round(
            part, part_error, FORMATS[plan.arithmetic.partial].mantissa_bits, skip=plan.arithmetic.partial == "float32"
        )
        # the partial sums of a reduction in any order are at most the sum of magnitudes
        total += np.abs(part) if len(ranges) > 1 else part
        error += part_error
    for _ in ranges[1:]:
        error += _HALF_ULP * (np.abs(total) + error) + _TINY
    if plan.arithmetic.scales == "epilogue":
        total, error = _multiplied(
            total, error, a.scale(0, a.tensor.shape[-1])[:, None] * b.scale(0, b.tensor.shape[-1]), 2
        )
    factors = a.factor() * b.factor() * abs(alpha)
    if factors != 1.0:
        total, error = _multiplied(total, error, factors, 5)
    if c is not None and seed is None:
        error += _HALF_ULP * (np.abs(total) + np.abs(_finite(c)) + error) + _TINY
    return error * _INFLATION


def _split(
    a: _Side, b: _Side, plan: _Plan, span: tuple[int, int], seed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact total of one split in float64, and its error limit."""
    shape = (a.rows.size, b.rows.size)
    total, error = np.zeros(shape), np.zeros(shape)
    for number, (start, stop) in enumerate(plan.arithmetic.chains(*span)):
        chain, chain_error = _chain(a, b, plan, start, stop, seed if number == 0 else None)
        if plan.scale_roundings:
            scale = a.scale(start, stop)[:, None] * b.scale(start, stop)
            chain, chain_error = _multiplied(chain, chain_error, scale, plan.scale_roundings)
        total += chain
        error += chain_error
        if number or plan.scale_roundings:
            _round(total, error, 23)
    return total, error


def _chain(
    a: _Side, b: _Side, plan: _Plan, start: int, stop: int, seed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a chain's exact sum in float64, and the limit on what its instructions lose."""
    (x, x_anchors), (y, y_anchors) = ([array[:, start:stop] for array in side.seen] for side in (a, b))
    total = np.zeros((len(x), len(y))) if seed is None else _finite(seed).copy()
    error = _input_error(x, y, a.rounding, b.rounding)
    error += (stop - start + 9) * 2.0**-52 * np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    if not plan.ordered:
        tops, steps = (x_anchors.max(axis=1), y_anchors.max(axis=1)), -(-(stop - start) // plan.core.step)
        reach = (np.abs(total) + np.abs(x) @ np.abs(y).T) * _INFLATION
        engine.align_in_any_order(error, reach, steps, *tops, plan.terms, *plan.widths)
        return total + x @ y.T, error
    for low in range(0, stop - start, plan.core.step):
        k = slice(low, low + plan.core.step)
        tops = x_anchors[:, k].max(axis=1), y_anchors[:, k].max(axis=1)
        engine.align(total, error, x[:, k] @ y[:, k].T, *tops, plan.terms, *plan.widths)
    return total, error


def _input_error(x: np.ndarray, y: np.ndarray, x_rounding: float, y_rounding: float) -> np.ndarray:
    if not (x_rounding or y_rounding):
        return np.zeros((len(x), len(y)))
    relative = x_rounding + y_rounding + x_rounding * y_rounding
    wide = [np.maximum(np.abs(v), 2.0**-126) if r else np.abs(v) for v, r in ((x, x_rounding), (y, y_rounding))]
    return relative * (wide[0] @ wide[1].T)


def _multiplied(total: np.ndarray, error: np.ndarray, factor: np.ndarray | float, roundings: int) -> tuple:
    """Return the magnitude and error of a product whose factor and result are rounded in fp32 along the way."""
    size = (np.abs(total) + error) * (factor + roundings * _TINY)
    size = np.where((size < engine.OVERFLOW) & (factor < engine.OVERFLOW), size, np.inf)
    relative = roundings * _HALF_ULP * (1 + 2.0**-20)
    return total * factor, error * factor + relative * size + roundings * (size / np.maximum(factor, _TINY) + 1) * _TINY


def _round(total: np.ndarray, error: np.ndarray, mantissa_bits: int, skip: bool = False) -> None:
    """Add half an ulp of what is rounded to nearest."""
    if not skip:
        error += 0.5 * engine.ulps(np.abs(total) + error, mantissa_bits)


def _after_rounding(error: np.ndarray, exact: np.ndarray, special: np.ndarray, out: str) -> np.ndarray:
    """Return limits on the difference of both rounded results: both may have moved by half an ulp.

    NaN and Inf that came in (`special`) must come out; an Inf that only rounding made may be finite elsewhere. Where
    the finite terms alone may overflow, an Inf that came in may meet one of the other sign and become NaN.
    """
    goal = target(out)
    reach = np.abs(exact) + error
    exponent = np.frexp(np.clip(reach, 2.0**goal.emin, goal.largest))[1]
    ulp = np.ldexp(1.0, exponent - goal.precision)
    limit = np.where(reach + ulp < goal.largest, (error + ulp) * _INFLATION, np.inf)
    beside_infinity = np.where(error < _MAY_OVERFLOW, 0.0, np.inf)
    return np.where(np.isnan(exact), np.nan, np.where(special, beside_infinity, limit))


def _input_rounding(tensor: ScaledTensor, chosen: str | None, core: TensorCore) -> float:
    """Return the relative error of bringing an operand into the format that the core multiplies."""
    own = FORMATS[tensor.format].mantissa_bits
    if chosen and FORMATS[chosen].mantissa_bits < own:
        return 2.0 ** -(FORMATS[chosen].mantissa_bits + 1)
    if tensor.format == "float32" and core.format == "tfloat32":
        return 2.0 ** -FORMATS["tfloat32"].mantissa_bits  # the hardware drops the low bits
    return 0.0


def _finite(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, rows, ROW_TILE):
        for left in range(0, columns, COLUMN_TILE):
            yield slice(top, min(top + ROW_TILE, rows)), slice(left, min(left + COLUMN_TILE, columns))
