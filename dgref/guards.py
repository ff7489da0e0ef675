"""Outputs between guard bytes: what a kernel writes past its output's end, or before its start, shows.

An output is the middle of a larger buffer. Poison fills all of it; a byte outside the output that no longer holds the
poison after a launch was written by the kernel. A byte that equals one pattern differs from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgref.errors import counted
from dgref.formats.native import is_torch, like
from dgref.ops import OPS
from dgref.suite import Case

GUARD_BYTES = 1 << 16  # on each side; more than a row of 32,000 BF16 elements, as a missing mask writes whole rows
ALIGNMENT = 256  # of an output's first byte; what CUDA's allocators promise and copy engines may rely on
UNTOUCHED = 0xFF

Place = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Guarded:
    """One output, and the bytes that it lies in."""

    array: Any  # a view of bytes[start:stop]
    bytes: Any  # one-dimensional uint8: a NumPy array, or a torch tensor on any device
    start: int
    stop: int

    def fill(self, pattern: int) -> None:
        """Set the output and its guards to one byte."""
        self.bytes[:] = pattern

    def touched(self, pattern: int) -> np.ndarray:
        """Return the offsets, from the output's first byte, of guard bytes that do not hold the pattern."""
        before, after = (_host(part) for part in (self.bytes[: self.start], self.bytes[self.stop :]))
        first, last = np.flatnonzero(before != pattern), np.flatnonzero(after != pattern)
        return np.concatenate([first - self.start, last + (self.stop - self.start)])

    def sentences(self, name: str, offsets: np.ndarray) -> Iterator[str]:
        """Yield what was written on each side where anything was."""
        for side, words in ((offsets[offsets < 0], "before its start"), (offsets[offsets >= 0], "past its end")):
            if side.size:
                first = self._place_of(int(side.min()))
                yield f"output {name}: {counted(side.size, 'byte')} written {words}, the first at {first}"

    def _place_of(self, offset: int) -> str:
        columns = self.array.shape[-1] if self.array.ndim else 1
        row, column = divmod(offset // self.array.itemsize, columns or 1)
        return f"byte {offset} (row {row}, column {column})"


class GuardedOutputs(Mapping[str, Any]):
    """Output name -> array, each of which is the middle of a buffer of its own."""

    def __init__(self, wanted: Mapping[str, np.ndarray], place: Place | None = None):
        self.parts = {name: _guarded(array, place or np.asarray) for name, array in wanted.items()}
        self.fill(UNTOUCHED)

    def __getitem__(self, name: str) -> Any:
        return self.parts[name].array

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def fill(self, pattern: int) -> None:
        """Set every output and every guard to one byte."""
        for part in self.parts.values():
            part.fill(pattern)

    def touched(self, pattern: int) -> dict[str, np.ndarray]:
        """Return, for each output, the offsets of the guard bytes that were written since `fill(pattern)`."""
        return {name: part.touched(pattern) for name, part in self.parts.items()}

    def sentences(self, touched: Mapping[str, np.ndarray]) -> list[str]:
        """Return what such offsets mean: for each side of an output how many bytes, and where the first one lies."""
        return [line for name, offsets in touched.items() for line in self.parts[name].sentences(name, offsets)]


def guarded_outputs(case: Case, place: Place | None = None) -> GuardedOutputs:
    """Return room for every output of a case; `place` takes bytes to the device where the kernel runs."""
    return GuardedOutputs(OPS[case.op].allocate(case), place)


def _guarded(wanted: np.ndarray, place: Place) -> Guarded:
    whole = place(np.empty(wanted.nbytes + 2 * GUARD_BYTES + ALIGNMENT, np.uint8))
    address = whole.data_ptr() if is_torch(whole) else whole.ctypes.data
    start = GUARD_BYTES + -(address + GUARD_BYTES) % ALIGNMENT
    stop = start + wanted.nbytes
    dtype = like(np.empty(0, wanted.dtype), whole).dtype
    return Guarded(whole[start:stop].view(dtype).reshape(wanted.shape), whole, start, stop)


def _host(part: Any) -> np.ndarray:
    return part.cpu().numpy() if is_torch(part) else part
