"""Scales that were read elsewhere, told by a recorded output in which each element is one product of unlike scales.

Dividing an output by everything else in its product leaves the scale that was read, and its value says where it lies.
An address is named only where one scale of the grid alone has that value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from dgref.compare.address_outputs import element_indices, note, reads_of
from dgref.compare.address_parts import Part, elements_of, parts_of, refusal
from dgref.compare.address_rules import UNASKED, UNREAD, Reads, examples, rule
from dgref.compare.hypotheses.base import Misreading, Outputs, State, on
from dgref.formats.element import FORMATS
from dgref.formats.native import format_of
from dgref.formats.tensor import ScaledTensor

NAME = "scale_addresses"


def readdressed(state: State, observed: Outputs) -> Iterator[Misreading]:
    """Yield, for each operand whose scales the outputs show, the scales that were read in place of its own."""
    if refusal(state.case) or "c" in state.inputs or state.case.params.get("head_splits"):
        return
    parts = parts_of(state.case, state.inputs)
    hot = _single_places(state.inputs["b"], parts)
    if hot is None:
        return
    inside = elements_of(parts)
    for name, tensor in state.scaled():
        read = _scales_read(state, name, list(zip(parts, hot, strict=True)), observed["d"])
        reads = reads_of(tensor, "scales", read, parts, state.layout(name))
        zero = reads.found == tensor.scale.size
        reads = replace(reads, found=np.where(zero, UNREAD, reads.found))
        if (reads.known & (reads.found != reads.right)).any():
            yield _misreading(name, reads, zero, inside)


def _single_places(b: ScaledTensor, parts: Sequence[Part]) -> list[np.ndarray] | None:
    """Return where along K the one element of each row of b lies that is not zero, for each part.

    Parts that add nothing up show nothing. None where a row has none, or several.
    """
    if not b.data.size:
        return None
    there = np.asarray(b.values()).reshape(-1, *b.shape[-2:]) != 0
    found = []
    for part in parts:
        held = there[part.group, :, part.span]
        if part.length and (held.sum(axis=-1) != 1).any():
            return None
        found.append(part.span.start + held.argmax(axis=-1) if part.length else np.full(len(held), -1))
    return found


def _scales_read(state: State, name: str, hot: Sequence[tuple[Part, np.ndarray]], d: np.ndarray) -> np.ndarray:
    """Return, for every element of an operand, the flat index of the only scale that gives the outputs."""
    tensor, d, parts = state.inputs[name], d.reshape(-1, d.shape[-1]), [part for part, _ in hot]
    a, b = (_values(state.inputs[side], parts, side != name) for side in ("a", "b"))
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, *b.shape[-2:])
    scales = np.asarray(tensor.scale_values(), np.float64).reshape(-1)
    found = np.full(tensor.shape, UNASKED, np.int64)
    for part, places in hot:
        with np.errstate(all="ignore"):
            others = a[part.lines][:, places] * b[part.group, np.arange(places.size), places]
            read = d[part.rows].astype(np.float64) / others
        note(found, name, part, places, _only(scales, read, FORMATS[format_of(d).name].mantissa_bits))
    return found


def _values(tensor: ScaledTensor, parts: Sequence[Part], scaled: bool) -> np.ndarray:
    """Return an operand's values, with or without its blocks' scales."""
    values, factor = np.asarray(tensor.values(), np.float64), tensor.global_factor()
    if scaled and tensor.scale is not None:
        scales = np.asarray(tensor.scale_values(), np.float64).reshape(-1)
        values = values * scales[np.maximum(element_indices(tensor, "scales", parts), 0)]
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


def _misreading(name: str, reads: Reads, zero: np.ndarray, inside: np.ndarray) -> Misreading:
    words = rule(reads) or f"by no simple rule: {', '.join(examples(reads))}, …"
    zeros = f", and {np.count_nonzero(zero):,} of them as zero" if zero.any() else ""
    cause = f"{name}'s scales were read elsewhere ({words}){zeros}"
    fix = f"check the index with which the scales of {name} are addressed: row, block of K, group, layout"
    return Misreading(
        cause, on(name, lambda t: _with(t, reads, zero, inside)), name, fix, "reading them so", hypothesis=NAME
    )


def _with(tensor: ScaledTensor, reads: Reads, zero: np.ndarray, inside: np.ndarray) -> ScaledTensor:
    """Return the tensor with the scales that were read; its own where the outputs tell nothing.

    Where scales were told apart by elements of K, those that no output adds up have none.
    """
    found = np.where(reads.known, reads.found, reads.right)
    scale = np.where(zero, 0, np.asarray(tensor.scale).reshape(-1)[found]).astype(tensor.scale.dtype)
    height, width = tensor.scaling.extents(tensor.shape)
    if reads.axes[-1] == "k":
        scale, width = scale[..., inside], 1
    block = (1 if reads.axes[-2] == "row" else height, width)
    return replace(tensor, scale=scale, scaling=replace(tensor.scaling, block=block))
