"""A strict reader of safetensors headers: nothing a file claims is believed before it is checked.

The format: eight bytes of little-endian length, that many bytes of JSON, then the data. Refused here, with the reason:
headers longer than the format allows or than the file, repeated names, unknown dtypes, shapes and offsets that
disagree, overlaps, holes, and data that ends before or after the file does.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from dgref.errors import FileError, expected

# safetensors 0.5, src/tensor.rs: MAX_HEADER_SIZE and the bit width of every Dtype.
MAX_HEADER_BYTES = 100_000_000
BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

# What a header may hold before it is parsed: enough for a million tensors, far too little for an allocation bomb.
_MAX_OBJECTS, _MAX_LISTS, _MAX_COMMAS = 1_000_000, 2_000_000, 10_000_000
_MAX_RANK, _MAX_EXTENT = 32, 1 << 62
_MAX_NAME = 4096


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where its bytes are, and what the header says they mean."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int  # from the beginning of the file
    size: int  # bytes

    @property
    def count(self) -> int:
        """Elements, as the header counts them."""
        return prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The tensors of one file in the order of their bytes, and its free-form metadata."""

    file: Path
    tensors: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: str | Path) -> Header:
    """Return the checked header of a safetensors file; FileError says what is wrong with it."""
    path = Path(path)
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # opening a pipe waits for whoever writes into it
            raise FileError(expected(str(path), "a pipe, socket or device", "a safetensors file"))
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            raw = _header_bytes(stream, size, path)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(expected(str(path), error.strerror or "an unreadable file", "a safetensors file")) from None
    table = strict_json(raw, str(path))
    metadata = _metadata(table.pop("__metadata__", {}), path)
    first = 8 + len(raw)
    entries = [_entry(name, row, path, first, size - first) for name, row in table.items()]
    entries.sort(key=lambda entry: (entry.start, entry.size))
    _check_cover(entries, first, size, path)
    return Header(path, {entry.name: entry for entry in entries}, metadata)


def strict_json(raw: bytes, subject: str) -> dict[str, Any]:
    """Parse one JSON object without repeated keys, NaN, hostile depth or hostile size."""
    if raw.count(b"{") > _MAX_OBJECTS or raw.count(b"[") > _MAX_LISTS or raw.count(b",") > _MAX_COMMAS:
        raise FileError(expected(f"{subject}: JSON", "more values than any checkpoint has", f"{_MAX_OBJECTS} objects"))
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise FileError(expected(f"{subject}: JSON", f"bytes that are not UTF-8 at {error.start}", "UTF-8")) from None
    except RecursionError:
        raise FileError(expected(f"{subject}: JSON", "nesting without end", "a few levels")) from None
    except ValueError as error:
        raise FileError(expected(f"{subject}: JSON", str(error)[:200], "valid JSON with distinct keys")) from None
    if not isinstance(table, dict):
        raise FileError(expected(f"{subject}: JSON", type(table).__name__, "an object"))
    return table


def _header_bytes(stream, size: int, path: Path) -> bytes:
    """Return the JSON bytes, after checking that their length is possible."""
    prefix = stream.read(8)
    if len(prefix) < 8:
        raise FileError(expected(str(path), f"a file of {size} bytes", "at least the 8 bytes of the header length"))
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise FileError(expected(f"{path}: header length", length, f"at most {MAX_HEADER_BYTES}"))
    if length > size - 8:
        raise FileError(expected(f"{path}: header length", length, f"at most the {size - 8} bytes that follow"))
    raw = stream.read(length)
    if len(raw) != length or not raw.startswith(b"{"):
        raise FileError(expected(f"{path}: header", repr(raw[:16]), "JSON that starts with {"))
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"key {twice[:80]!r} twice")
    return table


def _no_constant(text: str) -> None:
    raise ValueError(f"the constant {text}")


def _metadata(table: Any, path: Path) -> dict[str, str]:
    good = isinstance(table, dict) and all(isinstance(value, str) for value in table.values())
    if not good:
        raise FileError(expected(f"{path}: __metadata__", "values that are not strings", "a map of strings"))
    return table


def _entry(name: str, row: Any, path: Path, first: int, available: int) -> Entry:
    """Return one checked row of the header."""
    subject = f"{path}: tensor {name[:120]!r}"
    if not name or len(name) > _MAX_NAME:
        raise FileError(expected(subject, f"a name of {len(name)} characters", f"1 to {_MAX_NAME}"))
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        keys = sorted(row)[:8] if isinstance(row, dict) else type(row).__name__
        raise FileError(expected(subject, keys, "dtype, shape and data_offsets"))
    if not isinstance(row["dtype"], str) or row["dtype"] not in BITS:
        raise FileError(expected(f"{subject}: dtype", repr(row["dtype"])[:40], " or ".join(BITS)))
    shape = _extents(row["shape"], f"{subject}: shape", _MAX_RANK)
    begin, end = _extents(row["data_offsets"], f"{subject}: data_offsets", 2, exactly=True)
    _check_size(subject, row["dtype"], shape, begin, end)
    if end > available:
        missing = f"a file that is {end - available} bytes too short (truncated)"
        raise FileError(expected(subject, missing, f"data up to byte {first + end}"))
    return Entry(name, row["dtype"], shape, path, first + begin, end - begin)


def _extents(value: Any, subject: str, rank: int, exactly: bool = False) -> tuple[int, ...]:
    """Return a short list of counts; true and false are not counts."""
    counts = isinstance(value, list) and all(type(item) is int and 0 <= item < _MAX_EXTENT for item in value)
    if not counts or len(value) > rank or (exactly and len(value) != rank):
        raise FileError(expected(subject, repr(value)[:60], f"{'' if exactly else 'at most '}{rank} counts"))
    return tuple(value)


def _check_size(subject: str, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> None:
    """Hold dtype, shape and offsets against each other."""
    bits = prod(shape) * BITS[dtype]
    if end < begin or bits % 8 or bits // 8 != end - begin:
        need = f"{bits / 8:g} bytes for {dtype} {list(shape)}"
        raise FileError(expected(f"{subject}: data_offsets", f"{begin} to {end}", need))


def _check_cover(entries: list[Entry], first: int, size: int, path: Path) -> None:
    """Refuse overlaps and holes: the tensors must cover the data exactly, one after the other."""
    reached, before = first, "the header"
    for entry in entries:
        if entry.start != reached:
            kind = "an overlap with" if entry.start < reached else "a hole after"
            raise FileError(expected(f"{path}: tensor {entry.name[:120]!r}", f"{kind} {before}", f"start at {reached}"))
        reached, before = entry.start + entry.size, entry.name[:120]
    if reached != size:
        raise FileError(expected(str(path), f"{size - reached} bytes after the last tensor", "none"))
