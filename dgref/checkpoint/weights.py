"""From tensor names to quantised weights: which payload belongs to which scales, and under which convention."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from dgref.checkpoint.conventions import CONVENTIONS, Block, Convention
from dgref.checkpoint.header import Entry
from dgref.checkpoint.layouts import LINEAR, block_in_layout, layout_of
from dgref.checkpoint.source import Source
from dgref.formats.scaling import FULL

_ROWS_TRIED = (1, 128, FULL, 64, 32, 16)
_COLUMNS_TRIED = (16, 32, 64, 128, FULL, 8, 256)


@dataclass(frozen=True)
class Weight:
    """One quantised weight: its payload and what scales it."""

    name: str
    convention: Convention
    payload: Entry
    scale: Entry | None = None
    global_scale: Entry | None = None
    input_scale: Entry | None = None
    block: Block | None = None  # None: the shape of the scales fits no block of the convention
    layout: str = LINEAR  # of the scales, as the file declares it

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape, in elements."""
        return self.convention.logical_shape(self.payload.shape, self.payload.dtype)

    @property
    def misfit(self) -> str:
        """What the scales have that the convention does not store; empty where they fit."""
        if self.scale is None:
            return "no scales"
        if not stored_as(self):
            return f"scales of {self.scale.dtype}"
        return "" if self.block is not None else "scales that do not fit the payload"

    @property
    def parts(self) -> tuple[Entry, ...]:
        """The tensors that it is made of."""
        parts = (self.payload, self.scale, self.global_scale, self.input_scale)
        return tuple(part for part in parts if part is not None)

    @property
    def two_dimensional(self) -> bool:
        """Whether there are rows and columns, and something in them."""
        return len(self.shape) >= 2 and prod(self.shape) > 0


def find_weights(source: Source, claims: set[str]) -> tuple[list[Weight], list[str]]:
    """Return the quantised weights in the order of their bytes, and the names of scales that scale nothing."""
    weights, used = [], set()
    for name in source.tensors:
        weight = _best_reading(source, name, claims)
        if weight is not None:
            weights.append(weight)
            used |= {part.name for part in weight.parts}
    weights.sort(key=lambda weight: (str(weight.payload.file), weight.payload.start))
    suffixes = {suffix for row in CONVENTIONS.values() for suffix in (*row.scale, row.global_scale) if suffix}
    suffixes -= {".scale", ".scales"}  # ordinary names: norms and buffers use them too
    orphans = [name for name in source.tensors if name not in used and name.endswith(tuple(suffixes))]
    return weights, orphans


def _best_reading(source: Source, name: str, claims: set[str]) -> Weight | None:
    """Return the reading of a tensor as a quantised weight that agrees with the most evidence."""
    readings = [_reading(source, name, row, suffix) for row in CONVENTIONS.values() for suffix in row.payload]
    found = [weight for weight in readings if weight is not None]
    return max(found, key=lambda weight: _agreement(weight, claims), default=None)


def _reading(source: Source, name: str, row: Convention, suffix: str) -> Weight | None:
    """Read a tensor under one convention; None where its name or dtype cannot be."""
    payload = source.tensors[name]
    if not name.endswith(suffix) or payload.dtype not in row.payload_dtypes:
        return None
    if payload.dtype == "F4" and payload.shape[-1:] and payload.shape[-1] % 2:
        return None  # rows that begin in the middle of a byte, as no library writes them
    stem = name.removesuffix(suffix)
    scale = next((source.tensors[stem + s] for s in row.scale if stem + s in source.tensors), None)
    if scale is None and payload.dtype in ("U8", "I8") and suffix == ".weight":
        return None  # plain integers, or a convention that has no row here
    layout = layout_of(source.headers[scale.file.name].metadata) if scale else LINEAR
    return Weight(
        stem,
        row,
        payload,
        scale,
        source.tensors.get(stem + row.global_scale) if row.global_scale else None,
        source.tensors.get(stem + row.input_scale) if row.input_scale else None,
        _block(row, payload, scale, layout),
        layout,
    )


def _block(row: Convention, payload: Entry, scale: Entry | None, layout: str) -> Block | None:
    """Return the block that explains the shape of the scales, in the layout that the file declares."""
    shape = row.logical_shape(payload.shape, payload.dtype)
    if scale is None:
        return None
    if layout != LINEAR:
        return block_in_layout(shape, scale, row, layout)
    return fitting_block(shape, scale.shape, row.blocks)


def _agreement(weight: Weight, claims: set[str]) -> int:
    """Count the evidence for a reading; the scales' dtype weighs most."""
    row, scale = weight.convention, weight.scale
    points = 4 * (scale is not None) + 4 * stored_as(weight)
    points += scale is not None and scale.name == weight.name + row.scale[0]  # the usual spelling
    points += 2 * (weight.block is not None) + (weight.global_scale is not None) + (weight.input_scale is not None)
    return points + bool(claims & set(row.signatures))


def stored_as(weight: Weight) -> bool:
    """Say whether the scales' dtype is one that the convention, or a layout of words, stores."""
    if weight.scale is None:
        return False
    words = weight.layout != LINEAR and weight.scale.dtype == "I32"
    return words or weight.scale.dtype in weight.convention.scale_dtypes


def fitting_block(shape: tuple[int, ...], scales: tuple[int, ...], blocks: tuple[Block, ...]) -> Block | None:
    """Return the first block whose grid is the shape of the scales; trailing ones may be missing."""
    if len(shape) < 2:
        return None
    for rows, columns in blocks:
        grid = (*shape[:-2], *_grid(shape[-2], rows), *_grid(shape[-1], columns))
        apart = (*shape[:-2], *_grid(shape[-2], rows), 1, *_grid(shape[-1], columns), 1)  # as ModelOpt spells blocks
        if _squeezed(grid) == _squeezed(scales) or apart == scales:
            return rows, columns
    return None


def implied_block(shape: tuple[int, ...], scales: tuple[int, ...]) -> Block | None:
    """Return any usual block that explains the shape of the scales."""
    tried = tuple((rows, columns) for rows in _ROWS_TRIED for columns in _COLUMNS_TRIED)
    return fitting_block(shape, scales, tried)


def _grid(extent: int, size: int) -> tuple[int, ...]:
    return (1,) if size == FULL else (-(-extent // size),)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Drop trailing ones: [N, 1] and [N], [1] and [] are the same grid."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
