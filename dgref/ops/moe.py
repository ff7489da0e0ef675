"""Rows of the fused mixture-of-experts layer and of its weight transforms, and how routes are made.

`routes` picks them: `uniform`, `masked` (a third of the slots are -1), `skewed` (everyone takes expert 0), `none`.
"""

from __future__ import annotations

import numpy as np

from dgref.formats import RECIPES, Recipe
from dgref.ops.op import Op
from dgref.ops.problem import FP4, FP8, Constraint, Inputs, Operand, Param, Problem
from dgref.reference.moe import mega_moe, mega_moe_transform_weights

ROUTES = ("uniform", "masked", "skewed", "none")
WEIGHT_FORMATS = (*FP8, *FP4, "bfloat16")


def make_routes(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return different experts for the slots of each token, -1 where a slot has no route."""
    shape = p.shape("ranks tokens experts")
    order = np.argsort(p.stream("topk_idx").words(int(np.prod(shape))).reshape(shape), axis=-1, kind="stable")
    if p["routes"] == "skewed":
        order = np.concatenate([np.zeros_like(order[..., :1]), order], axis=-1)
        order = np.apply_along_axis(_first_seen, -1, order) if order.size else order[..., 1:]
    chosen = order[..., : p["topk"]]
    holes = p.stream("topk_idx/holes").integers(0, 3, chosen.shape) == 0
    drop = {"masked": holes, "none": np.ones(chosen.shape, bool)}.get(p["routes"], np.zeros(chosen.shape, bool))
    return np.where(drop, -1, chosen).astype(np.int32)


def _first_seen(experts: np.ndarray) -> np.ndarray:
    """Drop the second occurrence of the expert that comes first."""
    return np.concatenate([experts[:1], experts[1:][experts[1:] != experts[0]]])


def make_stats(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return what each expert had received before."""
    return p.stream("recv_stats").integers(0, 100, p.shape("ranks local_experts")).astype(np.int32)


def _no_stats(p: Problem) -> np.ndarray:
    return np.zeros(p.shape("ranks local_experts"), np.int32)


def _routes(p: Problem, inputs: Inputs) -> int:
    return int(np.count_nonzero(np.asarray(inputs["topk_idx"]) >= 0))


def _experts_read(p: Problem, inputs: Inputs) -> int:
    used = np.asarray(inputs["topk_idx"])
    return len(np.unique(used[used >= 0]))


def _divides(p: Problem) -> bool:
    return p["ranks"] > 0 and p["experts"] % p["ranks"] == 0


def _weight(name: str, axes: str) -> Operand:
    return Operand(
        name,
        axes,
        formats=WEIGHT_FORMATS,
        default=lambda p: "mxfp4",
        meaning="gate rows, then up rows, of every expert" if name == "l1_weights" else "of every expert",
        touched=lambda p, inputs: _experts_read(p, inputs) * int(np.prod(p.shape(axes)[1:], dtype=np.int64)),
    )


MEGA_MOE = Op(
    name="mega_moe",
    summary="a whole mixture-of-experts layer over any number of ranks",
    equation="y[r,t] = bf16(sum_s l2[e] @ quantise(swiglu(bf16(l1[e] @ x[r,t])) * topk_weights[r,t,s])), "
    "e = topk_idx[r,t,s]",
    axes="ranks tokens hidden intermediate experts topk",
    inputs=(
        Operand("x", "ranks tokens hidden", formats=(*FP8, "bfloat16"), default=lambda p: "deepseek_fp8_32_ue8m0"),
        Operand(
            "topk_idx",
            "ranks tokens topk",
            "index",
            meaning="expert of each slot over all ranks, -1 for none",
            make=make_routes,
        ),
        Operand("topk_weights", "ranks tokens topk", "plain", ("float32",), default=lambda p: "float32"),
        _weight("l1_weights", "experts gate_up hidden"),
        _weight("l2_weights", "experts hidden intermediate"),
        Operand(
            "recv_stats", "ranks local_experts", "index", meaning="counts to add to", make=make_stats, absent=_no_stats
        ),
    ),
    outputs=(
        Operand("y", "ranks tokens hidden", "plain", ("bfloat16",)),
        Operand("recv_stats", "ranks local_experts", "index"),
    ),
    reference=mega_moe,
    multiply_adds=lambda p, inputs: 3 * _routes(p, inputs) * p["hidden"] * p["intermediate"],
    params=(
        Param("activation_clamp", None, "bound of gate from above, and of up on both sides", kind=float),
        Param("granularity", 32, "columns that share a scale after the activation", (32, 64, 128)),
        Param("routes", "uniform", "where tokens go", ROUTES, shapes_inputs_only=True),
    ),
    constraints=(
        Constraint("experts, ranks", "experts a multiple of ranks > 0", _divides),
        Constraint("topk, experts", "topk <= experts", lambda p: p["topk"] <= p["experts"]),
        Constraint(
            "intermediate, granularity",
            "intermediate a multiple of granularity",
            lambda p: p["intermediate"] % p["granularity"] == 0,
        ),
    ),
    derived={
        "gate_up": lambda p: 2 * p["intermediate"],
        "local_experts": lambda p: p["experts"] // p["ranks"] if p["ranks"] else 0,
    },
    notes="Linear 1, the activation, linear 2 and the sum each end in a rounding that belongs to the definition. "
    "Unscaled x means BF16 throughout: the activation is then rounded to BF16.",
)


def _recipe_of(p: Problem, name: str) -> Recipe:
    choice = p.case.operands.get(name) if p.case else None
    return RECIPES["mxfp4" if choice is None else choice.recipe]


def _format_of(name: str):
    """Return what finds the element format of a weight of the case."""
    return lambda p: _recipe_of(p, name).format


def _has_scales(name: str):
    """Return what says whether a weight of the case has scales to transform."""
    return lambda p: _recipe_of(p, name).scaling is not None


TRANSFORM_WEIGHTS = Op(
    name="mega_moe_transform_weights",
    summary="weights of the fused layer as its kernel wants them",
    equation="gate and up rows in turns of 8; scales packed four to a word, rows of every 128 in UTCCP order",
    axes="hidden intermediate experts",
    inputs=(
        Operand("l1_weights", "experts gate_up hidden", formats=WEIGHT_FORMATS, default=lambda p: "mxfp4"),
        Operand("l2_weights", "experts hidden intermediate", formats=WEIGHT_FORMATS, default=lambda p: "mxfp4"),
    ),
    outputs=(
        Operand("l1", "experts gate_up hidden", formats=WEIGHT_FORMATS, default=_format_of("l1_weights")),
        Operand("l2", "experts hidden intermediate", formats=WEIGHT_FORMATS, default=_format_of("l2_weights")),
        Operand("l1_scale", "experts l1_words gate_up", "index", when=_has_scales("l1_weights")),
        Operand("l2_scale", "experts l2_words hidden", "index", when=_has_scales("l2_weights")),
    ),
    reference=mega_moe_transform_weights,
    multiply_adds=lambda p, inputs: 0,
    constraints=(
        Constraint("intermediate", "a multiple of 64: 128 rows of gate and up", lambda p: p["intermediate"] % 64 == 0),
        Constraint("hidden", "a multiple of 128 rows", lambda p: p["hidden"] % 128 == 0),
    ),
    derived={
        "gate_up": lambda p: 2 * p["intermediate"],
        "l1_words": lambda p: -(-p["hidden"] // 128),
        "l2_words": lambda p: -(-p["intermediate"] // 128),
    },
    takes_arithmetic=False,
)
ROWS = (MEGA_MOE, TRANSFORM_WEIGHTS)
