"""Rows of grouped products, and how their group boundaries are made.

`groups` picks the shape of the boundaries: `balanced`, `skewed` (most rows in one group), `empty` (every other group
of several has none), `single` (one group has everything) or `none` (all padding).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from dgref.formats import RECIPES, ScaledTensor
from dgref.ops.gemm import accumulate, start_operand
from dgref.ops.op import Op
from dgref.ops.part import Part, Sampler, cut_product, pick_product
from dgref.ops.problem import MATRIX_FORMATS, OUT_FORMATS, Constraint, Inputs, Operand, Param, Problem
from dgref.reference.grouped import gemm_grouped_contiguous, gemm_grouped_k, gemm_grouped_masked, k_spans, psum_spans

PATTERNS = ("balanced", "skewed", "empty", "single", "none")
pattern = Param("groups", "balanced", "how rows or K are shared out", PATTERNS, shapes_inputs_only=True)
psum = Param("psum", False, "boundaries as running ends of a prefix sum, not as labels or lengths")
alignment = Param("alignment", 128, "every group starts at a multiple of this")


def weights(p: Problem, name: str) -> np.ndarray:
    """Return how much each group should get, as integers; all zero where no group gets anything."""
    groups = p["g"]
    even = p.stream(f"{name}/weights").integers(7, 14, (groups,))
    shares = {
        "balanced": even,
        "skewed": np.where(np.arange(groups) == groups // 2, 100 * even, even),
        "empty": np.where((np.arange(groups) % 2 == 0) & (groups > 1), 0, even),
        "single": np.where(np.arange(groups) == groups - 1, even, 0),
        "none": np.zeros(groups, np.int64),
    }
    return shares[p["groups"]]


def share_out(total: int, shares: np.ndarray) -> np.ndarray:
    """Return whole parts of `total` in proportion to `shares`, none of them off by one or more."""
    if not shares.any():
        return np.zeros(len(shares), np.int64)
    return np.diff(total * np.cumsum(shares) // shares.sum(), prepend=0)


def _row_spans(p: Problem) -> list[slice]:
    """Return the rows of each group: whole tiles are shared out, and a group fills all but a few rows of its last."""
    unit, m = p["alignment"], p["m"]
    tiles = share_out(-(-m // unit), weights(p, "grouped_layout"))
    spare = p.stream("grouped_layout").integers(0, unit, (p["g"],))
    starts = np.minimum((np.cumsum(tiles) - tiles) * unit, m)
    stops = np.minimum(starts + np.maximum(tiles * unit - spare, 0), m)
    return [slice(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]


def make_row_layout(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return a label for each row, or the end of each group."""
    spans = _row_spans(p)
    if p["psum"]:
        return np.array([span.stop for span in spans], np.int32)
    return _labels(spans, p["m"])


def _labels(spans: Iterable[slice], rows: int) -> np.ndarray:
    """Return the group of each row, -1 for padding."""
    labels = np.full(rows, -1, np.int32)
    for group, span in enumerate(spans):
        labels[span] = group
    return labels


