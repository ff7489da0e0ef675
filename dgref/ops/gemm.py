"""Rows of dense products."""

from __future__ import annotations

import numpy as np

from dgref.ops.op import Op
from dgref.ops.part import Part, Sampler, cut_product
from dgref.ops.problem import HALF, MATRIX_FORMATS, OUT_FORMATS, Constraint, Inputs, Operand, Param, Problem
from dgref.reference.gemm import gemm, split_columns, split_width

accumulate = Param("accumulate", False, "start from c instead of zero", shapes_inputs_only=True)


def out_recipe(p: Problem) -> str:
    """Return the recipe of an operand that has the output's format."""
    return p.out or "float32"


def start_operand(axes: str) -> Operand:
    """Return the operand that an accumulating product starts from."""
    return Operand(
        "c", axes, "plain", (*HALF, "float32"), "what the product is added to", lambda p: p["accumulate"], out_recipe
    )


def _gap(p: Problem, inputs: Inputs) -> dict[str, np.ndarray]:
    if not p["head_splits"]:
        return {}
    undefined = np.ones((p["m"], p["n_out"]), bool)
    undefined[:, split_columns(p["n"], p["head_splits"])] = False
    return {"d": undefined}


def _pick(p: Problem, name: str, array: np.ndarray, part: Part) -> np.ndarray:
    columns = split_columns(p["n"], p["head_splits"])[part.columns] if p["head_splits"] else part.columns
    return array[..., part.rows, :][..., columns]


def _splits_fit(p: Problem) -> bool:
    splits = p["head_splits"]
    if splits is None:
        return True
    return len(splits) == 3 and min(splits) >= 0 and splits[0] + splits[2] > 0 and p["n"] % (splits[0] + splits[2]) == 0


def _width(p: Problem) -> int:
    return split_width(p["n"], p["head_splits"]) if p["head_splits"] and _splits_fit(p) else p["n"]


GEMM = Op(
    name="gemm",
    summary="dense matrix product, with optional accumulation or head-split epilogue",
    equation="d[m,n] = c[m,n] + sum_k a[m,k] * b[n,k]",
    axes="m n k",
    inputs=(
        Operand("a", "m k", formats=MATRIX_FORMATS, meaning="activations; NT, NN, TN, TT are choices of `major`"),
        Operand("b", "n k", formats=MATRIX_FORMATS, meaning="weights"),
        start_operand("m n"),
    ),
    outputs=(Operand("d", "m n_out", "plain", OUT_FORMATS),),
    reference=gemm,
    multiply_adds=lambda p, inputs: p["m"] * p["n"] * p["k"],
    params=(
        accumulate,
        Param(
            "head_splits",
            None,
            "[left, mid, right]: leave mid columns free after the first left of every head",
            kind=tuple,
        ),
    ),
    constraints=(
        Constraint("head_splits, n", "left, mid, right >= 0 with n a multiple of left + right > 0", _splits_fit),
        Constraint(
            "head_splits, accumulate", "only one of the two", lambda p: not (p["head_splits"] and p["accumulate"])
        ),
    ),
    derived={"n_out": _width},
    out_formats=OUT_FORMATS,
    undefined=_gap,
    sampler=Sampler(("m", "n"), cut_product, _pick, (("head_splits", None),)),
    notes="With `head_splits`, column j of the product goes to column j + (j + right) // (left + right) * mid; no "
    "kernel writes the columns between.",
)
ROWS = (GEMM,)
