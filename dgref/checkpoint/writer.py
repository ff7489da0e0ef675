"""Writing safetensors in a stream: the header first, then each tensor in chunks, and the name only at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from dgref.checkpoint.header import BITS
from dgref.errors import FileError, expected

Chunks = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written: what the header says, and where its bytes will come from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Chunks

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        return prod(self.shape) * BITS[self.dtype] // 8


def write_file(path: Path, tensors: Sequence[Planned], metadata: dict[str, str]) -> None:
    """Write one safetensors file; every tensor must deliver exactly the bytes it promised."""
    with path.open("wb") as stream:
        stream.write(_header(tensors, metadata))
        for tensor in tensors:
            written = 0
            for chunk in tensor.chunks():
                written += stream.write(np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data)
            if written != tensor.size:
                raise FileError(expected(tensor.name, f"{written} bytes to write", f"{tensor.size} as planned"))
        stream.flush()
        os.fsync(stream.fileno())


def _header(tensors: Sequence[Planned], metadata: dict[str, str]) -> bytes:
    """Return the length and the JSON, padded to eight bytes so that the data is aligned."""
    table: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    reached = 0
    for tensor in tensors:
        offsets = [reached, reached + tensor.size]
        table[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        reached += tensor.size
    raw = json.dumps(table, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """Yield a place beside `out` to write to; it becomes `out` at the end, or disappears with an error."""
    if out.exists():
        raise FileError(expected(str(out), "something that exists", "a new name: nothing is overwritten"))
    if not out.parent.is_dir():
        raise FileError(expected(str(out.parent), "no such folder", "an existing folder to write into"))
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.rename(partial, out)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
