"""Scales that were read elsewhere, told by a recorded output in which each element is one product of unlike scales.

Dividing an output by everything else in its product leaves the scale that was read, and its value says where it lies.
An address is named only where one scale of the grid alone has that value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dgref.compare.address_outputs import OPERATIONS, note, reads_of, row_groups
from dgref.compare.address_rules import UNASKED, UNREAD, Reads, examples, rule
from dgref.compare.hypotheses.base import Misreading, Outputs, State, on
from dgref.formats.element import FORMATS
from dgref.formats.native import format_of
from dgref.formats.tensor import ScaledTensor

NAME = "scale_addresses"


def readdressed(state: State, observed: Outputs) -> Iterator[Misreading]:
    """Yield, for each operand whose scales the outputs show, the scales that were read in place of its own."""
    if state.case.op not in OPERATIONS or "c" in state.inputs or state.case.params.get("head_splits"):
        return
    hot = _single_places(state.inputs["b"])
    if hot is None:
        return
    for name, tensor in state.scaled():
        reads = reads_of(tensor, "scales", _scales_read(state, name, hot, observed["d"]), state.layout(name))
        zero = reads.found == tensor.scale.size
        reads = replace(reads, found=np.where(zero, UNREAD, reads.found))
        if (reads.known & (reads.found != reads.right)).any():
            yield _misreading(name, reads, zero)


def _single_places(b: ScaledTensor) -> np.ndarray | None:
    """Return where along K the one element that is not zero lies in each row [group, row]; None unless each has one."""
    there = np.asarray(b.values()) != 0
    if not there.size or (there.sum(axis=-1) != 1).any():
        return None
    return there.argmax(axis=-1).reshape(-1, there.shape[-2])


def _scales_read(state: State, name: str, hot: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return, for every element of an operand, the flat index of the only scale that gives the outputs."""
    tensor, labels = state.inputs[name], row_groups(state.case, state.inputs)
    d = d.reshape(-1, d.shape[-1])
    rows, columns = np.indices(d.shape)
    groups = np.maximum(labels[rows], 0)
    places = hot[groups, columns]
    a, b = (_values(state.inputs[side], side != name) for side in ("a", "b"))
    with np.errstate(all="ignore"):
        others = a.reshape(-1, a.shape[-1])[rows, places] * b.reshape(-1, *b.shape[-2:])[groups, columns, places]
        read = d.astype(np.float64) / others
    scales = np.asarray(tensor.scale_values(), np.float64).reshape(-1)
    numbers = _only(scales, read, FORMATS[format_of(d).name].mantissa_bits)
    found = np.full(tensor.shape, UNASKED, np.int64)
    note(found, name, labels, places, numbers)
    return found


def _values(tensor: ScaledTensor, scaled: bool) -> np.ndarray:
    """Return an operand's values, with or without its blocks' scales."""
    values = np.asarray(tensor.values(), np.float64)
    scale, factor = tensor.expanded_scale() if scaled else None, tensor.global_factor()
    values = values if scale is None else values * np.asarray(scale, np.float64)
    return values if factor is None else values * np.reshape(factor, (*np.shape(factor), *[1] * (2 * np.ndim(factor))))


def _only(scales: np.ndarray, read: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """Return the index of the only scale within an output's rounding of what was read: UNREAD for none or several.

    What was read as zero gets the index behind the last.
    """
    order, margin = np.argsort(scales, kind="stable"), 2.0**-mantissa_bits
    with np.errstate(all="ignore"):
        first = np.searchsorted(scales[order], read * (1 - margin))
        last = np.searchsorted(scales[order], read * (1 + margin), side="right")
    numbers = np.where(last - first == 1, order[np.minimum(first, scales.size - 1)], UNREAD)
    return np.where((read == 0) & (scales != 0).all(), scales.size, numbers)


def _misreading(name: str, reads: Reads, zero: np.ndarray) -> Misreading:
    words = rule(reads) or f"by no simple rule: {', '.join(examples(reads))}, …"
    zeros = f", and {np.count_nonzero(zero):,} of them as zero" if zero.any() else ""
    cause = f"{name}'s scales were read elsewhere ({words}){zeros}"
    fix = f"check the index with which the scales of {name} are addressed: row, block of K, group, layout"
    return Misreading(cause, on(name, lambda t: _with(t, reads, zero)), name, fix, "reading them so", hypothesis=NAME)


def _with(tensor: ScaledTensor, reads: Reads, zero: np.ndarray) -> ScaledTensor:
    """Return the tensor with the scales that were read; its own where the outputs tell nothing."""
    found = np.where(reads.known, reads.found, reads.right)
    scale = np.where(zero, 0, np.asarray(tensor.scale).reshape(-1)[found]).astype(tensor.scale.dtype)
    whole, extents = tensor.shape[-2:], tensor.scaling.extents(tensor.shape)
    block = tuple(
        1 if count == size and count != own else extent
        for count, size, own, extent in zip(found.shape[-2:], whole, reads.grid[-2:], extents, strict=True)
    )
    return replace(tensor, scale=scale, scaling=replace(tensor.scaling, block=block))
