"""Sums that follow a contraction inside one kernel, in the order in which lanes hold and exchange their parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from dgref.errors import InputError, ShapeError, expected
from dgref.formats.native import to_numpy
from dgref.reference.arithmetic import Arithmetic, Lanes, resolve
from dgref.reference.engine import fma
from dgref.reference.engine_operand import as_scaled
from dgref.reference.tensor_core import CANONICAL_NAN


def mqa_reduce(
    scores: Any, weights: Any, kv_scale: Any = None, arithmetic: str | Arithmetic = "deep_gemm.sm90.mqa_logits"
) -> np.ndarray:
    """Return the logits sum_h relu(scores[..., h, key]) * weights[..., h] * kv_scale[..., key] as fp32.

    The order over heads h, its fused multiply-adds and the place of the scale are those of the arithmetic's lanes.
    """
    lanes = _lanes(arithmetic)
    rounded = _ROUND[lanes.precision]
    relu = np.fmax if lanes.relu_drops_nan else np.maximum
    scores = rounded(relu(np.asarray(to_numpy(scores, "scores"), np.float32), np.float32(0)))
    weights = rounded(np.asarray(to_numpy(weights, "weights"), np.float32)[..., None])
    scale = None if kv_scale is None else rounded(np.asarray(to_numpy(kv_scale, "kv_scale"), np.float32))
    if scores.shape[-2] != weights.shape[-2]:
        raise ShapeError(expected("weights", f"{weights.shape[-2]} heads", f"{scores.shape[-2]}, as scores have"))
    return lane_sum(np.moveaxis(scores, -2, 0), np.moveaxis(weights, -2, 0), lanes, scale)


def hc_square_sum(a: Any, arithmetic: str | Arithmetic = "deep_gemm.sm90.hc_prenorm") -> np.ndarray:
    """Return the fp32 sums of squares [splits, ..., rows] of a[..., rows, K], one for each split of K."""
    arithmetic = resolve(arithmetic)
    lanes = _lanes(arithmetic)
    values = np.moveaxis(np.asarray(to_numpy(as_scaled(a).values(), "a"), np.float32), -1, 0)
    spans = arithmetic.ranges(values.shape[0])
    return np.stack([lane_sum(values[low:high], values[low:high], lanes) for low, high in spans])


def lane_sum(left: np.ndarray, right: np.ndarray, lanes: Lanes, scale: np.ndarray | None = None) -> np.ndarray:
    """Return sum(left * right) over the first axis in fp32, as the lanes of a warp compute it; NaN is 0x7FFFFFFF."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        total = _lane_sum(left, right, lanes, scale)
    return np.where(np.isnan(total), CANONICAL_NAN, total)


def _lane_sum(left: np.ndarray, right: np.ndarray, lanes: Lanes, scale: np.ndarray | None) -> np.ndarray:
    rounded = _ROUND[lanes.precision]
    steps = zip(_dealt(left, lanes), _dealt(right, lanes), strict=True)
    total = _pairs(steps) if lanes.step == "pairs" else _fused(list(steps), lanes)
    total = _butterfly(total, lanes.sums, 1, rounded)
    if scale is not None and lanes.scale == "before":
        total = rounded(total * scale)
    total = _butterfly(total, lanes.shuffles, 0, rounded)
    return rounded(total * scale) if scale is not None and lanes.scale == "after" else total


def _dealt(elements: np.ndarray, lanes: Lanes) -> np.ndarray:
    """Deal elements out as [stride index, lane, element of the lane, ...]; missing ones are zero."""
    missing = -elements.shape[0] % lanes.stride
    padded = np.pad(elements, [(0, missing)] + [(0, 0)] * (elements.ndim - 1))
    shape = (-1, lanes.stride // (lanes.run * lanes.lanes), lanes.lanes, lanes.run, *elements.shape[1:])
    dealt = np.swapaxes(padded.reshape(shape), 1, 2)
    return dealt.reshape(dealt.shape[0], lanes.lanes, -1, *elements.shape[1:])


def _pairs(steps: Any) -> np.ndarray:
    """Add each stride's products of a lane to one another and then to the lane's only sum."""
    total = None
    for left, right in steps:
        part = left[:, -1] * right[:, -1]
        for element in range(left.shape[1] - 2, -1, -1):
            part = fma(left[:, element], right[:, element], part)
        total = part if total is None else total + part
    return total[:, None]


def _fused(steps: list, lanes: Lanes) -> np.ndarray:
    """Chain fused multiply-adds, one sum for each element that a lane has in a stride."""
    fused, rounded = _FMA[lanes.precision], _ROUND[lanes.precision]
    total, rest = rounded(steps[0][0] * steps[0][1]), steps[1:]
    if lanes.start == "second" and rest:
        total, rest = fused(*steps[0], rounded(rest[0][0] * rest[0][1])), rest[1:]
    for left, right in rest:
        total = fused(left, right, total) if lanes.step == "fma" else rounded(total + rounded(left * right))
    return total


def _butterfly(sums: np.ndarray, distances: tuple[int, ...], axis: int, rounded: Callable) -> np.ndarray:
    """Add across an axis by exchanges at the given distances, as every lane sees it; one result remains."""
    for distance in distances:
        partner = np.arange(sums.shape[axis]) ^ distance
        sums = rounded(sums + np.take(sums, partner, axis))
    return np.take(sums, 0, axis)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def _fma_bfloat16(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Compute a * b + c of bfloat16 values rounded once, through a float32 sum rounded to odd.

    The product is exact in float32. An inexact sum whose last bit is even moves one step toward the exact one, so that
    it never lies on a tie of the narrower format.
    """
    product = a * b
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)  # Knuth's TwoSum: exact where nothing overflows
    bits = total.view(np.uint32)
    away = (error > 0) == (total > 0)
    odd = np.where(away, bits + np.uint32(1), bits - np.uint32(1)).view(np.float32)
    move = (error != 0) & np.isfinite(error) & (bits % 2 == 0)
    return _to_bfloat16(np.where(move, odd, total))


_ROUND: dict[str, Callable] = {"float32": lambda values: values, "bfloat16": _to_bfloat16}
_FMA: dict[str, Callable] = {"float32": fma, "bfloat16": _fma_bfloat16}


def _lanes(arithmetic: str | Arithmetic) -> Lanes:
    arithmetic = resolve(arithmetic)
    if arithmetic.lanes is None:
        raise InputError(expected(f"arithmetic {arithmetic.name}: lanes", "none", "an order of the reduction"))
    return arithmetic.lanes
