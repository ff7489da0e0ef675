"""A kernel's text: its file and every header it includes, read once, so that key and compilation see the same bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dgref.errors import FileError, expected

KERNELS = Path(__file__).parent / "kernels"
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class KernelSource:
    """A translation unit: the name of its main file and the text of all files, spelled from the root folder."""

    name: str
    files: Mapping[str, str]

    @property
    def text(self) -> str:
        return self.files[self.name]

    @property
    def headers(self) -> dict[str, str]:
        return {name: text for name, text in self.files.items() if name != self.name}

    @cached_property
    def digest(self) -> str:
        """Return a hash of every name and every byte."""
        state = hashlib.sha256()
        for name in sorted(self.files):
            body = self.files[name].encode()
            state.update(f"{name}\0{len(body)}\0".encode())
            state.update(body)
        return state.hexdigest()

    def line(self, name: str, number: int) -> str:
        """Return one line of one file, or an empty string where there is none."""
        lines = self.files.get(name, "").splitlines()
        return lines[number - 1] if 0 < number <= len(lines) else ""


def read_source(name: str, root: Path | None = None) -> KernelSource:
    """Read a kernel file such as `sm90/fp8_gemm.cu` and, transitively, the headers it includes.

    Every include is spelled from the root folder; angle brackets are left to the compiler.
    """
    root = root or KERNELS
    files: dict[str, str] = {}
    pending = [(name, "the caller")]
    while pending:
        current, wanted_by = pending.pop()
        if current in files:
            continue
        files[current] = _read(root, current, wanted_by)
        pending += [(include, current) for include in _INCLUDE.findall(files[current])]
    return KernelSource(name, files)


def _read(root: Path, name: str, wanted_by: str) -> str:
    try:
        return (root / name).read_text(encoding="utf-8")
    except OSError as error:
        need = f"a file under {root}, spelled from that folder"
        raise FileError(expected(f"kernel source {name!r}", error.strerror, need, f"wanted by {wanted_by}")) from error
