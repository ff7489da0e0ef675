"""The row of the HyperConnection pre-norm."""

from __future__ import annotations

import numpy as np

from dgref.ops.op import Op
from dgref.ops.part import Part, Sampler, cut_product, pick_product
from dgref.ops.problem import Constraint, Operand, Param, Problem
from dgref.reference.hyperconnection import hc_prenorm


def _with_splits(axes: str):
    return lambda p: axes if p["num_splits"] is None else f"splits {axes}"


def _pick(p: Problem, name: str, array: np.ndarray, part: Part) -> np.ndarray:
    return array[..., part.rows] if name == "sqr_sum" else pick_product(p, name, array, part)


HC_PRENORM = Op(
    name="hc_prenorm",
    summary="TF32 product with the row sums of squares of A, over all of K or over splits of K",
    equation="d[m,n] = sum_k a[m,k] * b[n,k]; sqr_sum[m] = sum_k a[m,k]^2",
    axes="m n k",
    inputs=(
        Operand("a", "m k", formats=("bfloat16",), default=lambda p: "bfloat16", meaning="hidden states"),
        Operand("b", "n k", formats=("float32", "tfloat32"), default=lambda p: "float32", meaning="mixing weights"),
    ),
    outputs=(
        Operand("d", _with_splits("m n"), "plain", ("float32",)),
        Operand("sqr_sum", _with_splits("m"), "plain", ("float32",)),
    ),
    reference=hc_prenorm,
    multiply_adds=lambda p, inputs: p["m"] * p["k"] * (p["n"] + 1),
    params=(Param("num_splits", None, "contiguous parts of K, each with its own result", kind=int),),
    constraints=(Constraint("num_splits", "a whole number of at least 1", lambda p: _count(p) >= 1),),
    derived={"splits": lambda p: max(_count(p), 1)},
    sampler=Sampler(("m", "n"), cut_product, _pick),
    notes="K is handed out in blocks of 64, one more to each of the first splits where they do not divide evenly.",
)


def _count(p: Problem) -> int:
    splits = p.params["num_splits"]
    return 1 if splits is None else splits


ROWS = (HC_PRENORM,)
