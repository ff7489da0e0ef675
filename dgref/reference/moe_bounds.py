"""How far from exact any implementation of the fused expert layer can be; derived in docs/bound-moe.md.

Errors are carried from stage to stage as limits on each element. Rounding to a coarser format half way is monotone: a
value known to lie between two numbers is stored between what those two are stored as, under each scale that the
group's largest value allows. That keeps the limit at zero where no stored bit can differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dgref.formats.element import FORMATS
from dgref.formats.quantize import dequantize
from dgref.formats.tensor import ScaledTensor
from dgref.reference.activation import clamped, requantize, swiglu
from dgref.reference.dispatch import EXACT, product, rounded, size_limits, using
from dgref.reference.limits import INFLATION, MINUS, NAN, OVERFLOW, PLUS, around, distances, half_widths
from dgref.reference.moe import combine
from dgref.reference.operands import scaled, take, take_rows
from dgref.reference.reduction_bounds import growth

SLOPE = 1.1  # of silu: its largest is 1.09984 (at x = 2.39936)
UNIT = 2.0**-23
EXPONENTIAL_ULPS = (3.0, 1.173)  # |error of __expf(x)| <= 2 + floor(1.173 |x|) ulp: CUDA C++ Programming Guide
OTHER_ULPS = 4.0  # one reciprocal, three products, the sum, the exact path's own rounding
VANISHED = 2.0**-118  # more than silu(x) where e^-x or its reciprocal overflows or is flushed
TINY = 2.0**-148


@np.errstate(over="ignore", invalid="ignore")  # limits that overflow are limits still
def mega_moe_limits(
    tokens: ScaledTensor,
    routes: Iterator[tuple[int, tuple[np.ndarray, ...], np.ndarray]],
    gains: np.ndarray,
    weights: tuple[ScaledTensor, ScaledTensor],
    shape: tuple[int, ...],
    clamp: float | None,
    granularity: int,
    arithmetic: Any,
) -> np.ndarray:
    """Return the limits of y [ranks, tokens, hidden], stored as BF16."""
    parts, limits = np.zeros(shape), np.zeros(shape)
    for expert, where, rows in routes:
        x, first, second = take_rows(tokens, rows), take(weights[0], expert), take(weights[1], expert)
        hidden, hidden_limit = _hidden_limits(x, first, arithmetic)
        active, active_limit = activation_limits(hidden, hidden_limit, gains[where], clamp)
        inner, largest, inner_limit = stored_limits(active, active_limit, granularity if x.scale is not None else 0)
        parts[where], limits[where] = _linear_limits(inner, largest, inner_limit, second, arithmetic)
    return _sum_limits(parts, limits)


def _hidden_limits(x: ScaledTensor, weight: ScaledTensor, arithmetic: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return linear 1's exact BF16 result, and limits on its distance from what an implementation stores."""
    with using("fast"):
        stored = product(x, weight, arithmetic=EXACT, out="bfloat16")
        near = product(x, weight, arithmetic=EXACT, out="float32").astype(np.float64)
    limit = distances(near, product(x, weight, arithmetic=arithmetic, out="float32")) + np.abs(near) * UNIT
    return stored, np.abs(_bf16_ends(near, limit) - stored.astype(np.float64)).max(axis=0)


