"""A whole mixture-of-experts layer: dispatch, linear 1, SwiGLU, requantisation, linear 2, combine; any number of ranks.

Where the layer rounds is part of its definition, as DeepGEMM 2.6.1 fuses it: linear 1 to BF16, the activation to FP8
with one UE8M0 scale for each `granularity` columns (or to BF16), linear 2 to BF16, the sum over a token's experts once
to BF16. An arithmetic says how each stage adds up; exactly, each stage is right to the last bit before it rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dgref.errors import InputError, ShapeError, expected
from dgref.formats.layouts import LAYOUTS
from dgref.formats.native import as_native
from dgref.formats.tensor import ScaledTensor
from dgref.reference.activation import requantize, swiglu
from dgref.reference.dispatch import EXACT, bounding, product, resolve, rounded
from dgref.reference.limits import around
from dgref.reference.operands import as_rows, bind, integers, operation, scaled, take, take_rows, values


@operation
def mega_moe(
    x: Any,
    topk_idx: Any,
    topk_weights: Any,
    l1_weights: Any,
    l2_weights: Any,
    recv_stats: Any = None,
    *,
    activation_clamp: float | None = None,
    granularity: int = 32,
    arithmetic: Any = EXACT,
) -> dict[str, np.ndarray]:
    """Return {y: BF16 [ranks, tokens, hidden], recv_stats: int32 [ranks, experts of a rank]}.

    `topk_idx` [ranks, tokens, topk] numbers experts over all ranks, -1 for no route; expert e lives on rank
    e // (experts / ranks). `l1_weights` [experts, gate then up, hidden] and `l2_weights` [experts, hidden,
    intermediate] are in logical order. `recv_stats` counts what every expert received, on top of what it held before.
    """
    x, l1, l2 = scaled(x, "x"), scaled(l1_weights, "l1_weights"), scaled(l2_weights, "l2_weights")
    extents = _extents(x, topk_idx, topk_weights, l1, l2)
    routes = integers(topk_idx, "topk_idx", -1, extents["experts"] - 1)
    gains = values(topk_weights, "topk_weights")
    tokens = as_rows(x)
    stats = _received(routes, extents, recv_stats)
    if bounding():
        limits = _limits(tokens, routes, gains, (l1, l2), activation_clamp, granularity, arithmetic)
        return {"y": limits, "recv_stats": around(stats, 0.0)}
    parts = np.zeros((*routes.shape, extents["hidden"]), np.float32)
    for expert, where in experts_in_use(routes):
        rows = np.ravel_multi_index(where[:2], routes.shape[:2])
        hidden = product(take_rows(tokens, rows), take(l1, expert), arithmetic=arithmetic, out="bfloat16")
        active = swiglu(hidden, gains[where], activation_clamp, exact=resolve(arithmetic) is None)
        inner = (
            scaled(rounded(active, "bfloat16"), "activation") if x.scale is None else requantize(active, granularity)
        )
        parts[where] = product(inner, take(l2, expert), arithmetic=arithmetic, out="bfloat16")
    return {"y": combine(parts, routes, arithmetic), "recv_stats": stats}


def _extents(x: ScaledTensor, idx: Any, weights: Any, l1: ScaledTensor, l2: ScaledTensor) -> dict[str, int]:
    extents = bind(
        {
            "x": ("ranks tokens hidden", x),
            "topk_idx": ("ranks tokens topk", idx),
            "topk_weights": ("ranks tokens topk", weights),
            "l1_weights": ("experts gate_up hidden", l1),
            "l2_weights": ("experts hidden intermediate", l2),
        }
    )
    if extents["gate_up"] != 2 * extents["intermediate"]:
        need = f"{2 * extents['intermediate']}, gate and up of the intermediate size in l2_weights"
        raise ShapeError(expected("l1_weights axis 1", extents["gate_up"], need))
    if extents["ranks"] == 0 or extents["experts"] % extents["ranks"]:
        raise ShapeError(expected("experts", extents["experts"], f"a multiple of the {extents['ranks']} ranks"))
    return extents


def experts_in_use(routes: np.ndarray) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Yield each expert that has a route, with the (rank, token, slot) of its routes."""
    for expert in np.unique(routes[routes >= 0]):
        yield int(expert), np.nonzero(routes == expert)