def row_labels(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return the group of each row of a contiguous product, -1 for padding, whichever way it is given."""
    layout = np.asarray(inputs["grouped_layout"])
    return _labels(psum_spans(layout, p["m"], p["alignment"]), p["m"]) if p["psum"] else layout


def _cut_contiguous(p: Problem, inputs: Inputs, part: Part) -> dict[str, Any]:
    return {**cut_product(p, inputs, part), "grouped_layout": row_labels(p, inputs)[part.rows]}


def _cut_masked(p: Problem, inputs: Inputs, part: Part) -> dict[str, Any]:
    counts = np.searchsorted(part.rows, np.asarray(inputs["masked_m"]))
    return {**cut_product(p, inputs, part), "masked_m": counts.astype(np.int32)}


def _rows_of_groups(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return how many rows each group has."""
    layout = np.asarray(inputs["grouped_layout"])
    if p["psum"]:
        return np.array([span.stop - span.start for span in psum_spans(layout, p["m"], p["alignment"])], np.int64)
    return np.bincount(layout[layout >= 0], minlength=p["g"])


def _written(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return which rows have a value: those of groups, and with `zero_padding` those between and behind them."""
    layout, rows = np.asarray(inputs["grouped_layout"]), np.arange(p["m"])
    if not p["psum"]:
        return (layout >= 0) | p["zero_padding"]
    if p["zero_padding"]:
        return rows < -(-int(layout.max(initial=0)) // p["alignment"]) * p["alignment"]
    spans = psum_spans(layout, p["m"], p["alignment"])
    return np.any([(rows >= s.start) & (rows < s.stop) for s in spans] or [rows < 0], axis=0)


def _padding(p: Problem, inputs: Inputs) -> dict[str, np.ndarray]:
    written = _written(p, inputs)
    return {} if written.all() else {"d": np.repeat(~written[:, None], p["n"], axis=1)}


CONTIGUOUS = Op(
    name="gemm_grouped_contiguous",
    summary="rows of one matrix, each multiplied by the weights of its group (MoE prefill)",
    equation="d[m,n] = sum_k a[m,k] * b[group(m),n,k]",
    axes="g m n k",
    inputs=(
        Operand(
            "a",
            "m k",
            formats=MATRIX_FORMATS,
            meaning="rows sorted by group",
            touched=lambda p, inputs: int(_rows_of_groups(p, inputs).sum()) * p["k"],
        ),
        Operand(
            "b",
            "g n k",
            formats=MATRIX_FORMATS,
            meaning="weights of every group",
            touched=lambda p, inputs: int(np.count_nonzero(_rows_of_groups(p, inputs))) * p["n"] * p["k"],
        ),
        Operand(
            "grouped_layout",
            lambda p: "g" if p["psum"] else "m",
            "index",
            meaning="a label for each row, -1 for padding; with psum, the end of each group",
            make=make_row_layout,
        ),
    ),
    outputs=(
        Operand(
            "d",
            "m n",
            "plain",
            OUT_FORMATS,
            touched=lambda p, inputs: int(_written(p, inputs).sum()) * p["n"],
        ),
    ),
    reference=gemm_grouped_contiguous,
    multiply_adds=lambda p, inputs: int(_rows_of_groups(p, inputs).sum()) * p["n"] * p["k"],
    params=(
        psum,
        alignment,
        Param("zero_padding", False, "padding rows are guaranteed to be zero", shapes_inputs_only=True),
        pattern,
    ),
    constraints=(Constraint("alignment", "at least 1", lambda p: p["alignment"] >= 1),),
    out_formats=OUT_FORMATS,
    undefined=_padding,
    sampler=Sampler(("m", "n"), _cut_contiguous, pick_product, (("psum", False),)),
    notes="Padding rows (label -1, or outside every prefix-sum span) are zero where `zero_padding` is guaranteed and "
    "unspecified otherwise; with a prefix sum, rows past the last group's aligned end are never written.",
)


def make_mask(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return how many rows of each group count."""
    shares = weights(p, "masked_m")
    top = max(int(shares.max(initial=0)), 1)
    spare = p.stream("masked_m").integers(0, 3, (p["g"],)) * (shares > 0)
    return np.clip(p["m"] * shares // top - spare, 0, p["m"]).astype(np.int32)


def _counted_rows(p: Problem, inputs: Inputs) -> int:
    return int(np.asarray(inputs["masked_m"], np.int64).sum())


MASKED = Op(
    name="gemm_grouped_masked",
    summary="one product for each group, of which only the first masked_m rows count (MoE decode)",
    equation="d[g,m,n] = sum_k a[g,m,k] * b[g,n,k] for m < masked_m[g]",
    axes="g m n k",
    inputs=(
        Operand("a", "g m k", formats=MATRIX_FORMATS, touched=lambda p, inputs: _counted_rows(p, inputs) * p["k"]),
        Operand(
            "b",
            "g n k",
            formats=MATRIX_FORMATS,
            touched=lambda p, inputs: int(np.count_nonzero(inputs["masked_m"])) * p["n"] * p["k"],
        ),
        Operand("masked_m", "g", "index", meaning="how many rows of each group count", make=make_mask),
    ),
    outputs=(Operand("d", "g m n", "plain", OUT_FORMATS, touched=lambda p, inputs: _counted_rows(p, inputs) * p["n"]),),
    reference=gemm_grouped_masked,
    multiply_adds=lambda p, inputs: _counted_rows(p, inputs) * p["n"] * p["k"],
    params=(pattern,),
    out_formats=OUT_FORMATS,
    undefined=lambda p, inputs: {
        "d": np.broadcast_to(
            (np.arange(p["m"]) >= np.asarray(inputs["masked_m"])[:, None])[..., None], (p["g"], p["m"], p["n"])
        )
    },
    sampler=Sampler(("m", "n"), _cut_masked, pick_product),
    notes="Rows past the mask are never written.",
)


def make_k_layout(p: Problem, inputs: Inputs) -> np.ndarray:
    """Return the K of each group, or where each ends; whole units of `alignment` are shared out."""
    unit, k = p["alignment"], p["k"]
    units = share_out(-(-k // unit), weights(p, "grouped_layout"))
    starts = np.minimum((np.cumsum(units) - units) * unit, k)
    stops = np.minimum(starts + units * unit, k)
    if not p["psum"]:
        return (stops - starts).astype(np.int32)
    spare = p.stream("grouped_layout").integers(0, unit, (p["g"],))
    return np.maximum(stops - spare, starts).astype(np.int32)


def fill_by_group(name: str, rows: str) -> object:
    """Return the filler of an operand whose K is cut into groups, each quantised by itself, zero between them."""

    def fill(p: Problem, recipe: str, inputs: Inputs) -> ScaledTensor:
        spans = list(k_spans(inputs["grouped_layout"], p["k"], p["psum"], p["alignment"]))
        parts = [p.generate(f"{name}/{g}", (p[rows], span.stop - span.start), recipe) for g, span in enumerate(spans)]
        return join_groups(parts, spans, p["k"])

    return fill


def join_groups(parts: list[ScaledTensor], spans: list[slice], k: int) -> ScaledTensor:
    """Return tensors side by side along K, each at its span, with their scale columns one after the other."""
    data = np.zeros((parts[0].shape[0], k), parts[0].data.dtype)
    for part, span in zip(parts, spans, strict=True):
        data[:, span] = part.data
    if parts[0].scale is None:
        return replace(parts[0], data=data)
    return replace(parts[0], data=data, scale=np.concatenate([part.scale for part in parts], axis=1))


def _covered(p: Problem, inputs: Inputs) -> int:
    spans = k_spans(inputs["grouped_layout"], p["k"], p["psum"], p["alignment"])
    return sum(span.stop - span.start for span in spans)


def _shares_scales_along_k(p: Problem) -> bool:
    choices = p.case.operands if p.case else {}
    scalings = [RECIPES[choices[name].recipe].scaling for name in ("a", "b") if name in choices]
    return all(s is None or (s.block[1] != 0 and s.global_scale == "none") for s in scalings)


K_GROUPED = Op(
    name="gemm_grouped_k",
    summary="one product for each group of the K axis (weight gradients of MoE layers)",
    equation="d[g,m,n] = c[g,m,n] + sum over the k of group g of a[m,k] * b[n,k]",
    axes="g m n k",
    inputs=(
        Operand(
            "a",
            "m k",
            formats=MATRIX_FORMATS,
            meaning="stored [k, m] when mn-major (TN)",
            fill=fill_by_group("a", "m"),
            touched=lambda p, inputs: p["m"] * _covered(p, inputs),
        ),
        Operand(
            "b",
            "n k",
            formats=MATRIX_FORMATS,
            fill=fill_by_group("b", "n"),
            touched=lambda p, inputs: p["n"] * _covered(p, inputs),
        ),
        Operand(
            "grouped_layout", "g", "index", meaning="K of each group; with psum, where each ends", make=make_k_layout
        ),
        start_operand("g m n"),
    ),
    outputs=(Operand("d", "g m n", "plain", OUT_FORMATS),),
    reference=gemm_grouped_k,
    multiply_adds=lambda p, inputs: p["m"] * p["n"] * _covered(p, inputs),
    params=(psum, alignment, pattern, accumulate),
    constraints=(
        Constraint("alignment", "at least 1", lambda p: p["alignment"] >= 1),
        Constraint("g", "at least 1", lambda p: p["g"] >= 1),
        Constraint(
            "groups, k", "groups that cover k, or psum", lambda p: p["groups"] != "none" or p["psum"] or not p["k"]
        ),
        Constraint("k", "recipes whose scales cover a part of K each", _shares_scales_along_k),
    ),
    out_formats=OUT_FORMATS,
    sampler=Sampler(("m", "n"), cut_product, pick_product),
    notes="Every group starts a new scale block. An empty group gives c, or zero.",
)
ROWS = (CONTIGUOUS, MASKED, K_GROUPED)
