"""Designed operands of which every element names itself: the outputs of a kernel then say which elements it read.

One operand, or its scales, spells the index of each of its elements over several launches; the other operand holds a
single one in each row, for each span of K that is added up, so that an output is one such value. A launch over ones
alone shows the factor on each output, and which outputs are zero or NaN whatever is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np

from dgref.compare.address_alphabet import GARBLED, Alphabet
from dgref.compare.address_outputs import note
from dgref.compare.address_parts import Part, blocks_of_k, elements_of, parts_of, refusal
from dgref.compare.address_rules import UNASKED, UNREAD
from dgref.errors import UnsupportedError, expected
from dgref.formats.element import FORMATS
from dgref.formats.tensor import ScaledTensor
from dgref.ops import OPS
from dgref.reference.gemm import split_columns

Call = Callable[[Mapping[str, Any]], np.ndarray]  # inputs -> the output d
_ROUNDS = 256  # placings of the ones; more than these leave elements unasked
_ATTEMPTS = 4  # through other rows, where an element showed nothing
Round = tuple[np.ndarray, ...]  # for each part, where along K the other operand's rows hold their one; -1: nowhere


class Prober:
    """Runs designed operands through a kernel, in the shapes, formats and layouts of a case."""

    def __init__(self, case: Any, inputs: Mapping[str, Any], call: Call):
        if reason := refusal(case):
            raise UnsupportedError(reason)
        for name in "ab":
            if not inputs[name].data.size:
                raise UnsupportedError(expected(f"addresses of {name}", inputs[name].shape, "elements", case.id))
        self.case, self._call, self._factors = case, call, {}
        self.out = case.out or OPS[case.op].outputs[0].formats[0]
        self.inputs = {name: _neutral(value) if name in ("a", "b", "c") else value for name, value in inputs.items()}

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """What each row of the output adds up."""
        return parts_of(self.case, self.inputs)

    @cached_property
    def _inside(self) -> np.ndarray:
        """One for every element of K that some output adds up, zero for those between groups of K."""
        inside = np.zeros(self.inputs["a"].shape[-1], np.float32)
        inside[elements_of(self.parts)] = 1
        return inside

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
        alphabet = Alphabet.of(FORMATS[held], FORMATS[self.out], payload and FORMATS[held].signed)
        written = [self._holding(name, part, values) for values in alphabet.spell(grid)]
        found, garbled = np.full(tensor.shape, UNASKED, np.int64), 0
        for hot in self._uniform(name) if uniform else self._rounds(name, found):
            numbers = self._read(name, written, hot, alphabet, int(np.prod(grid)))
            for one, places in zip(self.parts, hot, strict=True):
                note(found, name, one, places if name == "a" else places[:, None], numbers[one.rows])
            garbled += np.count_nonzero(numbers == GARBLED)
        if garbled > np.count_nonzero(found >= 0):  # values are changed on the way: what spells an index does by chance
            found[found >= 0] = UNREAD
        return self._spread(found) if uniform else found

    @cached_property
    def stretch(self) -> int:
        """How many elements of K lie side by side under the same scales, whichever of them is asked for."""
        k = self.inputs["a"].shape[-1]
        scaled = [self.inputs[name] for name in "ab" if self.inputs[name].scale is not None]
        widths = [tensor.scaling.extents(tensor.shape)[1] for tensor in scaled]
        return gcd(*(width for width in widths if width < k)) or k

    def _uniform(self, name: str) -> Iterator[Round]:
        """Yield the same place for every row of a part, one in each stretch."""
        counts = self._asking(name)
        for start in range(0, max(part.length for part in self.parts), self.stretch):
            places = [part.span.start + start if start < part.length else -1 for part in self.parts]
            yield tuple(np.full(count, place) for count, place in zip(counts, places, strict=True))

    def _spread(self, found: np.ndarray) -> np.ndarray:
        """Return what the first element of each stretch shows, for all of it."""
        spread = np.full_like(found, UNASKED)
        for elements in blocks_of_k(self.parts, self.stretch):
            spread[..., elements[elements >= 0]] = found[..., elements[:1]]
        return spread

    def _rounds(self, name: str, found: np.ndarray) -> Iterator[Round]:
        """Yield places that together visit all of K in every part, and again through other rows while that helps."""
        asking = list(zip(self.parts, self._asking(name), strict=True))
        rounds = min(max((-(-part.length // count) for part, count in asking if count), default=0), _ROUNDS)
        for attempt in range(_ATTEMPTS):
            if attempt and not (found == UNREAD).any():
                return
            for number in range(rounds):
                yield tuple(_places(part, count, number, attempt) for part, count in asking)

    def _asking(self, name: str) -> list[int]:
        """Return how many rows of each part the other operand has, each of which asks for one element at a time."""
        return [self.inputs["b"].shape[-2] if name == "a" else part.rows.size for part in self.parts]

    def _read(self, name: str, written: list[ScaledTensor], hot: Round, alphabet: Alphabet, size: int) -> np.ndarray:
        """Return the index that each output spells; UNREAD where it is zero or NaN even over ones, GARBLED for none."""
        other = "b" if name == "a" else "a"
        inputs = {**self.inputs, other: self._holding(other, "payload", self._one_hot(other, hot))}
        key = (name, *(places.tobytes() for places in hot))
        if key not in self._factors:
            self._factors[key] = self.run({**inputs, name: self._holding(name, "scales", None)})
        factor = self._factors[key]
        with np.errstate(all="ignore"):
            numbers = alphabet.number([self.run({**inputs, name: held}) / factor for held in written], size)
        return np.where(np.isfinite(factor) & (factor != 0), numbers, UNREAD)

    def _one_hot(self, name: str, hot: Round) -> np.ndarray:
        """Return zeros, and ones at the places that the rows of an operand ask for."""
        values = np.zeros(self.inputs[name].shape, np.float32)
        flat = values.reshape((1, -1, values.shape[-1]) if name == "a" else (-1, *values.shape[-2:]))
        for part, places in zip(self.parts, hot, strict=True):
            group, lines = (0, part.lines) if name == "a" else (part.group, np.arange(places.size))
            flat[group, lines[places >= 0], places[places >= 0]] = 1
        return values

    def _holding(self, name: str, part: str, values: np.ndarray | None) -> ScaledTensor:
        """Return an operand with values in its payload, or ones there and values (None: ones) in its scales."""
        tensor = self.inputs[name]
        payload = (values if part == "payload" else np.ones(tensor.shape, np.float32)) * self._inside
        held = replace(tensor, data=FORMATS[tensor.format].encode(np.ascontiguousarray(payload)))
        if part == "payload" or values is None:
            return held
        return held.with_scale(_codes(values, tensor.scaling.scale_format))


def _places(part: Part, count: int, number: int, attempt: int) -> np.ndarray:
    """Return where the rows of a part ask in one round of an attempt."""
    if not part.length:
        return np.full(count, -1)
    ranks = (np.arange(count) + attempt * count // _ATTEMPTS) % max(count, 1)
    return part.span.start + (number * count + ranks) % part.length


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
