"""A . B^T under a declared arithmetic: every bit of the fp32 accumulator before the output is rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from dgref.errors import FormatError, InputError, ShapeError, expected
from dgref.formats.element import FORMATS
from dgref.formats.native import as_native, to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference import engine as fast_engine
from dgref.reference.arithmetic import Arithmetic, resolve
from dgref.reference.checks import own_index, selection
from dgref.reference.engine_operand import Operand, as_scaled, seeded
from dgref.reference.folding import folded, kinds
from dgref.reference.operands import take, take_rows
from dgref.reference.tensor_core import CANONICAL_NAN, TensorCore

Chain = Callable[[TensorCore, Operand, Operand, tuple[int, int], "np.ndarray | None"], np.ndarray]
_TILE_ROWS, _TILE_COLUMNS = 1024, 512  # one tile of partial sums and one slice of B stay in the caches
_READABLE_ELEMENTS = 1 << 19  # products that the readable engine holds at once


def contract(
    a: Any,
    b: Any,
    arithmetic: str | Arithmetic,
    c: Any = None,
    rows: Any = None,
    columns: Any = None,
    engine: Literal["fast", "readable"] | Chain = "fast",
) -> np.ndarray:
    """Return the fp32 accumulator [..., M, N] of a[..., M, K] . b[..., N, K]^T; leading axes broadcast.

    `rows` and `columns` select outputs, so that a sample costs only its own products. C has the full output's shape.
    Memory stays bounded by tiles: operands are decoded as they are needed. NaN comes out as 0x7FFFFFFF. `engine` may
    also be a function that computes one chain of instructions.
    """
    arithmetic = resolve(arithmetic)
    a, b = _rounded(as_scaled(a), arithmetic.round_a), _rounded(as_scaled(b), arithmetic.round_b)
    if arithmetic.fold_b is not None:
        _check_shapes(a, b)
        n = selection(columns, b.shape[-2], "columns")
        c = None if c is None else _addend(c, a.shape[-2], b.shape[-2])[..., n]
        b, columns = take_rows(b, n), None
        kind = kinds(a, b, arithmetic)
        if kind is not None:
            return _kind_by_kind(a, b, arithmetic, c, rows, engine, kind)
        a, b, arithmetic = folded(a, b, arithmetic)
    batch, run = _check_shapes(a, b), _engine(engine)
    if rows is None and c is None and _joins(a, b):
        joined = contract(_joined(a), b, arithmetic, columns=columns, engine=engine)
        return joined.reshape(*a.shape[:-1], joined.shape[-1])
    m, n = selection(rows, a.shape[-2], "rows"), selection(columns, b.shape[-2], "columns")
    c = None if c is None else _addend(c, a.shape[-2], b.shape[-2])
    result = np.zeros((*batch, m.size, n.size), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # fp32 sums may overflow, as they do on a GPU
        for index in np.ndindex(*batch):
            left, right = _operands(a, b, arithmetic.tensor_core, index)
            start = None if c is None else c[own_index(index, c.shape[:-2])][np.ix_(m, n)]
            result[index] = _accumulate(left.select(m), right.select(n), arithmetic, start, run)
        factor = _global_factor(a, b)
        if factor is not None:
            result *= factor
    result[np.isnan(result)] = CANONICAL_NAN
    return result


def _kind_by_kind(
    a: ScaledTensor, b: ScaledTensor, arithmetic: Arithmetic, c: Any, rows: Any, engine: Any, kind: np.ndarray
) -> np.ndarray:
    """Return what `contract` does, with rows of b of different kinds never multiplied together."""
    batch, height = _check_shapes(a, b), selection(rows, a.shape[-2], "rows").size
    result = np.zeros((*batch, height, b.shape[-2]), np.float32)
    for index in np.ndindex(*batch):
        left, right = (take(t, own_index(index, t.shape[:-2])) for t in (a, b))
        start = None if c is None else c[own_index(index, c.shape[:-2])]
        own = kind[own_index(index, b.shape[:-2])]
        for number in np.unique(own):
            n = np.flatnonzero(own == number)
            part = None if start is None else start[:, n]
            result[index][:, n] = contract(left, take_rows(right, n), arithmetic, part, rows, engine=engine)
    return result


def _operands(a: ScaledTensor, b: ScaledTensor, core: TensorCore, index: tuple[int, ...]) -> tuple[Operand, Operand]:
    """Return both sides of one matrix product; scales of one side alone set the scale format of both."""
    left, right = (Operand(t, core, own_index(index, t.shape[:-2]), name) for t, name in ((a, "a"), (b, "b")))
    if left.grid is None:
        left.scale_format = right.scale_format
    elif right.grid is None:
        right.scale_format = left.scale_format
    elif left.scale_format != right.scale_format:
        raise FormatError(expected("b.scale", right.scale_format, f"{left.scale_format}, as a.scale has", core.name))
    return left, right


def finish(
    accumulator: np.ndarray,
    c: Any = None,
    out: str = "bfloat16",
    alpha: float | None = None,
    beta: float | None = None,
    rounding: str = "nearest_even",
) -> np.ndarray:
    """Return fp32(alpha * accumulator) + fp32(beta * c), added in fp32, rounded to the output's native array.

    Every NaN is the one that GPU instructions write: 0x7FFFFFFF in fp32, 0x7FFF in 16 bits.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        value = accumulator if alpha is None else np.float32(alpha) * accumulator
        if c is not None:
            c = np.asarray(to_numpy(c, "c"), np.float32)
            value = value + (c if beta is None else np.float32(beta) * c)
    nan = np.isnan(value)
    if out == "float32":
        return np.where(nan, CANONICAL_NAN, value) if nan.any() else value
    row = FORMATS[out]
    codes = row.encode(value, rounding, nan="positive")
    if row.storage_bits == 16:
        codes[nan] = 0x7FFF
    return as_native(codes, row)


