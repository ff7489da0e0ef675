"""The exact weighted sum of ReLU scores: sum over h of w[s, h] * relu(q[s, h] . kv[t]), rounded once."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from dgref.errors import InputError, ShapeError, expected
from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference import exact_engine as engine
from dgref.reference.exact_operand import Planes, as_tensor, exact_planes, two_product
from dgref.reference.exact_target import Target, target

TOKEN_TILE, KEY_TILE = 16, 2048


def exact_weighted_relu_sum(q: ScaledTensor, kv: ScaledTensor, weights: np.ndarray, out: str = "float32") -> np.ndarray:
    """Return [s, t] of sum over h of weights[s, h] * relu(q[s, h, :] . kv[t, :]), infinitely precise, rounded once.

    The scales of q and kv are inside the products. relu(NaN) is NaN: a NaN that comes in must be seen, whereas many
    kernels compute fmax(NaN, 0) = 0.
    """
    q, kv = as_tensor(q, "q"), as_tensor(kv, "kv")
    weights = to_numpy(weights, "weights").astype(np.float64)
    _check(q, kv, weights)
    goal = target(out)
    result = np.empty((q.shape[0], kv.shape[0]), goal.dtype)
    for start in range(0, kv.shape[0], KEY_TILE):
        keys = np.arange(start, min(start + KEY_TILE, kv.shape[0]))
        right = _single(exact_planes(kv, keys), "kv")
        for first in range(0, q.shape[0], TOKEN_TILE):
            tokens = slice(first, min(first + TOKEN_TILE, q.shape[0]))
            with np.errstate(over="ignore", invalid="ignore"):
                tile = _tile(_queries(q, tokens), right, np.ascontiguousarray(weights[tokens]), goal)
                result[tokens, keys] = tile.astype(goal.dtype)
    return result


def _check(q: ScaledTensor, kv: ScaledTensor, weights: np.ndarray) -> None:
    if len(q.shape) != 3 or len(kv.shape) != 2 or q.shape[2] != kv.shape[1]:
        raise ShapeError(expected("q and kv", f"{q.shape} and {kv.shape}", "[s, h, d] and [t, d]"))
    if weights.shape != q.shape[:2]:
        raise ShapeError(expected("weights", weights.shape, f"{q.shape[:2]}, one for each token and head"))


def _queries(q: ScaledTensor, tokens: slice) -> np.ndarray:
    """Return the planes [p, s, h, d] of some tokens, as many for each of them."""
    planes = [_single(exact_planes(q, np.arange(q.shape[1]), (s,)), "q") for s in range(tokens.start, tokens.stop)]
    depth = max((len(p) for p in planes), default=1)
    padded = [np.concatenate([p, np.zeros((depth - len(p), *p.shape[1:]))]) for p in planes]
    return np.stack(padded, axis=1)


def _single(exact: Planes, name: str) -> np.ndarray:
    if exact.divisor != 1.0:
        raise InputError(expected(f"{name}.global_scale", "one that divides", "a power of two, or one that multiplies"))
    return exact.planes


def _tile(q: np.ndarray, kv: np.ndarray, weights: np.ndarray, goal: Target) -> np.ndarray:
    planes, tokens, heads, depth = q.shape
    plain_q = np.ascontiguousarray(q.sum(axis=0)).reshape(tokens * heads, depth)
    plain_kv = np.ascontiguousarray(kv.sum(axis=0))
    q_norms, q_lowest, q_finite = engine.measure(plain_q)
    kv_norms, kv_lowest, kv_finite = engine.measure(plain_kv)
    finite = np.where(np.isfinite(plain_q), plain_q, 0), np.where(np.isfinite(plain_kv), plain_kv, 0)
    scores = (finite[0] @ finite[1].T).reshape(tokens, heads, len(plain_kv))
    slack = (depth + 9) * 2.0**-53 * (1 + 2.0**-20)
    exact = planes == 1 and len(kv) == 1
    settled = np.empty((tokens, len(plain_kv)))
    unsettled = np.zeros(settled.shape, np.bool_)
    measured = q_norms.reshape(tokens, heads), q_lowest.reshape(tokens, heads), kv_norms, kv_lowest
    _filter(scores, weights, *measured, slack, exact, *goal.rounding, settled, unsettled)
    special = ~(q_finite.reshape(tokens, heads) & np.isfinite(weights)).all(axis=1)
    where = np.nonzero(unsettled | special[:, None] | ~kv_finite)
    weighted = _weighted(q, weights)
    plain = plain_q.reshape(tokens, heads, depth)
    settled[where] = _exact(q, weighted, kv, plain, plain_kv, weights, *where, *goal.rounding)
    return settled


def _weighted(q: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the planes of weight * query, exactly; the second half vanishes where the bits fit."""
    products = two_product(q, np.where(np.isfinite(weights), weights, 0.0)[..., None])
    return np.ascontiguousarray(np.concatenate(products) if np.any(products[1]) else products[0])


