"""The right answers of one case: each is computed once, however many backends are judged by it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from dgref.answers import Answers, answers_for
from dgref.formats import ScaledTensor
from dgref.ops import OPS
from dgref.suite import Case

Arrays = Mapping[str, np.ndarray]


class Expectation:
    """A case's pristine inputs, and what the reference makes of them, exactly or under an arithmetic."""

    def __init__(self, case: Case):
        self.case = case
        self.op = OPS[case.op]
        self._known: dict[tuple[str, str], Arrays] = {}

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """The inputs; never handed to a backend."""
        return self.case.make_inputs()

    def fresh_inputs(self) -> dict[str, Any]:
        """Return a copy of the inputs that a backend may do anything to."""
        return copy.deepcopy(self.inputs)

    def overwritten(self, used: dict[str, Any]) -> list[str]:
        """Return the names of operands in which `used` no longer holds what `fresh_inputs` gave."""
        pairs = ((name, _arrays(value), _arrays(used.get(name))) for name, value in self.inputs.items())
        return [name for name, *sides in pairs if len(sides[0]) != len(sides[1]) or not all(map(_same_bytes, *sides))]

    @cached_property
    def answers(self) -> Answers:
        """What is judged: everything, or a sample of a large product."""
        return answers_for(self.op, self.case, self.inputs)

    @cached_property
    def defined(self) -> Mapping[str, np.ndarray | None]:
        """Which elements of each whole output the op defines: a mask, or None for all."""
        return self.op.defined(self.case, self.inputs)

    def exact(self) -> Arrays:
        """Return the infinitely precise result, rounded once."""
        return self._once("exact", "exact", self.answers.exact)

    def model(self, arithmetic: Any) -> Arrays:
        """Return every bit as the arithmetic says."""
        return self._once("model", arithmetic, lambda: self.answers.model(arithmetic))

    def bound(self, arithmetic: Any) -> Arrays:
        """Return how far from exact the arithmetic's accumulator allows each element to be."""
        return self._once("bound", arithmetic, lambda: self.answers.bound(arithmetic))

    def _once(self, kind: str, arithmetic: Any, compute: Callable[[], Arrays]) -> Arrays:
        named = arithmetic if isinstance(arithmetic, str) else json.dumps(arithmetic.to_dict(), default=str)
        if (kind, named) not in self._known:
            self._known[kind, named] = compute()
        return self._known[kind, named]


def _arrays(value: Any) -> list[np.ndarray]:
    parts = [value.data, value.scale, value.global_scale] if isinstance(value, ScaledTensor) else [value]
    return [np.ascontiguousarray(part) for part in parts if part is not None]


def _same_bytes(mine: np.ndarray, theirs: np.ndarray) -> bool:
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    return bool(np.array_equal(mine.reshape(-1).view(np.uint8), theirs.reshape(-1).view(np.uint8)))


class Latest:
    """The expectation of the case at hand: memory stays bounded by one case."""

    def __init__(self) -> None:
        self._held: Expectation | None = None

    def of(self, case: Case) -> Expectation:
        """Return the case's expectation, the held one where it is of this case."""
        if self._held is None or self._held.case != case:
            self._held = Expectation(case)
        return self._held
