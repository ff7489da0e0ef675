"""Compiled kernels on disk: one file per kernel, complete or absent, whoever writes and whatever dies.

An entry is a SHA-256, a line of JSON and the cubin. It is written under a temporary name in the same folder and
renamed, so that readers see all of it or nothing; the hash is checked on every load. A folder that cannot be written
costs one warning, and the kernel lives in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from dgref.backends.cuda import environment
from dgref.backends.cuda.compiler import CompiledObject, Request
from dgref.errors import expected

_MAGIC = b"dgref kernel 1\n"
_SUFFIX = ".kernel"
_TEMPORARY = ".partial"
_ABANDONED_AFTER = 600.0  # seconds: no compilation takes this long, so its writer is dead
_warned: set[Path] = set()


class CacheWarning(UserWarning):
    """The cache did not help, and the kernel was compiled all the same."""


@dataclass(frozen=True)
class Entry:
    """One kernel on disk."""

    path: Path
    bytes: int
    modified: float
    description: dict[str, object]
    problem: str | None = None


def key(request: Request, compiler_identity: str) -> str:
    """Return the hash of everything that decides a kernel's bits."""
    parts = (
        request.source.digest,
        request.expression,
        request.architecture,
        "\0".join(request.all_flags()),
        compiler_identity,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def path_of(request: Request, digest: str) -> Path:
    """Return where the entry of a request belongs."""
    return (
        environment.cache_folder() / f"{request.entry.replace('::', '.')}-{request.architecture}-{digest[:32]}{_SUFFIX}"
    )


def load(path: Path) -> CompiledObject | None:
    """Return the entry at `path`; None where there is none, or where it is corrupt (with a warning)."""
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.warn(f"{path}: got {error}, need an intact entry; compiling again", CacheWarning, stacklevel=2)
        return None


def store(path: Path, compiled: CompiledObject, description: dict[str, object]) -> bool:
    """Write an entry so that it appears whole or not at all; False where the folder cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(_encode(compiled, description))
        os.replace(temporary, path)
        return True
    except OSError as error:
        _warn_once(path.parent, error)
        _remove(temporary)
        return False


def write_beside(path: Path, suffix: str, text: str) -> None:
    """Write a dump (PTX, SASS) next to an entry."""
    try:
        path.with_suffix(suffix).write_text(text, encoding="utf-8")
    except OSError as error:
        _warn_once(path.parent, error)


def entries() -> list[Entry]:
    """List the cache, newest first; corrupt and abandoned files come with their problem."""
    folder = environment.cache_folder()
    found = [*folder.glob(f"*{_SUFFIX}"), *folder.glob(f".*{_TEMPORARY}")]
    inspected = [entry for entry in map(_inspect, found) if entry is not None]
    return sorted(inspected, key=lambda entry: entry.modified, reverse=True)


def check() -> list[Entry]:
    """Return the entries that have a problem; an empty list means that all is well."""
    return [entry for entry in entries() if entry.problem]


def clear(only_problems: bool = False) -> int:
    """Delete the entries with their dumps (or only those with a problem), and return how many there were."""
    doomed = check() if only_problems else entries()
    for entry in doomed:
        for path in (entry.path, entry.path.with_suffix(".ptx"), entry.path.with_suffix(".sass")):
            _remove(path)
    return len(doomed)


def _encode(compiled: CompiledObject, description: dict[str, object]) -> bytes:
    fields = asdict(compiled)
    cubin, _ = fields.pop("cubin"), fields.pop("made_of")
    header = json.dumps({"description": description, "object": fields}).encode()
    body = header + b"\n" + cubin
    return _MAGIC + hashlib.sha256(body).digest() + body


def _decode(data: bytes) -> CompiledObject:
    description, fields = _parse(data)
    return CompiledObject(**fields, made_of=description)


def _parse(data: bytes) -> tuple[dict[str, object], dict[str, object]]:
    body = data[len(_MAGIC) + 32 :]
    if not data.startswith(_MAGIC):
        raise ValueError("a file that is no cache entry")
    if hashlib.sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + 32]:
        raise ValueError("a wrong checksum")
    header, _, cubin = body.partition(b"\n")
    parsed = json.loads(header)
    return parsed["description"], {**parsed["object"], "cubin": cubin}


def _inspect(path: Path) -> Entry | None:
    """Describe one file; None where it vanished or is still being written by another process."""
    try:
        status = path.stat()
        if path.name.endswith(_TEMPORARY):
            if time.time() - status.st_mtime < _ABANDONED_AFTER:
                return None
            return Entry(path, status.st_size, status.st_mtime, {}, "abandoned by a process that died")
        description, problem = _parse(path.read_bytes())[0], None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        description, problem = {}, str(error)
    return Entry(path, status.st_size, status.st_mtime, description, problem)


def _warn_once(folder: Path, error: OSError) -> None:
    if folder not in _warned:
        _warned.add(folder)
        need = "a writable folder; kernels stay in memory"
        message = expected(f"kernel cache {folder}", error.strerror or error, need)
        warnings.warn(message, CacheWarning, stacklevel=3)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _warn_once(path.parent, error)
