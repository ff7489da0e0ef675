"""Rows of the layout transforms of scales: what a library does to scales before its kernels can read them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dgref.formats import ScaledTensor
from dgref.ops.grouped import alignment, make_k_layout, make_row_layout, pattern
from dgref.ops.op import Op
from dgref.ops.problem import Constraint, Inputs, Operand, Param, Problem
from dgref.reference.scale_transforms import (
    group_lengths,
    scales_mn_major,
    scales_packed,
    scales_packed_k_grouped,
    scales_required,
)

Axes = Callable[[Problem], str]
BLOCKS = ("1x128", "128x128", "1x32", "32x32")
ARCHITECTURES = ("sm90", "sm100")


def scale_operand(axes: str | Axes) -> Operand:
    """Return the operand of scales: float32 powers of two over all normal exponents."""

    def fill(p: Problem, recipe: str, inputs: Inputs) -> ScaledTensor:
        shape = p.shape(axes if isinstance(axes, str) else axes(p))
        exponents = p.stream("scales").integers(1, 255, shape).astype(np.uint32)
        return ScaledTensor(exponents << np.uint32(23), "float32")

    return Operand("scales", axes, "plain", ("float32",), "powers of two", default=lambda p: "float32", fill=fill)


def _row_padding(p: Problem, inputs: Inputs) -> dict[str, np.ndarray]:
    """Return the padding rows of a buffer whose last axis is rows rounded up to 4: nobody needs to write them."""
    shape = p.shape("g blocks m_padded" if "words" not in p.extents else _packed_axes(p))
    return {"buffer": np.broadcast_to(np.arange(shape[-1]) >= p["m"], shape)}


def _padded(p: Problem) -> int:
    return -(-p["m"] // 4) * 4


MN_MAJOR = Op(
    name="scales_mn_major",
    summary="float32 scales column by column, each column padded for TMA",
    equation="buffer[g,s,m] = scales[g,m,s]",
    axes="g m blocks",
    inputs=(scale_operand("g m blocks"),),
    outputs=(Operand("buffer", "g blocks m_padded", "plain", ("float32",)),),
    reference=scales_mn_major,
    multiply_adds=lambda p, inputs: 0,
    derived={"m_padded": _padded},
    undefined=_row_padding,
    takes_arithmetic=False,
)


def _packed_axes(p: Problem) -> str:
    return "words m_padded" if p["psum"] else "g words m_padded"


PACKED = Op(
    name="scales_packed",
    summary="four UE8M0 bytes of a row in one word, words column by column, padded for TMA",
    equation="byte s%4 of buffer[g,s//4,m] = exponent of scales[g,m,s]",
    axes="g m blocks",
    inputs=(
        scale_operand(lambda p: "m blocks" if p["psum"] else "g m blocks"),
        Operand(
            "ends",
            "g",
            "index",
            when=lambda p: p["psum"],
            meaning="where each group of rows ends; rows between groups are words of zero",
            make=make_row_layout,
        ),
    ),
    outputs=(Operand("buffer", _packed_axes, "index"),),
    reference=scales_packed,
    multiply_adds=lambda p, inputs: 0,
    params=(
        Param("psum", False, "rows belong to groups that a prefix sum bounds", shapes_inputs_only=True),
        alignment,
        pattern,
    ),
    constraints=(Constraint("alignment", "at least 1", lambda p: p["alignment"] >= 1),),
    derived={"m_padded": _padded, "words": lambda p: -(-p["blocks"] // 4)},
    undefined=_row_padding,
    takes_arithmetic=False,
)


def _k_of(layout: np.ndarray, psum: bool) -> int:
    return int(layout.max(initial=0) if psum else layout.sum())


def _block_counts(p: Problem) -> list[int]:
    if p["alignment"] < 1:
        return []
    layout = p.inputs["grouped_layout"] if p.inputs else make_k_layout(p, {})
    lengths = group_lengths(layout, p["psum"], p["alignment"])
    return [-(-length // p["block"]) for length in lengths]


K_GROUPED = Op(
    name="scales_packed_k_grouped",
    summary="packed scales of a K axis cut into groups, each from a new row of words",
    equation="byte s%4 of buffer[first row of g + s//4, m] = exponent of scales[first block of g + s, m]",
    axes="g m k",
    inputs=(
        scale_operand("k_blocks m"),
        Operand("grouped_layout", "g", "index", meaning="K of each group, or where each ends", make=make_k_layout),
    ),
    outputs=(Operand("buffer", "words m", "index"),),
    reference=scales_packed_k_grouped,
    multiply_adds=lambda p, inputs: 0,
    params=(
        Param("block", 128, "elements of K that share a scale", (32, 128)),
        Param("psum", False, "boundaries as running ends of a prefix sum"),
        alignment,
        pattern,
    ),
    constraints=(
        Constraint("alignment", "at least 1", lambda p: p["alignment"] >= 1),
        Constraint("g", "at least 1", lambda p: p["g"] >= 1),
    ),
    derived={
        "k_blocks": lambda p: sum(_block_counts(p)),
        "words": lambda p: sum(-(-count // 4) for count in _block_counts(p)),
    },
    told={"k": lambda p, inputs: _k_of(inputs["grouped_layout"], p["psum"])},
    takes_arithmetic=False,
)


def _stays_float(p: Problem) -> bool:
    return p["architecture"] == "sm90" or p["keep_float32"]


def _sides(p: Problem) -> tuple[int, int]:
    rows, columns = p["block"].split("x")
    return int(rows), int(columns)


REQUIRED = Op(
    name="scales_required",
    summary="scales as DeepGEMM's kernels require them on an architecture",
    equation="Hopper: 1x128 MN-major, 128x128 as it is; Blackwell: one UE8M0 byte for each row, packed",
    axes="g m k",
    inputs=(scale_operand("g m_blocks k_blocks"),),
    outputs=(
        Operand(
            "buffer",
            lambda p: "g m_blocks k_blocks" if p["block"] == "128x128" else "g k_blocks m_padded",
            "plain",
            ("float32",),
            when=_stays_float,
        ),
        Operand("words", "g k_words m_padded", "index", when=lambda p: not _stays_float(p)),
    ),
    reference=lambda scales, m, k, block, architecture, keep_float32: scales_required(
        scales,
        mn=m,
        k=k,
        block=[int(side) for side in block.split("x")],
        architecture=architecture,
        keep_float32=keep_float32,
    ),
    multiply_adds=lambda p, inputs: 0,
    params=(
        Param("block", "1x128", "rows and columns that share a scale", BLOCKS),
        Param("architecture", "sm90", "whose kernels", ARCHITECTURES),
        Param("keep_float32", False, "no UE8M0 on Blackwell either"),
    ),
    constraints=(
        Constraint(
            "block, architecture",
            "blocks of 128 along K where scales stay float32",
            lambda p: not _stays_float(p) or _sides(p)[1] == 128,
        ),
    ),
    derived={
        "m_blocks": lambda p: -(-p["m"] // _sides(p)[0]),
        "k_blocks": lambda p: -(-p["k"] // _sides(p)[1]),
        "k_words": lambda p: -(-p["k_blocks"] // 4),
        "m_padded": _padded,
    },
    undefined=lambda p, inputs: (
        {}
        if p["block"] == "128x128" and _stays_float(p)
        else {
            name: np.broadcast_to(np.arange(p["m_padded"]) >= p["m"], p.shape(f"g {blocks} m_padded"))
            for name, blocks in (("buffer", "k_blocks"), ("words", "k_words"))
        }
    ),
    extents_as_options=("m", "k"),
    takes_arithmetic=False,
)
ROWS = (MN_MAJOR, PACKED, K_GROUPED, REQUIRED)