def _limits(tokens: ScaledTensor, routes: np.ndarray, gains: np.ndarray, weights: Any, *options: Any) -> np.ndarray:
    from dgref.reference.moe_bounds import mega_moe_limits

    by_expert = (
        (expert, where, np.ravel_multi_index(where[:2], routes.shape[:2])) for expert, where in experts_in_use(routes)
    )
    return mega_moe_limits(tokens, by_expert, gains, weights, (*routes.shape, tokens.shape[-1]), *options)


def _received(routes: np.ndarray, extents: dict[str, int], before: Any) -> np.ndarray:
    counts = np.bincount(routes[routes >= 0], minlength=extents["experts"])
    counts = counts.reshape(extents["ranks"], extents["experts"] // extents["ranks"])
    if before is not None:
        held = integers(before, "recv_stats")
        if held.shape != counts.shape:
            raise ShapeError(expected("recv_stats shape", list(held.shape), list(counts.shape)))
        counts = counts + held
    return counts.astype(np.int32)


def combine(parts: np.ndarray, routes: np.ndarray, arithmetic: Any) -> np.ndarray:
    """Return the sum over each token's routes: in FP32 by ascending slot, or exactly; then BF16."""
    parts = np.where((routes >= 0)[..., None], parts, np.float32(0))
    if resolve(arithmetic) is None:
        ranks, tokens, slots, hidden = parts.shape
        rows = np.ascontiguousarray(np.swapaxes(parts, -1, -2)).reshape(ranks * tokens * hidden, slots)
        by_slot = scaled(rows, "parts")
        ones = scaled(np.ones((1, slots), np.float32), "ones")
        return product(by_slot, ones, arithmetic=EXACT, out="bfloat16").reshape(ranks, tokens, hidden)
    total = np.zeros((*parts.shape[:2], parts.shape[-1]), np.float32)
    for slot in range(parts.shape[2]):
        total = np.where((routes[..., slot] >= 0)[..., None], total + parts[:, :, slot], total)
    return rounded(total, "bfloat16")


@operation
def mega_moe_transform_weights(l1_weights: Any, l2_weights: Any) -> dict[str, np.ndarray]:
    """Return the weights as the fused kernel wants them: gate and up rows by 8, scales packed in UTCCP order.

    `l1`, `l2` are native arrays, one element a code; `l1_scale`, `l2_scale`, for scaled weights, are buffers of int32
    words [experts, ceil(K / 128), rows]. Linear 2's payload does not change.
    """
    l1, l2 = scaled(l1_weights, "l1_weights"), scaled(l2_weights, "l2_weights")
    bind({"l1_weights": ("experts gate_up hidden", l1), "l2_weights": ("experts hidden intermediate", l2)})
    if l1.shape[1] % 16:
        raise ShapeError(expected("l1_weights axis 1", l1.shape[1], "a multiple of 16: 8 rows of gate, 8 of up"))
    rows = LAYOUTS["gate_up_interleave_8"].pack(l1.data)
    result = {"l1": as_native(rows, l1.format), "l2": as_native(l2.data, l2.format)}
    for name, tensor in (("l1", l1), ("l2", l2)):
        if tensor.scale is not None:
            result[f"{name}_scale"] = _packed_scale(tensor, name)
    return result


def _packed_scale(tensor: ScaledTensor, name: str) -> np.ndarray:
    if tensor.shape[1] % 128:
        raise ShapeError(expected(f"{name}_weights axis 1", tensor.shape[1], "a multiple of 128, for UTCCP"))
    layout = LAYOUTS[f"mega_moe_{name}_scale"]
    if tensor.scaling.scale_format != "float8_e8m0fnu" or tensor.scaling.block[0] != 1:
        got = f"{tensor.scaling.block} {tensor.scaling.scale_format}"
        raise InputError(expected(f"{name}_weights scales", got, "one UE8M0 scale for each row and block of K"))
    return layout.pack(tensor.scale)
