"""Facts about names, dtypes and shapes: what is there, and whether it fits together."""

from __future__ import annotations

from math import prod

from dgref.checkpoint.facts import Found, Measured, fact
from dgref.checkpoint.layouts import LINEAR
from dgref.checkpoint.weights import Weight, implied_block, stored_as
from dgref.errors import expected
from dgref.formats.layouts import LAYOUTS
from dgref.formats.scaling import FULL


@fact
def scale_missing(m: Measured) -> Found:
    """A quantised payload has no scales, or lacks the global scale that its convention multiplies by."""
    row = m.weight.convention
    if m.weight.scale is None:
        need = " or ".join(m.weight.name + suffix for suffix in row.scale)
        level = "contradiction" if m.claims else "suspicion"  # unscaled float8 exists, where nothing claims more
        yield level, expected("scales", "none", need), "a payload that needs scales is off by 2^8 and more without"
    elif row.global_scale and m.weight.global_scale is None:
        message = expected("global scale", "none", m.weight.name + row.global_scale, row.name)
        yield "contradiction", message, "a missing global scale reads as 1.0"


@fact
def scale_dtype(m: Measured) -> Found:
    """The scales' dtype is not one that the convention stores."""
    scale, row = m.weight.scale, m.weight.convention
    if scale is not None and not stored_as(m.weight):
        yield "contradiction", expected(scale.name, scale.dtype, " or ".join(row.scale_dtypes), row.name), ""


@fact
def scale_shape(m: Measured) -> Found:
    """The grid of scales does not cover the payload in any block of the convention."""
    scale, row = m.weight.scale, m.weight.convention
    if scale is None or m.weight.block is not None:
        return
    if len(m.weight.shape) < 2:
        yield "contradiction", expected(m.weight.payload.name, f"rank {len(m.weight.shape)}", "2 or more"), ""
        return
    need = " or ".join(str(list(row.scale_shape(m.weight.shape, block))) for block in row.blocks)
    message = expected(scale.name, list(scale.shape), need, f"{row.name}, weight {list(m.weight.shape)}")
    yield "contradiction", message, _explain_shape(m.weight)


def _explain_shape(weight: Weight) -> str:
    """Say what the scales' shape would fit."""
    if weight.layout != LINEAR:
        return f"the file declares its scales to be in {weight.layout}, whose size is another"
    for rule in weight.convention.blocks:
        *_, rows, columns = weight.convention.scale_shape(weight.shape, rule)
        if rows != columns and weight.scale.shape[-2:] == (columns, rows):
            return f"the grid of blocks of {_block_text(rule)} is transposed: store [rows, columns], as the payload is"
    block = implied_block(weight.shape, weight.scale.shape)
    if block:
        return f"the shape is that of blocks of {_block_text(block)}: wrong granularity or wrong convention"
    for name in ("swizzle_128x4", "swizzle_8x4", "linear_padded_4", "mn_major_tma"):
        for rule in weight.convention.blocks:
            grid = weight.convention.scale_shape(weight.shape, rule)
            if LAYOUTS[name].size(grid) == weight.scale.count != prod(grid):
                return f"the size is that of {name}: the scales are padded, and perhaps swizzled"
    for rule in weight.convention.blocks:
        missing = prod(weight.convention.scale_shape(weight.shape, rule)) - weight.scale.count
        if missing > 0:
            return f"{missing} scales are missing for blocks of {_block_text(rule)}: truncated"
    return "more scales than blocks"


def _block_text(block: tuple[int, int]) -> str:
    return "x".join("all" if size == FULL else str(size) for size in block)


@fact
def unaligned(m: Measured) -> Found:
    """Extents that end inside a block: right only in kernels that pad."""
    block = m.weight.block
    if block is None or m.weight.scale is None:
        return
    tails = [extent for extent, size in zip(m.weight.shape[-2:], block, strict=True) if size != FULL and extent % size]
    if tails:
        yield (
            "note",
            expected("shape", list(m.weight.shape), f"multiples of {_block_text(block)}"),
            "the tail needs padding",
        )