def _accumulate(a: Operand, b: Operand, arithmetic: Arithmetic, c: np.ndarray | None, run: Chain) -> np.ndarray:
    """Return the fp32 sums of two matrices, tile by tile; `run` computes one chain of instructions."""
    ranges = arithmetic.ranges(a.codes.shape[1])
    chains = [chain for span in ranges for chain in arithmetic.chains(*span)]
    for side in (a, b):
        side.check(arithmetic.scales, chains)
    result = np.empty((a.codes.shape[0], b.codes.shape[0]), np.float32)
    for top in range(0, result.shape[0], _TILE_ROWS):
        strip = a.select(np.arange(top, min(top + _TILE_ROWS, result.shape[0])))
        for left in range(0, result.shape[1], _TILE_COLUMNS):
            tile = np.s_[top : top + _TILE_ROWS, left : left + _TILE_COLUMNS]
            columns = b.select(np.arange(left, min(left + _TILE_COLUMNS, result.shape[1])))
            result[tile] = _tile(strip, columns, arithmetic, ranges, None if c is None else c[tile], run)
    return result


def _tile(a: Operand, b: Operand, arithmetic: Arithmetic, ranges: Any, c: np.ndarray | None, run: Chain) -> np.ndarray:
    seed = c if arithmetic.c == "core" else None
    partials = [_split(a, b, arithmetic, span, seed if span[0] == 0 else None, run) for span in ranges]
    total = reduce_splits(partials, arithmetic)
    if arithmetic.scales == "epilogue":
        total = (a.scale(0)[:, None] * b.scale(0)) * total
    return total + c if c is not None and seed is None else total


def _split(
    a: Operand, b: Operand, arithmetic: Arithmetic, span: tuple[int, int], seed: np.ndarray | None, run: Chain
) -> np.ndarray:
    """Return one split's fp32 total: its chains, promoted one after the other."""
    total = None
    for start, stop in arithmetic.chains(*span):
        chain = run(arithmetic.tensor_core, a, b, (start, stop), seed)
        total, seed = _promote(total, chain, a.scale(start), b.scale(start), arithmetic), None
    return np.zeros((a.codes.shape[0], b.codes.shape[0]), np.float32) if total is None else total


def _promote(
    total: np.ndarray | None, chain: np.ndarray, rows: np.ndarray, columns: np.ndarray, arithmetic: Arithmetic
) -> np.ndarray:
    """Add a chain's result to the total, scaled and rounded as the arithmetic says."""
    if arithmetic.scales not in ("product", "each"):
        return chain if total is None else total + chain
    if arithmetic.scales == "each":
        chain, rows = chain * rows[:, None], np.ones_like(rows)
    total = np.zeros_like(chain) if total is None else total
    if arithmetic.promotion == "fma":
        fast_engine.fused_scale_add(total, chain, rows, columns)
        return total
    return total + chain * (rows[:, None] * columns)


