"""Files that are whole or not there at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dgref.errors import FileError, expected


def write_atomically(path: Path, text: str) -> Path:
    """Write a text file under a temporary name and rename it, so that a reader never sees half of it."""
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise FileError(expected(str(path), error.strerror or error, "a path that can be written")) from error
    return path
