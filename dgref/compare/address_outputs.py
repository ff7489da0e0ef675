"""Where an element's address shows: which outputs belong to which element, and what they say together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dgref.compare.address_parts import Part, blocks_of_k
from dgref.compare.address_rules import UNASKED, UNREAD, Reads
from dgref.formats.tensor import ScaledTensor

TORN = -4  # outputs show different addresses


def note(found: np.ndarray, name: str, part: Part, places: np.ndarray, read: np.ndarray) -> None:
    """Enter the index that each of a part's outputs shows for operand `name` at its place along K; -1: none is asked.

    An address outweighs outputs that show none; where two outputs show different ones, none is named.
    """
    rows, columns = np.indices(read.shape)
    places = np.broadcast_to(places, read.shape)
    groups, lines = (
        (np.zeros_like(rows), part.lines[rows]) if name == "a" else (np.full_like(rows, part.group), columns)
    )
    flat = found.reshape((1, -1, found.shape[-1]) if name == "a" else (-1, *found.shape[-2:]))
    shown = places >= 0
    where, numbers = tuple(axis[shown] for axis in (groups, lines, places)), read[shown]
    earlier = flat[where]
    flat[where] = np.where(earlier == UNASKED, UNREAD, earlier)
    decoded = (numbers >= 0) & (earlier != TORN)
    place, numbers, earlier = tuple(axis[decoded] for axis in where), numbers[decoded], earlier[decoded]
    flat[place] = numbers
    torn = (flat[place] != numbers) | ((earlier >= 0) & (earlier != numbers))
    flat[tuple(axis[torn] for axis in place)] = TORN


def element_indices(tensor: ScaledTensor, part: str, parts: Iterable[Part]) -> np.ndarray:
    """Return the flat index of the payload or scale that belongs to every element, -1 where no scale does."""
    if part == "payload":
        return np.arange(tensor.data.size).reshape(tensor.shape)
    height, width = tensor.scaling.extents(tensor.shape)
    blocks = blocks_of_k(parts, width)
    columns = np.full(tensor.shape[-1], -1)
    columns[blocks[blocks >= 0]] = np.nonzero(blocks >= 0)[0]
    rows = np.arange(tensor.shape[-2]) // height
    grid = np.arange(tensor.scale.size).reshape(tensor.scale.shape)
    return np.where(columns >= 0, grid[..., rows[:, None], columns], -1)


def reads_of(
    tensor: ScaledTensor, part: str, read: np.ndarray, parts: Iterable[Part], layout: str | None = None
) -> Reads:
    """Return what was read by the largest blocks that read alike: a grid's own, or smaller ones."""
    read, right = np.where(read == TORN, UNREAD, read), element_indices(tensor, part, parts)
    if part == "payload":
        names = ("group", "row", "k")[-read.ndim :]
        return Reads(read, right, tensor.shape, names, names)
    height, width = tensor.scaling.extents(tensor.shape)
    targets = ("group", "row" if height == 1 else "row block", "block")[-read.ndim :]
    own, single = blocks_of_k(parts, width), np.arange(tensor.shape[-1])[:, None]
    choices = ((height, own), (1, own), (1, single))
    rows, columns = next(choice for choice in choices if _by_blocks(read, *choice) is not None)
    axes = (*targets[:-2], targets[-2] if rows == height else "row", "block" if columns is own else "k")
    found, belonging = (_by_blocks(indices, rows, columns) for indices in (read, right))
    return Reads(found, belonging, tuple(tensor.scale.shape), axes, targets, layout)


def _by_blocks(read: np.ndarray, height: int, columns: np.ndarray) -> np.ndarray | None:
    """Return what each block reads, None where elements of one block read differently."""
    *lead, rows, _ = read.shape
    high, (wide, width) = -(-rows // height), columns.shape
    padded = np.full((*lead, high * height, wide, width), UNASKED, read.dtype)
    padded[..., :rows, :, :] = np.where(columns >= 0, read[..., columns], UNASKED)
    blocks = np.moveaxis(padded.reshape(*lead, high, height, wide, width), -3, -2).reshape(*lead, high, wide, -1)
    largest = blocks.max(axis=-1)
    largest = np.where((largest == UNREAD) | (blocks == UNREAD).any(axis=-1), UNREAD, largest)
    alike = (blocks == largest[..., None]) | (blocks == UNASKED)
    return largest if alike.all() else None
