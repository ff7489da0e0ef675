"""Where an element's address shows: which outputs belong to which group, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dgref.compare.address_rules import UNASKED, UNREAD, Reads
from dgref.formats.tensor import ScaledTensor, expand
from dgref.ops import OPS
from dgref.ops.grouped import row_labels

OPERATIONS = ("gemm", "gemm_grouped_contiguous", "gemm_grouped_masked")
TORN = -4  # outputs show different addresses


def row_groups(case: Any, inputs: Mapping[str, Any]) -> np.ndarray:
    """Return the group of each row of the output, -1 where its values are undefined."""
    shape = inputs["a"].shape
    if case.op == "gemm":
        return np.zeros(shape[0], np.int64)
    if case.op == "gemm_grouped_contiguous":
        return row_labels(OPS[case.op].problem(case), inputs)
    inside = np.arange(shape[1]) < np.asarray(inputs["masked_m"])[:, None]
    return np.where(inside, np.arange(shape[0])[:, None], -1).reshape(-1)


def note(found: np.ndarray, name: str, labels: np.ndarray, places: np.ndarray, read: np.ndarray) -> None:
    """Enter the index that each output [row, column] shows for operand `name` at its place along K; -1: none is asked.

    An address outweighs outputs that show none; where two outputs show different ones, none is named.
    """
    rows, columns = np.indices(read.shape)
    groups, lines = (np.zeros_like(rows), rows) if name == "a" else (labels[rows], columns)
    flat = found.reshape((1, -1, found.shape[-1]) if name == "a" else (-1, *found.shape[-2:]))
    shown = (labels[rows] >= 0) & (places >= 0)
    where, numbers = tuple(axis[shown] for axis in (groups, lines, places)), read[shown]
    earlier = flat[where]
    flat[where] = np.where(earlier == UNASKED, UNREAD, earlier)
    decoded = (numbers >= 0) & (earlier != TORN)
    place, numbers, earlier = tuple(axis[decoded] for axis in where), numbers[decoded], earlier[decoded]
    flat[place] = numbers
    torn = (flat[place] != numbers) | ((earlier >= 0) & (earlier != numbers))
    flat[tuple(axis[torn] for axis in place)] = TORN


def element_indices(tensor: ScaledTensor, part: str) -> np.ndarray:
    """Return the flat index of the payload or scale that belongs to every element."""
    if part == "payload":
        return np.arange(tensor.data.size).reshape(tensor.shape)
    return expand(np.arange(tensor.scale.size).reshape(tensor.scale.shape), tensor.scaling, tensor.shape)


def reads_of(tensor: ScaledTensor, part: str, read: np.ndarray, layout: str | None = None) -> Reads:
    """Return what was read by the largest blocks that read alike: a grid's own, or smaller ones."""
    read, right = np.where(read == TORN, UNREAD, read), element_indices(tensor, part)
    if part == "payload":
        names = ("group", "row", "k")[-read.ndim :]
        return Reads(read, right, tensor.shape, names, names)
    rows, columns = tensor.scaling.extents(tensor.shape)
    targets = ("group", "row" if rows == 1 else "row block", "block")[-read.ndim :]
    blocks = ((rows, columns), (1, columns), (1, 1))
    height, width = next(block for block in blocks if _by_blocks(read, *block) is not None)
    axes = (*targets[:-2], targets[-2] if height == rows else "row", "block" if width == columns else "k")
    found, belonging = (_by_blocks(indices, height, width) for indices in (read, right))
    return Reads(found, belonging, tuple(tensor.scale.shape), axes, targets, layout)


def _by_blocks(read: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """Return what each block reads, None where elements of one block read differently."""
    *lead, rows, columns = read.shape
    high, wide = -(-rows // height), -(-columns // width)
    padded = np.full((*lead, high * height, wide * width), UNASKED, read.dtype)
    padded[..., :rows, :columns] = read
    blocks = np.moveaxis(padded.reshape(*lead, high, height, wide, width), -3, -2).reshape(*lead, high, wide, -1)
    largest = blocks.max(axis=-1)
    largest = np.where((largest == UNREAD) | (blocks == UNREAD).any(axis=-1), UNREAD, largest)
    alike = (blocks == largest[..., None]) | (blocks == UNASKED)
    return largest if alike.all() else None
