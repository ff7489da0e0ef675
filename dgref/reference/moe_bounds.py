"""How far from exact any implementation of the fused expert layer can be; derived in docs/bound-moe.md.

What is known of each element is carried from stage to stage as an interval. Rounding to a coarser format half way is
monotone: a value known to lie between two numbers is stored between what those two are stored as, under each scale that
the group's largest value allows. That leaves a single value where no stored bit can differ.
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
from dgref.reference.limits import INFLATION, MINUS, NAN, OVERFLOW, PLUS, around, half_widths
from dgref.reference.moe import combine
from dgref.reference.operands import scaled, take, take_rows
from dgref.reference.reduction_bounds import growth

Interval = tuple[np.ndarray, np.ndarray]  # the lowest and the highest, float64; NaN where nothing is known
TURN, LEAST = -1.2784645427610738, -0.27846454276107380  # where silu is least, and what it is there
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
    lows, highs, parts = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for expert, where, rows in routes:
        x, first, second = take_rows(tokens, rows), take(weights[0], expert), take(weights[1], expert)
        hidden, interval = _hidden_interval(x, first, arithmetic)
        active, interval = activation_interval(hidden, interval, gains[where], clamp)
        inner, largest, interval = stored_interval(active, interval, granularity if x.scale is not None else 0)
        parts[where], (lows[where], highs[where]) = _linear_interval(inner, largest, interval, second, arithmetic)
    return _sum_limits(parts, (lows, highs))


def _hidden_interval(x: ScaledTensor, weight: ScaledTensor, arithmetic: Any) -> tuple[np.ndarray, Interval]:
    """Return linear 1's exact BF16 result, and between which values lies what an implementation stores."""
    with using("fast"):
        stored = product(x, weight, arithmetic=EXACT, out="bfloat16")
    found = product(x, weight, arithmetic=arithmetic, out="float32")
    low, high = (np.where(found["besides"] == 0, found[end], np.nan) for end in ("low", "high"))
    return stored, _bf16_ends(low - np.abs(low) * UNIT - TINY, high + np.abs(high) * UNIT + TINY)


def _bf16_ends(low: np.ndarray, high: np.ndarray) -> Interval:
    """Return what the ends of intervals are stored as."""
    row = FORMATS["bfloat16"]
    low, high = (row.decode(row.encode(end)).astype(np.float64) for end in (low, high))
    return low, high


def _silu(values: np.ndarray) -> np.ndarray:
    return values / (1 + np.exp(-values))


def _silu_interval(low: np.ndarray, high: np.ndarray) -> Interval:
    """Return the least and the greatest of silu, which falls down to TURN and rises from there."""
    ends = _silu(low), _silu(high)
    return np.where((low < TURN) & (high > TURN), LEAST, np.minimum(*ends)), np.maximum(*ends)


def _times(first: Interval, second: Interval) -> Interval:
    """Return the least and the greatest product: at corners, because a product is linear in both."""
    corners = [a * b for a in first for b in second]
    return np.minimum.reduce(corners), np.maximum.reduce(corners)


def _largest(interval: Interval) -> np.ndarray:
    return np.maximum(*map(np.abs, interval))


def activation_interval(
    hidden: np.ndarray, interval: Interval, gains: np.ndarray, clamp: float | None
) -> tuple[np.ndarray, Interval]:
    """Return the exact activation, and between which values lies one computed in FP32 on values of an interval."""
    active, gain = swiglu(hidden, gains, clamp, exact=True), gains.astype(np.float64)[:, None]
    known = [np.isfinite(part) for part in np.split(interval[0] + interval[1], 2, axis=1)]
    ends = [clamped(end.astype(np.float32), clamp) for end in interval]
    gate, up = (tuple(np.where(known[part], end[part].astype(np.float64), np.nan) for end in ends) for part in range(2))
    with np.errstate(over="ignore", invalid="ignore"):
        inner = _times(_silu_interval(*gate), up)
        low, high = _times(inner, (gain, gain))
        ulps = EXPONENTIAL_ULPS[0] + EXPONENTIAL_ULPS[1] * _largest(gate) + OTHER_ULPS
        lost = _largest(_silu_interval(*gate)) * np.minimum(ulps * UNIT * 1.01, 2.0) + VANISHED
        lost = lost * _largest(up) * np.abs(gain) * INFLATION + TINY
        known = np.isfinite(active) & (_largest(inner) < OVERFLOW) & (_largest((low, high)) + lost < OVERFLOW)
        return active, (np.where(known, low - lost, np.nan), np.where(known, high + lost, np.nan))