def reduce_splits(partials: list[np.ndarray], arithmetic: Arithmetic) -> np.ndarray:
    """Add the splits' fp32 totals in the declared order, each rounded to the format that partials are kept in."""
    if arithmetic.partial != "float32":
        row = FORMATS[arithmetic.partial]
        partials = [row.decode(row.encode(partial)) for partial in partials]
    if arithmetic.reduction == "descending":
        partials = partials[::-1]
    if arithmetic.reduction == "tree":
        return _tree(partials)
    total = partials[0]
    for partial in partials[1:]:
        total = total + partial
    return total


def _tree(partials: list[np.ndarray]) -> np.ndarray:
    """Add neighbours pairwise until one is left; an odd last one waits for the next round."""
    while len(partials) > 1:
        pairs = [low + high for low, high in zip(partials[::2], partials[1::2], strict=False)]
        partials = pairs + partials[len(partials) - len(partials) % 2 :]
    return partials[0]


def _chain_readable(
    core: TensorCore, a: Operand, b: Operand, span: tuple[int, int], seed: np.ndarray | None
) -> np.ndarray:
    """Run the instruction over K by `TensorCore.dot`, a few rows at a time."""
    chain = seeded(a, b, seed)
    parts = a.part(*span), b.part(*span)
    height = max(1, _READABLE_ELEMENTS // max(1, chain.shape[1] * core.k))
    for top in range(0, chain.shape[0], height):
        strip = slice(top, top + height)
        for start in range(0, span[1] - span[0], core.k):
            operands, scales = zip(*(part.instruction(start, core.k) for part in parts), strict=True)
            left = [None if x is None else x[strip, None] for x in (operands[0], scales[0])]
            chain[strip] = core.dot(
                left[0],
                operands[1],
                chain[strip],
                left[1],
                scales[1],
                formats=(a.seen, b.seen),
                scale_format=a.scale_format,
            )
    return chain


_CHAINS = {"fast": fast_engine.chain, "readable": _chain_readable}


def _rounded(tensor: ScaledTensor, format: str | None) -> ScaledTensor:
    """Return the operand with its payload rounded to a format, to nearest even, where that loses anything."""
    if format is None or FORMATS[tensor.format].mantissa_bits <= FORMATS[format].mantissa_bits:
        return tensor
    codes = FORMATS[format].encode(to_numpy(tensor.values(), "operand"))
    return ScaledTensor(codes, format, tensor.scale, tensor.scaling, tensor.global_scale)


def _engine(engine: str | Chain) -> Chain:
    if callable(engine):
        return engine
    if engine not in _CHAINS:
        raise InputError(expected("engine", repr(engine), " or ".join(_CHAINS)))
    return _CHAINS[engine]


def _check_shapes(a: ScaledTensor, b: ScaledTensor) -> tuple[int, ...]:
    for name, operand in (("a", a), ("b", b)):
        if len(operand.shape) < 2:
            raise ShapeError(expected(name, f"shape {operand.shape}", "at least two axes: rows and K"))
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(expected("K", f"a of shape {a.shape} and b of shape {b.shape}", "equal last axes"))
    try:
        return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(
            expected("leading axes", f"{a.shape[:-2]} and {b.shape[:-2]}", "axes that broadcast")
        ) from None


def _joins(a: ScaledTensor, b: ScaledTensor) -> bool:
    """Whether leading axes of a are only more rows of one matrix, because b has none and no scale spans rows."""
    per_row = a.scale is None or a.scaling.block[0] == 1
    return len(a.shape) > 2 and len(b.shape) == 2 and per_row and a.global_scale is None


def _joined(a: ScaledTensor) -> ScaledTensor:
    data = to_numpy(a.data, "a")
    scale = None if a.scale is None else to_numpy(a.scale, "a.scale")
    flat = None if scale is None else scale.reshape(-1, scale.shape[-1])
    return ScaledTensor(data.reshape(-1, data.shape[-1]), a.format, flat, a.scaling)


def _addend(c: Any, rows: int, columns: int) -> np.ndarray:
    c = np.asarray(to_numpy(c, "c"), np.float32)
    if c.shape[-2:] != (rows, columns):
        raise ShapeError(expected("c", f"shape {c.shape}", f"[..., {rows}, {columns}], the full output's"))
    return c


def _global_factor(a: ScaledTensor, b: ScaledTensor) -> np.ndarray | None:
    """Return the product of the global scales as one fp32 factor, shaped to the result's leading axes."""
    factors = [t.global_factor() for t in (a, b) if t.global_scale is not None]
    if not factors:
        return None
    return np.prod(np.broadcast_arrays(*factors), axis=0).astype(np.float32)[..., None, None]
