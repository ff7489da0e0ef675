"""Scales of a checkpoint in a layout other than linear: how a file says so, and how they move between layouts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dgref.checkpoint.conventions import Block, Convention
from dgref.checkpoint.header import Entry
from dgref.checkpoint.reading import Reader
from dgref.errors import InputError, expected
from dgref.formats.layouts import LAYOUTS, Layout

if TYPE_CHECKING:  # these modules import this one
    from dgref.checkpoint.weights import Weight
    from dgref.checkpoint.writer import Planned

METADATA = "dgref.scale_layout"  # the key of a file's metadata that names the layout of its scales
LINEAR = "linear"
_VIEWS = {"F32": np.float32, "BF16": np.uint16, "F16": np.uint16, "I32": np.int32}


def layout_of(metadata: dict[str, str]) -> str:
    """Return the layout that a file declares for its scales; an unknown name is left for the facts to report."""
    return metadata.get(METADATA, LINEAR)


def _view(scale: Entry) -> type[np.generic]:
    """Return the dtype that scales are read as: codes of one byte are bytes."""
    return _VIEWS.get(scale.dtype, np.uint8)


def block_in_layout(shape: tuple[int, ...], scale: Entry, row: Convention, layout: str) -> Block | None:
    """Return the block whose grid, in a layout, has the size of the scales."""
    if layout not in LAYOUTS or LAYOUTS[layout].parameters or len(shape) < 2:
        return None
    if LAYOUTS[layout].elements.produces not in ("the same dtype", _view(scale).__name__):
        return None
    for block in row.blocks:
        grid = row.scale_shape(shape, block)
        if grid[-2] % LAYOUTS[layout].divisor == 0 and LAYOUTS[layout].size(grid) == scale.count:
            return block
    return None


def scale_grid(weight: Weight, reader: Reader) -> np.ndarray:
    """Return a weight's scales as stored, in logical order: codes of one byte, or floats of two or four."""
    entry, grid = weight.scale, weight.convention.scale_shape(weight.shape, weight.block)
    raw = reader.read(entry)
    stored = raw.view(_view(entry))
    if weight.layout == LINEAR:
        return stored.reshape(grid)
    layout = LAYOUTS[weight.layout]
    codes = layout.elements.lanes > 1 and weight.convention.scale_format != "float32"
    return layout.unpack(stored, grid, codes=codes)


def relaid(weight: Weight, layout: str, reader: Reader) -> Planned:
    """Plan a weight's scales in another layout."""
    from dgref.checkpoint.writer import Planned

    row, target = weight.convention, LAYOUTS[layout]
    subject = weight.scale.name if weight.scale else weight.name
    if weight.misfit or target.parameters:
        got = weight.misfit or f"{target.name}, which needs {target.parameters}"
        need = "a weight that inspects without contradiction, and a layout without parameters"
        raise InputError(expected(subject, got, need))
    words = target.elements.lanes > 1
    if words and row.scale_format not in ("float32", "float8_e8m0fnu"):
        raise InputError(expected(subject, f"{row.scale_format} scales", f"UE8M0, for {target.name}"))
    grid = row.scale_shape(weight.shape, weight.block)
    shape = target.buffer_shape(grid)
    dtype = "I32" if words else _unpacked_dtype(weight)
    if target.elements.accepts:
        target.pack(_accepted(weight, reader, target))  # refuse before anything is written
    return Planned(weight.scale.name, dtype, shape, lambda: [target.pack(_accepted(weight, reader, target))])


def _unpacked_dtype(weight: Weight) -> str:
    """Return the dtype of scales that are not in words."""
    if weight.scale.dtype != "I32":
        return weight.scale.dtype
    return weight.convention.scale_dtypes[0]


def _accepted(weight: Weight, reader: Reader, target: Layout) -> np.ndarray:
    """Return the grid in a dtype that a layout takes."""
    grid = scale_grid(weight, reader)
    if "float32" in target.elements.accepts and grid.dtype == np.uint16:
        raise InputError(expected(weight.scale.name, weight.scale.dtype, f"F32, for {target.name}"))
    return grid
