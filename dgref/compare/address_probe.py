"""Designed operands of which every element names itself: the outputs of a kernel then say which elements it read.

One operand, or its scales, spells the index of each of its elements over several launches; the other operand holds a
single one in each row, so that an output is one such value. A launch over ones alone shows the factor on each output,
and which outputs are zero or NaN whatever is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np

from dgref.compare.address_alphabet import GARBLED, Alphabet
from dgref.compare.address_outputs import OPERATIONS, note, row_groups
from dgref.compare.address_rules import UNASKED, UNREAD
from dgref.errors import UnsupportedError, expected
from dgref.formats.element import FORMATS
from dgref.formats.tensor import ScaledTensor
from dgref.reference.gemm import split_columns

Call = Callable[[Mapping[str, Any]], np.ndarray]  # inputs -> the output d
_ROUNDS = 256  # placings of the ones; more than these leave elements unasked
_ATTEMPTS = 4  # through other rows, where an element showed nothing
Round = np.ndarray  # where along K the single one of each row of the other operand lies; -1: the row asks nothing


class Prober:
    """Runs designed operands through a kernel, in the shapes, formats and layouts of a case."""

    def __init__(self, case: Any, inputs: Mapping[str, Any], call: Call):
        if case.op not in OPERATIONS:
            raise UnsupportedError(expected("addresses of", case.op, " or ".join(OPERATIONS)))
        for name in "ab":
            if not inputs[name].data.size:
                raise UnsupportedError(expected(f"addresses of {name}", inputs[name].shape, "elements", case.id))
        self.case, self._call, self._factors = case, call, {}
        self.inputs = {name: _neutral(value) if name in ("a", "b", "c") else value for name, value in inputs.items()}

    @cached_property
    def labels(self) -> np.ndarray:
        """The group of each row of the output, -1 where its values are undefined."""
        return row_groups(self.case, self.inputs)

    def run(self, inputs: Mapping[str, Any]) -> np.ndarray:
        """Return the outputs as float32 [rows, columns], columns that nobody defines left out."""
        d, splits = self._call(inputs), self.case.params.get("head_splits")
        d = d if splits is None else d[:, split_columns(self.inputs["b"].shape[-2], splits)]
        return d.reshape(-1, d.shape[-1]).astype(np.float32)

    def ask(self, name: str, part: str, uniform: bool = False) -> np.ndarray:
        """Return, for every element of an operand, the flat index of the payload or scale that was read for it.

        With `uniform`, all rows of the other operand hold their one at the same place, so that rows mixed up there
        change nothing; what one place in each stretch of K shows stands for the stretch.
        """
        tensor = self.inputs[name]
        payload = part == "payload"
        grid, held = (tensor.shape, tensor.format) if payload else (tensor.scale.shape, tensor.scaling.scale_format)
        alphabet = Alphabet.of(FORMATS[held], FORMATS[self.case.out], payload and FORMATS[held].signed)
        written = [_holding(tensor, part, values) for values in alphabet.spell(grid)]
        found, garbled = np.full(tensor.shape, UNASKED, np.int64), 0
        for hot in self._uniform(name) if uniform else self._rounds(name, found):
            numbers = self._read(name, written, hot, alphabet, int(np.prod(grid)))
            rows, columns = np.indices(numbers.shape)
            note(found, name, self.labels, hot[columns if name == "a" else rows], numbers)
            garbled += np.count_nonzero(numbers == GARBLED)
        if garbled > np.count_nonzero(found >= 0):  # values are changed on the way: what spells an index does by chance
            found[found >= 0] = UNREAD
        return np.repeat(found[..., :: self.stretch], self.stretch, axis=-1) if uniform else found

    @cached_property
    def stretch(self) -> int:
        """How many elements of K lie side by side under the same scales, whichever of them is asked for."""
        k = self.inputs["a"].shape[-1]
        scaled = [self.inputs[name] for name in "ab" if self.inputs[name].scale is not None]
        return gcd(k, *(tensor.scaling.extents(tensor.shape)[1] for tensor in scaled))

    def _uniform(self, name: str) -> Iterator[Round]:
        """Yield the same place for every row, one in each stretch."""
        rows = self.inputs["b"].shape[-2] if name == "a" else self.labels.size
        for start in range(0, self.inputs["a"].shape[-1], self.stretch):
            yield np.full(rows, start)

    def _rounds(self, name: str, found: np.ndarray) -> Iterator[Round]:
        """Yield places that together visit all of K in every group, and again through other rows while that helps."""
        k, rows = found.shape[-1], self.inputs["b"].shape[-2]
        ranks, counts = _ranks(np.zeros(rows, np.int64) if name == "a" else self.labels)
        asking = counts > 0
        rounds = min(-(-k // int(counts[asking].min())), _ROUNDS) if asking.any() else 0
        for attempt in range(_ATTEMPTS):
            if attempt and not (found == UNREAD).any():
                return
            turned = (ranks + attempt * counts // _ATTEMPTS) % np.maximum(counts, 1)
            for number in range(rounds):
                yield np.where(asking, (number * counts + turned) % k, -1)

    def _read(self, name: str, written: list[ScaledTensor], hot: Round, alphabet: Alphabet, size: int) -> np.ndarray:
        """Return the index that each output spells; UNREAD where it is zero or NaN even over ones, GARBLED for none."""
        other = "b" if name == "a" else "a"
        inputs = {**self.inputs, other: _holding(self.inputs[other], "payload", self._one_hot(other, hot))}
        key = (name, hot.tobytes())
        if key not in self._factors:
            self._factors[key] = self.run({**inputs, name: _holding(self.inputs[name], "scales", None)})
        factor = self._factors[key]
        with np.errstate(all="ignore"):
            numbers = alphabet.number([self.run({**inputs, name: held}) / factor for held in written], size)
        return np.where(np.isfinite(factor) & (factor != 0), numbers, UNREAD)

    def _one_hot(self, name: str, hot: Round) -> np.ndarray:
        shape = self.inputs[name].shape
        values = np.zeros((hot.size, shape[-1]), np.float32)
        values[np.flatnonzero(hot >= 0), hot[hot >= 0]] = 1
        return np.broadcast_to(values, shape) if name == "b" else values.reshape(shape)


def _ranks(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's number within its group, and how many rows its group has; 0 for rows of none."""
    ranks, counts = np.zeros(labels.size, np.int64), np.zeros(labels.size, np.int64)
    for group in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == group)
        ranks[rows], counts[rows] = np.arange(rows.size), rows.size
    return ranks, counts