def _bf16_ends(values: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return what the ends of the intervals `values` +- `limit` are stored as."""
    row = FORMATS["bfloat16"]
    ends = np.array([values - limit, values + limit])
    return row.decode(row.encode(ends)).astype(np.float64)


def activation_limits(
    hidden: np.ndarray, limit: np.ndarray, gains: np.ndarray, clamp: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the exact activation and limits on its distance from one computed in FP32 on values within `limit`."""
    active = swiglu(hidden, gains, clamp, exact=True)
    gate, up = (np.abs(part.astype(np.float64)) for part in clamped(hidden, clamp))
    gate_limit, up_limit = np.split(limit, 2, axis=1)
    sign = np.sign(clamped(hidden, clamp)[0].astype(np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        silu = gate / (1 + np.exp(-sign * gate))
        reach = silu + SLOPE * gate_limit
        moved = SLOPE * gate_limit * (up + up_limit) + silu * up_limit
        ulps = EXPONENTIAL_ULPS[0] + EXPONENTIAL_ULPS[1] * (gate + gate_limit) + OTHER_ULPS
        lost = (reach * np.minimum(ulps * UNIT * 1.01, 2.0) + VANISHED) * (up + up_limit)
        total = (moved + lost) * np.abs(gains.astype(np.float64))[:, None] * INFLATION + TINY
    return active, np.where(np.isfinite(active), total, np.nan)


def stored_limits(
    active: np.ndarray, limit: np.ndarray, granularity: int
) -> tuple[ScaledTensor, ScaledTensor, np.ndarray]:
    """Return the stored activation, one that no implementation's exceeds in magnitude, and limits on the difference.

    Granularity 0 stores BF16. A group that is not finite, or that a limit lets overflow, has no finite limit.
    """
    ends = [active.astype(np.float64) - limit, active.astype(np.float64) + limit]
    if granularity == 0:
        own = rounded(active, "bfloat16")
        between = _bf16_ends(active.astype(np.float64), limit)
        largest = scaled(rounded(np.abs(between).max(axis=0), "bfloat16"), "activation")
        return scaled(own, "activation"), largest, np.abs(between - own.astype(np.float64)).max(axis=0)
    own = requantize(active, granularity)
    kept = dequantize(own).astype(np.float64)
    low, high = (_exponents(np.abs(active) + sign * limit, granularity, sign) for sign in (-1, 1))
    worst, top = np.zeros(active.shape), np.zeros(active.shape)
    for step in range(int((high - low).max(initial=0)) + 1):
        exponent = np.repeat(np.minimum(low + step, high), granularity, axis=1)
        for end in ends:
            stored = _e4m3(end, exponent)
            worst, top = np.fmax(worst, np.abs(stored - kept)), np.fmax(top, np.abs(stored))
    worst[~np.isfinite(limit) | ~np.isfinite(kept)] = np.inf
    codes = FORMATS["float8_e4m3fn"].encode(np.ldexp(top, 127 - np.repeat(high, granularity, axis=1)), rounding="up")
    return own, replace(own, data=codes, scale=np.minimum(high, 254).astype(np.uint8)), worst


def _exponents(magnitudes: np.ndarray, granularity: int, sign: int) -> np.ndarray:
    """Return the scale exponent that a group's largest value leads to, one float32 rounding below or above."""
    groups = np.maximum(np.nan_to_num(magnitudes, nan=0.0, posinf=0.0), 0).reshape(len(magnitudes), -1, granularity)
    largest = groups.max(axis=-1, initial=0.0) * (1 + sign * 2.0**-22) / 448
    fraction, power = np.frexp(np.maximum(largest, 2.0**-126))
    exponent = power + 127 - (fraction == 0.5)
    return np.where(largest == 0, 0, np.maximum(exponent, 0 if sign < 0 else 1)).astype(np.int64)


def _e4m3(values: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    row = FORMATS["float8_e4m3fn"]
    codes = row.encode(np.ldexp(np.nan_to_num(values), 127 - exponent), convention="cuda")
    return np.ldexp(row.decode(codes).astype(np.float64), exponent - 127)


def _linear_limits(
    inner: ScaledTensor, largest: ScaledTensor, limit: np.ndarray, weight: ScaledTensor, arithmetic: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return linear 2's exact BF16 result and limits: what came in, what adding loses, and two roundings."""
    with using("fast"):
        near = product(inner, weight, arithmetic=EXACT, out="float32").astype(np.float64)
        stored = product(inner, weight, arithmetic=EXACT, out="bfloat16").astype(np.float64)
    known = np.isfinite(limit).all(axis=1, keepdims=True)
    carried = np.where(known, limit, 0.0) @ np.abs(dequantize(weight).astype(np.float64)).T
    carried = np.where(known, carried, np.inf)
    sums = size_limits(largest, _magnitudes(weight), arithmetic)
    lost = half_widths(sums) + np.abs(sums["high"]) * UNIT
    total = carried + lost + np.abs(near) * UNIT
    return stored, np.abs(_bf16_ends(near, total * INFLATION) - stored).max(axis=0)


def _magnitudes(weight: ScaledTensor) -> ScaledTensor:
    """Return a tensor with its signs removed."""
    row = FORMATS[weight.format]
    return replace(weight, data=weight.data & ~row.code_dtype.type(row.sign_mask))


def _sum_limits(parts: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return the limits of the sum over slots (axis 2) in FP32 in any order, stored as BF16."""
    with using("fast"):
        own = combine(parts.astype(np.float32), np.zeros(parts.shape[:3], np.int64), EXACT).astype(np.float64)
    reach = (np.abs(parts) + limits).sum(axis=2)
    total = limits.sum(axis=2) + reach * growth(parts.shape[2] + 1, UNIT) + TINY
    low, high = _bf16_ends(parts.sum(axis=2), total * INFLATION)
    known = np.isfinite(total) & ~np.isnan(own)
    found = around(own, np.where(known, 0.0, np.inf))
    found["low"], found["high"] = np.where(known, low, found["low"]), np.where(known, high, found["high"])
    found["besides"] |= np.where(known & (reach >= OVERFLOW), PLUS | MINUS | NAN, 0)
    return found
