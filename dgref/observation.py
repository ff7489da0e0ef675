"""What a kernel does when launched again and again: over two poison patterns, then repeated."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dgref.backends.base import Kernel
from dgref.compare.verdict import same
from dgref.formats.native import on_cpu, to_numpy
from dgref.ops import OPS
from dgref.suite import Case

POISONS = (0xFF, 0x55)  # NaN in every format that has one; then an ordinary number
REPEAT_SECONDS = 0.25  # for each repeat asked for: none further once launches after the first have taken this long
Masks = Mapping[str, np.ndarray | None]
Arrays = dict[str, np.ndarray]


@dataclass
class Observation:
    """Outputs of the first launch, and what later launches showed."""

    outputs: Arrays
    differing: list[str] = field(default_factory=list)  # a sentence for each output of a launch that changed
    evidence: dict[str, Any] = field(default_factory=dict)


def observe(kernel: Kernel, repeats: int, defined: Masks) -> Observation:
    """Launch over each poison pattern, then repeat; elements that the op leaves undefined may change.

    A kernel with nothing to poison is launched over no second pattern, one that replays stored outputs only once, and
    one so slow that it has used up REPEAT_SECONDS is not repeated: the evidence says how many launches there were. The
    first launch does not count, as it may have compiled the kernel.
    """
    poisons = POISONS if getattr(kernel, "poisonable", True) else POISONS[:1]
    repeats = repeats if getattr(kernel, "repeatable", True) else 0
    guards = _Guards(kernel)
    first = launch(kernel, poisons[0], guards)
    started = time.perf_counter()
    seen = Observation(first)
    for pattern in poisons[1:]:
        now = launch(kernel, pattern, guards)
        seen.differing += _changes(first, now, defined, pattern, 2)
        unwritten = _unwritten(first, now, defined, pattern)
    runs = len(poisons)
    while runs < len(poisons) + repeats and time.perf_counter() - started < REPEAT_SECONDS * repeats:
        runs += 1
        seen.differing += _changes(first, launch(kernel, poisons[0], guards), defined, None, runs)
    seen.evidence = {"runs": runs, "poisons": [f"0x{pattern:02X}" for pattern in poisons], **guards.evidence()}
    if len(poisons) > 1:
        seen.evidence |= {"unwritten": unwritten} if unwritten else {}
        seen.evidence["undefined_written"] = _written(first, defined)
    return seen


class _Guards:
    """Which bytes outside its outputs a kernel wrote, in any of its launches."""

    def __init__(self, kernel: Kernel):
        self._guarded = getattr(kernel, "guarded", None)
        self._touched: dict[str, np.ndarray] = {}

    def look(self, pattern: int) -> None:
        """Note what the last launch, over this pattern, wrote outside its outputs."""
        for name, offsets in (self._guarded.touched(pattern) if self._guarded else {}).items():
            self._touched[name] = np.union1d(self._touched.get(name, offsets), offsets)

    def evidence(self) -> dict[str, list[str]]:
        """Return a sentence for each side of an output that was written past; nothing where nothing is guarded."""
        return {"guards": self._guarded.sentences(self._touched)} if self._guarded else {}


def launch(kernel: Kernel, pattern: int, guards: _Guards) -> Arrays:
    """Return copies of a kernel's outputs after one launch over a poison pattern."""
    kernel.poison(pattern)
    kernel()
    outputs = {name: on_host(array) for name, array in kernel.outputs().items()}
    guards.look(pattern)
    return outputs


def on_host(array: Any) -> np.ndarray:
    """Return a copy of a backend's output as a native NumPy array."""
    return np.array(to_numpy(on_cpu(array, "output"), "output"))


def misfit_of(case: Case, outputs: Mapping[str, np.ndarray]) -> str | None:
    """Return what is wrong with the names, shapes and types of the outputs, before any bit is looked at."""
    wanted = OPS[case.op].allocate(case)
    extra = sorted(outputs.keys() - wanted.keys())
    if extra:
        return f"outputs: got {', '.join(extra)}, need {' and '.join(wanted)}"
    for name, like in wanted.items():
        found = outputs.get(name)
        if found is None:
            return f"output {name}: got nothing, need shape {like.shape} of {like.dtype}"
        if (found.shape, found.dtype) != (like.shape, like.dtype):
            return f"output {name}: got shape {found.shape} of {found.dtype}, need {like.shape} of {like.dtype}"
    return None


def _changes(first: Arrays, now: Arrays, defined: Masks, pattern: int | None, number: int) -> Iterator[str]:
    cause = "repeated" if pattern is None else "over another poison pattern"
    for name in first:
        changed = _changed(first[name], now.get(name), defined.get(name))
        if not changed.any():
            continue
        unwritten = 0 if pattern is None else _holding(first, POISONS[0], name) & _holding(now, pattern, name) & changed
        count = int(np.count_nonzero(unwritten))
        note = f": {count:,} of its elements {'was' if count == 1 else 'were'} never written" if count else ""
        yield f"output {name} changed when {cause} (launch {number}){note}"


def _unwritten(first: Arrays, now: Arrays, defined: Masks, pattern: int) -> dict[str, int]:
    """Return, for each output that changed only where it was never written, how many elements those are."""
    found = {}
    for name in first:
        changed = _changed(first[name], now.get(name), defined.get(name))
        if changed.any() and changed.shape == first[name].shape == now[name].shape:
            kept = _holding(first, POISONS[0], name) & _holding(now, pattern, name)
            found |= {} if (changed & ~kept).any() else {name: int(np.count_nonzero(changed))}
    return found


def _changed(first: np.ndarray, now: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray:
    """Return which defined elements changed; all of them where shape or type did."""
    if now is None or now.shape != first.shape or now.dtype != first.dtype:
        return np.ones(max(first.size, 1), bool)
    changed = ~same(first, now, nan_equal=False)
    return changed if mask is None or mask.shape != changed.shape else changed & mask


def _holding(outputs: Arrays, pattern: int, name: str) -> np.ndarray:
    """Return which elements consist of the poison byte."""
    array = np.ascontiguousarray(outputs[name])
    return (array.reshape(-1).view(np.uint8).reshape(*array.shape, array.itemsize) == pattern).all(-1)


def _written(first: Arrays, defined: Masks) -> dict[str, int]:
    """Return, for each output, how many elements that the op leaves undefined were written all the same."""
    return {
        name: int(np.count_nonzero(~mask & ~_holding(first, POISONS[0], name)))
        for name, mask in defined.items()
        if mask is not None and name in first and first[name].shape == mask.shape
    }
