"""Blocks as axes: a tensor cut into the blocks of a scaling, padded with zeros, and put together again."""

from __future__ import annotations

import numpy as np

from dgref.formats.scaling import Scaling


def to_blocks(values: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Return [..., R, K] as [..., row block, row, column block, column]; a tail is padded with zeros."""
    matrix = values if values.ndim > 1 else values[np.newaxis]
    rows, columns = scaling.extents(matrix.shape)
    row_blocks, column_blocks = scaling.grid(matrix.shape)[-2:]
    tail = (row_blocks * rows - matrix.shape[-2], column_blocks * columns - matrix.shape[-1])
    if any(tail):
        matrix = np.pad(matrix, [(0, 0)] * (matrix.ndim - 2) + [(0, tail[0]), (0, tail[1])])
    return matrix.reshape(*matrix.shape[:-2], row_blocks, rows, column_blocks, columns)


def from_blocks(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `to_blocks`: drop the padding and return an array of `shape`."""
    row_blocks, rows, column_blocks, columns = blocks.shape[-4:]
    matrix = blocks.reshape(*blocks.shape[:-4], row_blocks * rows, column_blocks * columns)
    height = shape[-2] if len(shape) > 1 else 1
    return matrix[..., :height, : shape[-1]].reshape(shape)


def beside_blocks(grid: np.ndarray) -> np.ndarray:
    """Return a scale grid [..., row block, column block] shaped to broadcast against blocks."""
    return grid[..., :, np.newaxis, :, np.newaxis]


def block_amax(blocks: np.ndarray) -> np.ndarray:
    """Return each block's largest magnitude [..., row block, column block]; NaN propagates."""
    return np.abs(blocks).max(axis=(-3, -1), initial=0)