@njit(cache=True, parallel=True)
def _filter(
    scores, weights, q_norms, q_lowest, kv_norms, kv_lowest, slack, exact, precision, emin, largest, settled, unsettled
):
    """Round each weighted sum where a float64 interval can tell; |relu(x) - relu(y)| <= |x - y| carries the error."""
    heads = scores.shape[1]
    unit = (heads + 2) * 2.0**-53 * (1.0 + 2.0**-20)
    for i in prange(scores.shape[0]):
        for j in range(scores.shape[2]):
            total, error, absolute = 0.0, 0.0, 0.0
            for h in range(heads):
                scale = q_norms[i, h] * kv_norms[j]
                lowest = min(q_lowest[i, h] + kv_lowest[j] + 53, 1000)
                fits = exact and (scale == 0.0 or (lowest > -900 and scale < 2.0**lowest))
                term = weights[i, h] * max(scores[i, h, j], 0.0)
                total += term
                absolute += abs(term)
                error += 0.0 if fits else abs(weights[i, h]) * scale * slack
            if absolute == 0.0 and error == 0.0:
                settled[i, j] = 0.0
                continue
            error = (error + unit * (absolute + error)) * (1.0 + unit) + 1e-290
            below, below_rest = engine.two_sum(total, -error)
            above, above_rest = engine.two_sum(total, error)
            lower = engine.round_pair(below, below_rest, precision, emin, largest)
            upper = engine.round_pair(above, above_rest, precision, emin, largest)
            unsettled[i, j] = not (lower == upper and math.copysign(1.0, lower) == math.copysign(1.0, upper))
            settled[i, j] = lower


@njit(cache=True, parallel=True)
def _exact(q, weighted, kv, plain_q, plain_kv, weights, tokens, keys, precision, emin, largest):
    """Decide each head's sign exactly, then add weight * query * key exactly for the positive ones."""
    results = np.empty(tokens.size)
    for i in prange(tokens.size):
        total = np.zeros(engine.LIMBS, np.int64)
        limbs = np.zeros(engine.LIMBS, np.int64)
        token, key, special = tokens[i], keys[i], 0.0
        for h in range(weights.shape[1]):
            plain = 0.0
            for k in range(kv.shape[2]):
                plain += plain_q[token, h, k] * plain_kv[key, k]
            if not math.isfinite(plain):
                special += weights[token, h] * (0.0 if plain < 0 else plain)
                continue
            _add_dot(limbs, q, kv, token, h, key)
            sign = engine.settle_limbs(limbs, 53, -1022, math.inf)
            if not math.isfinite(weights[token, h]):
                special += weights[token, h] * max(sign, 0.0)
            elif sign > 0.0:
                _add_dot(total, weighted, kv, token, h, key)
        rounded = engine.settle_limbs(total, precision, emin, largest)
        results[i] = rounded if special == 0.0 else special
    return results


@njit(cache=True)
def _add_dot(limbs, q, kv, token, head, key):
    q_bits, kv_bits = q.view(np.int64), kv.view(np.int64)
    for p in range(q.shape[0]):
        for r in range(kv.shape[0]):
            for k in range(kv.shape[2]):
                engine.add_product(limbs, q_bits[p, token, head, k], kv_bits[r, key, k])
