"""One side of a contraction as the engines read it: payload values, powers of two and scales of a range of K."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dgref.errors import FormatError, ShapeError, expected
from dgref.formats.element import FORMATS
from dgref.formats.native import as_codes, format_of, to_numpy
from dgref.formats.tensor import ScaledTensor, in_numpy
from dgref.reference.tensor_core import TensorCore, split


def as_scaled(operand: Any) -> ScaledTensor:
    """Return a ScaledTensor as it is, or a native array wrapped without scales."""
    operand = in_numpy(operand, "operand")
    if isinstance(operand, ScaledTensor):
        return operand
    array = to_numpy(operand, "operand")
    return ScaledTensor(as_codes(array), format_of(array).name)


@dataclass(frozen=True)
class Part:
    """Some rows of an operand over a range of K: codes, the format they have and the one the multiplier sees.

    `scales` holds, for instructions that take block scales, one float32 for every `block` of this K range.
    """

    codes: np.ndarray
    format: str
    seen: str
    scales: np.ndarray | None = None
    block: int = 0
    scale_format: str | None = None

    def payload(self, multiple: int = 1) -> np.ndarray:
        """Return the float32 payload, filled with zeros to a whole `multiple` of K."""
        padding = -self.codes.shape[1] % multiple
        values = _decoded(self.codes, self.format, self.seen)[0]
        return np.pad(values, [(0, 0), (0, padding)]) if padding else values

    def instruction(self, start: int, k: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the payload of one instruction, and its block scales if there are any."""
        values = _decoded(self.codes[:, start : start + k], self.format, self.seen)[0]
        if self.scales is None:
            return values, None
        return values, self.scales[:, start // self.block : -(-(start + k) // self.block)]

    def values(self, dtype: type) -> np.ndarray:
        """Return the payload times its scale; exact, for a scale is a power of two here."""
        with np.errstate(invalid="ignore"):
            return self._scaled(self.payload().astype(dtype, copy=False))

    def powers(self, dtype: type) -> np.ndarray:
        """Return 2^exponent of every element, the scale's exponent included; 0 for zero, Inf and NaN."""
        powers = _decoded(self.codes, self.format, self.seen)[1].astype(dtype, copy=False)
        if self.scales is None:
            return powers
        return self._scaled(powers, np.nan_to_num(self.scales, nan=0.0))

    def group_scales(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the scale of every group of K as float64, and its power of two."""
        groups = -(-self.codes.shape[1] // group)
        if self.scales is None:
            ones = np.ones((self.codes.shape[0], groups))
            return ones, ones
        scales = np.repeat(self.scales.astype(np.float64), self.block // group, axis=1)[:, :groups]
        significand, exponent = split(np.nan_to_num(scales, nan=0.0), self.scale_format)
        return scales, np.where(significand == 0, 0.0, np.ldexp(1.0, np.where(significand == 0, 0, exponent)))

    def _scaled(self, elements: np.ndarray, scales: np.ndarray | None = None) -> np.ndarray:
        scales = self.scales if scales is None else scales
        if scales is None:
            return elements
        return elements * np.repeat(scales, self.block, axis=1)[:, : elements.shape[1]]


class Operand:
    """A matrix [rows, K] of codes with its logical scale grid, cut into Parts on demand."""

    def __init__(self, tensor: ScaledTensor, core: TensorCore, index: tuple[int, ...], name: str):
        self.name, self.format, self.core = name, tensor.format, core
        self.seen = core.operand_format(tensor.format)
        self.scale_format = _scale_format(tensor, core)
        self.codes = to_numpy(tensor.data, name)[index]
        self.grid = None if tensor.scale is None else _grid(tensor, index)
        self.block = tensor.scaling.extents(tensor.shape) if tensor.scale is not None else (1, max(tensor.shape[-1], 1))

    def select(self, chosen: np.ndarray) -> Operand:
        """Return the operand of some rows only."""
        part = object.__new__(Operand)
        part.__dict__.update(self.__dict__)
        part.codes = self.codes[chosen]
        part.grid = None if self.grid is None else self.grid[chosen // self.block[0]]
        part.block = (1, self.block[1])
        return part

    def part(self, start: int, stop: int) -> Part:
        """Return the range of K that one chain covers, with the scales that enter the instruction."""
        scales = None
        block = self.core.scale_block
        if block and self.grid is not None:
            positions = np.arange(start, stop, block)
            scales = self.grid[:, positions // self.block[1]]
        return Part(self.codes[:, start:stop], self.format, self.seen, scales, block, self.scale_format)

    def scale(self, start: int) -> np.ndarray:
        """Return each row's float32 scale at a position of K: 1 where there are none."""
        if self.grid is None:
            return np.ones(self.codes.shape[0], np.float32)
        return np.ascontiguousarray(self.grid[:, start // self.block[1]])

    def check(self, scales: str, chains: list[tuple[int, int]]) -> None:
        """Raise unless the scale grid fits where the arithmetic applies scales, for chains over these ranges of K."""
        if self.grid is None:
            return
        block, subject = self.block[1], f"{self.name}.scale"
        if self.core.scale_block and scales != "core":
            need = "core: this instruction takes the scales itself"
            raise FormatError(expected("scales", repr(scales), need, self.core.name))
        if scales == "none":
            raise FormatError(expected(subject, "a scale grid", "none: this arithmetic applies no scales"))
        crossing = [f"K {low}..{high - 1}" for low, high in chains if low // block != (high - 1) // block]
        if scales in ("product", "each") and crossing:
            need = "chains of instructions that stay inside a block"
            raise ShapeError(expected(subject, f"blocks of {block} along K", need, f"one runs over {crossing[0]}"))
        if scales == "epilogue" and self.grid.shape[1] > 1:
            raise ShapeError(expected(subject, f"blocks of {block} along K", "one block over all of K"))
        if scales == "core":
            self._check_core([low for low, _ in chains])

    def _check_core(self, starts: list[int]) -> None:
        if not self.core.scale_block:
            raise FormatError(
                expected(f"{self.name}.scale", "scales", "an instruction with block scales", self.core.name)
            )
        block = self.core.scale_block
        if self.block[1] % block and self.block[1] < self.codes.shape[1]:
            raise ShapeError(
                expected(f"{self.name}.scale", f"blocks of {self.block[1]}", f"a multiple of {block} along K")
            )
        if any(start % block for start in starts):
            raise ShapeError(
                expected(
                    "chains", f"starts at K = {starts[:8]}", f"multiples of the scale block {block}", self.core.name
                )
            )
        bits = FORMATS[self.scale_format].mantissa_bits
        finite = self.grid[np.isfinite(self.grid)]
        fits = np.ldexp(np.frexp(finite)[0], bits + 1) % 1 == 0
        if not (fits & (finite >= 0)).all() or (bits == 0 and (finite == 0).any()):
            worst = finite[~(fits & (finite >= 0))]
            need = f"values of {' or '.join(self.core.scale_formats)}"
            raise FormatError(expected(f"{self.name}.scale", worst[0] if worst.size else 0.0, need, self.core.name))


def seeded(a: Operand, b: Operand, seed: np.ndarray | None) -> np.ndarray:
    """Return a fresh accumulator for every pair of rows: C where there is one, else zero."""
    return np.zeros((a.codes.shape[0], b.codes.shape[0]), np.float32) if seed is None else np.array(seed, np.float32)


def _scale_format(tensor: ScaledTensor, core: TensorCore) -> str | None:
    """Return the format that the instruction reads the scales in: their own where it can, else its usual one."""
    own = tensor.scaling.scale_format if tensor.scale is not None else None
    return own if own in core.scale_formats else core.scale_format


def _grid(tensor: ScaledTensor, index: tuple[int, ...]) -> np.ndarray:
    grid = np.asarray(to_numpy(tensor.scale_values(), "scale"), np.float32)
    need = tensor.scaling.grid(tensor.shape)
    if grid.shape != tuple(need):
        raise ShapeError(expected("scale", grid.shape, tuple(need), f"of a tensor of shape {tensor.shape}"))
    return grid[index]


def _decoded(codes: np.ndarray, format: str, seen: str) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 values and powers of two of codes, by table where the format is narrow."""
    if FORMATS[format].code_dtype.itemsize <= 2:
        values, powers = _tables(format, seen)
        return values[codes], powers[codes]
    mask = np.uint32(-(1 << (23 - FORMATS[seen].mantissa_bits)) & 0xFFFFFFFF)
    values = (codes & mask).view(np.float32)
    return values, _powers(values, seen)


@cache
def _tables(format: str, seen: str) -> tuple[np.ndarray, np.ndarray]:
    row = FORMATS[format]
    values = np.asarray(row.decode(np.arange(1 << row.storage_bits, dtype=row.code_dtype)), np.float32)
    return values, _powers(values, seen)


def _powers(values: np.ndarray, format: str) -> np.ndarray:
    exponent = np.maximum(np.frexp(values)[1] - 1, FORMATS[format].emin)
    with np.errstate(over="ignore"):
        powers = np.ldexp(np.float32(1), exponent)
    return np.where((values == 0) | ~np.isfinite(values), np.float32(0), powers).astype(np.float32)