def _holding(tensor: ScaledTensor, part: str, values: np.ndarray | None) -> ScaledTensor:
    """Return a tensor with values in its payload, or ones there and values (None: ones) in its scales."""
    if part == "payload":
        return replace(tensor, data=FORMATS[tensor.format].encode(np.ascontiguousarray(values)))
    ones = replace(tensor, data=FORMATS[tensor.format].encode(np.ones(tensor.shape, np.float32)))
    return ones if values is None else ones.with_scale(_codes(values, tensor.scaling.scale_format))


def _codes(values: np.ndarray, format: str) -> np.ndarray:
    return values.astype(np.float32) if format == "float32" else FORMATS[format].encode(values)


def _neutral(tensor: ScaledTensor) -> ScaledTensor:
    """Return the tensor with every scale 1, the global one too, and a payload of zeros."""
    zeros = replace(tensor, data=FORMATS[tensor.format].encode(np.zeros(tensor.shape, np.float32)))
    if tensor.scale is None:
        return zeros
    plain = zeros.with_scale(_codes(np.ones(tensor.scale.shape, np.float32), tensor.scaling.scale_format))
    if tensor.global_scale is None:
        return plain
    one = replace(plain, global_scale=np.ones_like(tensor.global_scale, np.float32))
    return replace(one, global_scale=(one.global_scale / one.global_factor()).astype(np.float32))
