"""Files that are whole or not there at all, and folders that one process at a time writes into."""

from __future__ import annotations

import json
import os
import platform
import reprlib
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from dgref.errors import FileError, SuiteError, expected, shown

CLAIM = ".dgref-lock"


def as_path(subject: str, value: Any) -> Path:
    """Return the path of a text or of anything that names a path; anything else is an error."""
    try:
        path = Path(value)
        os.lstat(path)
    except TypeError:
        raise FileError(expected(subject, shown(value), "a path")) from None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path  # whoever opens it says so
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise FileError(expected(subject, reprlib.repr(str(value)), f"a path that this system takes ({why})")) from None
    return path


def write_atomically(path: Path, data: str | bytes) -> Path:
    """Write a text, or bytes, under a temporary name and rename it, so that a reader never sees half of the file."""
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode("utf-8", errors="backslashreplace"))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise FileError(expected(str(path), error.strerror or error, "a path that can be written")) from error
    return path


def read_json(path: Path, need: str) -> Any:
    """Return the data of a JSON file; one that cannot be read, or that is none, is an error that says the need."""
    try:
        text = read_bytes(path, need).decode("utf-8")
        data = json.loads(text)
        if "\\ud" in text.lower():  # half of a surrogate pair is JSON, and no text that a page could be written in
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        return data
    except (ValueError, RecursionError) as error:
        raise FileError(expected(str(path), f"invalid JSON ({error})", need)) from error


def read_toml(path: Path, need: str) -> dict[str, Any]:
    """Return the tables of a TOML file, which people write: what is invalid in it is named by line."""
    return parse_toml(read_bytes(path, need), path.name)


def parse_toml(data: bytes, name: str) -> dict[str, Any]:
    """Return the tables that a file of this name holds."""
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, or no TOML
        raise SuiteError(expected(name, error, "valid TOML in UTF-8")) from error


def read_bytes(path: Path, need: str) -> bytes:
    """Return what a file holds; one that cannot be read is an error that says the need."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(expected(str(path), error.strerror or error, need)) from error


@contextmanager
def claimed(*folders: Path | None) -> Iterator[None]:
    """Hold folders while this process writes into them; another that wants one gets an error that names the holder.

    The operating system lets go of a dead process's claim, so that the file it leaves behind blocks nobody.
    """
    with ExitStack() as held:
        for folder in {folder.resolve() for folder in folders if folder is not None}:
            held.callback(_release, folder, _claim(folder))
        yield


def _release(folder: Path, handle: int | None) -> None:
    if handle is not None:
        (folder / CLAIM).unlink(missing_ok=True)
        os.close(handle)


def _claim(folder: Path) -> int | None:
    """Return the handle of a folder's locked file; None where the system has no such locks."""
    path = folder / CLAIM
    while True:
        handle = _opened(path)
        if not _locked(handle, folder):
            os.close(handle)
            path.unlink(missing_ok=True)
            return None
        if _is_still(path, handle):
            _sign(handle)
            return handle
        os.close(handle)  # its holder removed the file between our opening and our locking it


def _locked(handle: int, folder: Path) -> bool:
    """Lock a claim's file; False where the system has no locks, an error where another process holds this one."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(handle)
        os.close(handle)
        need = "an end of that run first, or another folder"
        raise FileError(expected(str(folder), f"another run that writes there: {holder}", need)) from error
    except (ImportError, OSError):  # another system, or a network folder
        return False
    return True


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        need = "a folder that can be written"
        raise FileError(expected(str(path.parent), error.strerror or error, need)) from error


def _is_still(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    os.truncate(handle, 0)
    os.pwrite(handle, json.dumps({"process": os.getpid(), "host": platform.node(), "since": now}).encode(), 0)


def _holder(handle: int) -> str:
    try:
        row = json.loads(os.pread(handle, 4096, 0))
        return f"process {row['process']} on {row['host']} since {row['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not signed yet"
