"""What a backend raised: one sentence, and the line of its own file."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sysconfig import get_path

from dgref.backends.base import Backend
from dgref.errors import BackendError, DgrefError, UnavailableError, UnsupportedError

LONGEST_REASON = 2000  # characters
OUT_OF_MEMORY = ("out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "Unable to allocate")

_NOT_THEIRS = (Path(__file__).parent, *(Path(get_path(name)) for name in ("stdlib", "purelib", "platlib")))


def classified(error: Exception) -> tuple[str, str]:
    """Return the status of a result that ended so, and the first line of what was raised."""
    try:
        text = str(error) if isinstance(error, DgrefError) else f"{type(error).__name__}: {error}"
    except Exception:
        text = f"{type(error).__name__}, whose message cannot be printed"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return ("out_of_memory" if any(mark in text for mark in OUT_OF_MEMORY) else "error"), first


def printable(reason: str) -> str:
    """Return a sentence that any file and terminal takes, whatever a backend put into its exception."""
    text = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}... ({len(reason)} characters)"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def place(error: Exception, backend: Backend) -> str:
    """Return the last line that is neither dgref's nor a library's, or is in the backend's own file; else nothing."""
    own = getattr(getattr(backend.prepare, "__code__", None), "co_filename", "")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        foreign = path.is_absolute() and not any(path.is_relative_to(folder) for folder in _NOT_THEIRS)
        if foreign or (frame.filename == own and not path.is_relative_to(_NOT_THEIRS[0])):
            return f"{path.name}, line {frame.lineno}, in {frame.name}"
    return ""


@contextmanager
def blamed_on(backend: Backend) -> Iterator[None]:
    """Raise whatever the backend raises as one sentence with its place, but for what says that it cannot run."""
    try:
        yield
    except (UnsupportedError, UnavailableError):
        raise
    except Exception as error:
        where = place(error, backend)
        sentence = printable(f"{backend.name} raised {classified(error)[1]}")
        raise BackendError(f"{sentence} [{where}]" if where else sentence) from error