def stored_interval(
    active: np.ndarray, interval: Interval, granularity: int
) -> tuple[ScaledTensor, ScaledTensor, Interval]:
    """Return the stored activation, one that no implementation's exceeds in magnitude, and the interval that is stored.

    Granularity 0 stores BF16. Of a group that is not finite, or that may overflow, nothing is known.
    """
    if granularity == 0:
        between = _bf16_ends(*interval)
        largest = scaled(rounded(np.nan_to_num(_largest(between)), "bfloat16"), "activation")
        return scaled(rounded(active, "bfloat16"), "activation"), largest, between
    own = requantize(active, granularity)
    low = _exponents(np.maximum(interval[0], -interval[1]), granularity, -1)
    high = _exponents(_largest(interval), granularity, 1)
    least, most = np.full(active.shape, np.inf), np.full(active.shape, -np.inf)
    for step in range(int((high - low).max(initial=0)) + 1):
        exponent = np.repeat(np.minimum(low + step, high), granularity, axis=1)
        least = np.minimum(least, _e4m3(interval[0], exponent))
        most = np.maximum(most, _e4m3(interval[1], exponent))
    known = np.isfinite(interval[0]) & np.isfinite(interval[1]) & np.isfinite(dequantize(own).astype(np.float64))
    top = np.ldexp(np.where(known, _largest((least, most)), 0.0), 127 - np.repeat(high, granularity, axis=1))
    codes = FORMATS["float8_e4m3fn"].encode(top, rounding="up")
    largest = replace(own, data=codes, scale=np.minimum(high, 254).astype(np.uint8))
    return own, largest, (np.where(known, least, np.nan), np.where(known, most, np.nan))


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


def _linear_interval(
    inner: ScaledTensor, largest: ScaledTensor, interval: Interval, weight: ScaledTensor, arithmetic: Any
) -> tuple[np.ndarray, Interval]:
    """Return linear 2's exact BF16 result, and the interval: what came in, what adding loses, and two roundings."""
    with using("fast"):
        near = product(inner, weight, arithmetic=EXACT, out="float32").astype(np.float64)
        stored = product(inner, weight, arithmetic=EXACT, out="bfloat16").astype(np.float64)
    known = np.isfinite(interval[0]).all(axis=1, keepdims=True)
    kept, values = dequantize(inner).astype(np.float64), dequantize(weight).astype(np.float64).T
    down, up = (
        np.where(known, np.minimum(interval[0] - kept, 0), 0),
        np.where(known, np.maximum(interval[1] - kept, 0), 0),
    )
    plus, minus = np.maximum(values, 0), np.maximum(-values, 0)
    sums = size_limits(largest, _magnitudes(weight), arithmetic)
    lost = (half_widths(sums) + np.abs(sums["high"]) * UNIT + np.abs(near) * UNIT) * INFLATION
    low = near + (down @ plus - up @ minus) * INFLATION - lost
    high = near + (up @ plus - down @ minus) * INFLATION + lost
    known = known & np.isfinite(low) & np.isfinite(high)
    return stored, _bf16_ends(np.where(known, low, np.nan), np.where(known, high, np.nan))


def _magnitudes(weight: ScaledTensor) -> ScaledTensor:
    """Return a tensor with its signs removed."""
    row = FORMATS[weight.format]
    return replace(weight, data=weight.data & ~row.code_dtype.type(row.sign_mask))


def _sum_limits(parts: np.ndarray, interval: Interval) -> np.ndarray:
    """Return the limits of the sum over slots (axis 2) in FP32 in any order, stored as BF16."""
    with using("fast"):
        own = combine(parts.astype(np.float32), np.zeros(parts.shape[:3], np.int64), EXACT).astype(np.float64)
    reach = _largest(interval).sum(axis=2)
    lost = reach * growth(parts.shape[2] + 1, UNIT) * INFLATION + TINY
    low, high = _bf16_ends(interval[0].sum(axis=2) - lost, interval[1].sum(axis=2) + lost)
    known = np.isfinite(reach) & ~np.isnan(own)
    found = around(own, np.where(known, 0.0, np.inf))
    found["low"], found["high"] = np.where(known, low, found["low"]), np.where(known, high, found["high"])
    found["besides"] |= np.where(known & (reach >= OVERFLOW), PLUS | MINUS | NAN, 0)
    return found
