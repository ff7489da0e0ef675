"""Bytes of a checkpoint to values: scales whole, payloads in samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np

from dgref.checkpoint.header import Entry
from dgref.checkpoint.layouts import LINEAR, scale_grid
from dgref.checkpoint.reading import Amount, Reader
from dgref.checkpoint.weights import Weight
from dgref.errors import FormatError, expected
from dgref.formats import FORMATS
from dgref.formats.scaling import FULL

_SAMPLES = 4  # of few rows each, because a checkpoint has tens of thousands of weights
_FORMATS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}


@dataclass(frozen=True)
class Sample:
    """Some rows of a weight: decoded payload, and the scale of every element without the global scale."""

    payload: np.ndarray  # float32 [rows, columns]
    scale: np.ndarray  # float32, broadcastable against the payload


@cache
def table(format: str) -> np.ndarray:
    """Return the float32 value of every code of a format of 8 bits or fewer."""
    return np.asarray(FORMATS[format].decode(np.arange(1 << FORMATS[format].bits, dtype=np.uint8)), np.float32)


def float_values(raw: np.ndarray, dtype: str, format: str = "") -> np.ndarray:
    """Return float32 values of raw bytes; `format` says what U8 means."""
    if dtype == "F32":
        return raw.view(np.float32)
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if dtype in ("F16", "F64"):
        with np.errstate(over="ignore", invalid="ignore"):
            return raw.view(np.float16 if dtype == "F16" else np.float64).astype(np.float32)
    name = _FORMATS.get(dtype, format)
    if name in FORMATS and FORMATS[name].bits <= 8 and dtype in ("U8", "I8", *_FORMATS):
        return table(name)[raw]
    raise FormatError(expected("scales", f"{dtype} as {format or 'values'}", "a float, or bytes of an 8-bit format"))


def unpacked(raw: np.ndarray) -> np.ndarray:
    """Return E2M1 codes of bytes along a last axis twice as long, low nibble first."""
    return np.stack([raw & 15, raw >> 4], axis=-1).reshape(*raw.shape[:-1], -1)


def scalar(entry: Entry | None, reader: Reader) -> float | None:
    """Return the only value of a small float tensor; None where there is no such thing."""
    if entry is None or entry.count != 1 or entry.dtype not in ("F32", "BF16", "F16", "F64"):
        return None
    return float(float_values(reader.read(entry), entry.dtype)[0])


def whole_grid(weight: Weight, reader: Reader) -> np.ndarray:
    """Return all scales of a weight in logical order, as float32 [matrices, rows, columns]."""
    grid = scale_grid(weight, reader)
    dtype = {2: weight.scale.dtype, 4: "F32"}.get(grid.itemsize, weight.scale.dtype)
    raw = np.ascontiguousarray(grid).reshape(-1).view(np.uint8)
    values = float_values(raw, "U8" if grid.itemsize == 1 and dtype == "I32" else dtype, weight.convention.scale_format)
    return values.reshape(prod(weight.shape[:-2]), *weight.convention.scale_shape(weight.shape, weight.block)[-2:])


def grid_part(weight: Weight, reader: Reader, start: int, count: int, columns: int) -> np.ndarray:
    """Return the first columns of rows of the grid of scales, flattened over leading axes, as float32."""
    scale = weight.scale
    width = weight.convention.scale_shape(weight.shape, weight.block)[-1]
    if weight.layout != LINEAR:
        return whole_grid(weight, reader).reshape(-1, width)[start : start + count, :columns]
    item = scale.size // max(scale.count, 1)
    raw = reader.rows(scale, start * width * item, count, width * item, columns * item)
    return float_values(raw.reshape(-1), scale.dtype, weight.convention.scale_format).reshape(count, columns)


def samples(weight: Weight, reader: Reader, amount: Amount) -> Iterator[Sample]:
    """Yield a few stretches of rows, spread over the weight."""
    if not weight.two_dimensional or weight.block is None:
        return
    rows, columns = weight.shape[-2], weight.shape[-1]
    matrices = prod(weight.shape[:-2])
    stretches = [(matrix, row) for matrix in _spread(matrices) for row in _spread(-(-rows // amount.rows))]
    for matrix, stretch in stretches[:: max(1, len(stretches) // _SAMPLES)][:_SAMPLES]:
        first = stretch * amount.rows
        yield _sample(weight, reader, matrix, first, min(amount.rows, rows - first), min(columns, amount.columns))


def _spread(count: int) -> list[int]:
    """Return up to a few indices from the first to the last."""
    return sorted({round(i * (count - 1) / (_SAMPLES - 1)) for i in range(_SAMPLES)})


def _sample(weight: Weight, reader: Reader, matrix: int, first: int, count: int, columns: int) -> Sample:
    packing = weight.convention.packing
    rows, width = weight.shape[-2], weight.shape[-1] // packing
    start = (matrix * rows + first) * width
    raw = reader.rows(weight.payload, start, count, width, columns // packing)
    codes = unpacked(raw) if packing == 2 else raw
    return Sample(table(weight.convention.format)[codes], _expanded(weight, reader, matrix, first, count, columns))


def _expanded(weight: Weight, reader: Reader, matrix: int, first: int, count: int, columns: int) -> np.ndarray:
    """Return the scale of every element of a sample."""
    height, length = weight.block
    grid_height = weight.convention.scale_shape(weight.shape, weight.block)[-2]
    lines = (first + np.arange(count)) // height if height != FULL else np.zeros(count, np.int64)
    unique = int(lines[-1] - lines[0]) + 1
    width = 1 if length == FULL else -(-columns // length)
    grid = grid_part(weight, reader, matrix * grid_height + int(lines[0]), unique, width)[lines - lines[0]]
    return grid if length == FULL else np.repeat(grid, length, axis=1)[:, :columns]
