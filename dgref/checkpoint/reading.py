"""Reading parts of files: nothing is mapped, so nothing stays, and what was read is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from dgref.checkpoint.header import Entry
from dgref.errors import FileError, choice, expected

CHUNK = 8 << 20  # bytes read and counted at a time: what bounds the memory of an inspection
_NEAR = 8 << 10  # rows with gaps smaller than this are read in one go: another call costs more than the gap
_STRETCHES = 4  # places that a limited reading is spread over, from the first to the last
_SPANS = 64  # stretches of one tensor, from which on they are merged
_ALIGNMENT = 16  # of every stretch: a multiple of every element, so that no value is cut


@dataclass(frozen=True)
class Amount:
    """How much of each weight an inspection reads."""

    payload: int | None  # bytes of payload that are counted; None: all
    scales: int | None  # bytes of scales that are counted; None: all
    rows: int  # rows of one sample of decoded values
    columns: int  # columns of one sample at most, a multiple of every block
    structure_rows: int  # rows of scales whose order is judged
    structure_scales: int  # scales whose order is judged


AMOUNTS = {
    "all": Amount(None, None, 32, 2048, 2048, 4 << 20),
    "sample": Amount(128 << 10, 128 << 10, 16, 1024, 256, 256 << 10),
}


def amount_of(name: str) -> Amount:
    """Return the amount that `payload=` names."""
    return AMOUNTS[choice("payload", name, AMOUNTS)]


class Reader:
    """Reads tensors' bytes, one file open at a time: weights are visited in the order of their bytes."""

    def __init__(self) -> None:
        self._spans: dict[tuple[Path, str], list[tuple[int, int]]] = {}
        self._path: Path | None = None
        self._stream: FileIO | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def bytes_read(self) -> int:
        """How many bytes of the tensors were read, each counted once."""
        return sum(stop - start for spans in self._spans.values() for start, stop in _merged(spans))

    def close(self) -> None:
        """Close the file at hand; the next read opens its own."""
        if self._stream is not None:
            self._stream.close()
        self._path = self._stream = None

    def chunks(self, entry: Entry, limit: int | None = None) -> Iterator[np.ndarray]:
        """Yield a tensor's bytes as uint8, at most CHUNK at a time; with a limit, stretches of that size in all."""
        for first, last in _stretches(entry.size, limit):
            for start in range(first, last, CHUNK):
                yield self.read(entry, start, min(CHUNK, last - start))

    def rows(self, entry: Entry, start: int, count: int, stride: int, size: int) -> np.ndarray:
        """Return the first `size` bytes of `count` rows that are `stride` apart, as [count, size]."""
        if stride - size < _NEAR:
            whole = self.read(entry, start, (count - 1) * stride + size)
            return np.lib.stride_tricks.as_strided(whole, (count, size), (stride, 1)).copy()
        return np.stack([self.read(entry, start + row * stride, size) for row in range(count)])

    def read(self, entry: Entry, start: int = 0, size: int | None = None) -> np.ndarray:
        """Return part of a tensor's bytes."""
        size = entry.size - start if size is None else size
        buffer = np.empty(size, np.uint8)
        try:
            self._fill(entry, start, memoryview(buffer))
        except OSError as error:
            if isinstance(error, FileError):
                raise
            got = error.strerror or "an unreadable file"
            raise FileError(expected(f"{entry.file}: {entry.name[:120]!r}", got, "its bytes")) from None
        self._note(entry, start, start + size)
        return buffer

    def _note(self, entry: Entry, start: int, stop: int) -> None:
        spans = self._spans.setdefault((entry.file, entry.name), [])
        spans.append((start, stop))
        if len(spans) >= _SPANS and len(spans).bit_count() == 1:  # a power of two: seldom, however many stay apart
            spans[:] = _merged(spans)

    def _fill(self, entry: Entry, start: int, view: memoryview) -> None:
        stream, done = self._open(entry.file), 0
        stream.seek(entry.start + start, os.SEEK_SET)
        while done < len(view):
            count = stream.readinto(view[done:])
            if not count:
                need = f"the {entry.size} bytes that its header promised"
                raise FileError(expected(f"{entry.file}: {entry.name[:120]!r}", "a file that has shrunk", need))
            done += count

    def _open(self, path: Path) -> FileIO:
        if self._stream is None or path != self._path:
            self.close()
            self._path, self._stream = path, FileIO(path)
        return self._stream


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return stretches of bytes in order, those that overlap or meet as one."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def _stretches(size: int, limit: int | None) -> list[tuple[int, int]]:
    """Return where to begin and end: the whole, or stretches of `limit` bytes in all from the first to the last."""
    if limit is None or size <= limit:
        return [(0, size)]
    length = limit // _STRETCHES // _ALIGNMENT * _ALIGNMENT
    last = size - length
    starts = [round(i * last / (_STRETCHES - 1)) // _ALIGNMENT * _ALIGNMENT for i in range(_STRETCHES)]
    return [(start, start + length) for start in starts]
