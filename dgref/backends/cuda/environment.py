"""Every environment variable the CUDA backend reads, in one table.

Each variable has DeepGEMM's name (`DG_JIT_DEBUG`) and the same name with our prefix (`DGREF_JIT_DEBUG`), which wins.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dgref.errors import InputError, expected
from dgref.registry import Registry

_FALSE = {"", "0", "false", "off", "no"}
_TRUE = {"1", "true", "on", "yes"}


@dataclass(frozen=True)
class Variable:
    """One environment variable: its name without prefix, and what setting it does."""

    name: str
    meaning: str

    @property
    def spellings(self) -> tuple[str, str]:
        return f"DGREF_{self.name}", f"DG_{self.name}"


VARIABLES: Registry[Variable] = Registry(
    "environment variable",
    [
        Variable("JIT_CACHE_DIR", "folder of compiled kernels (default: $XDG_CACHE_HOME/dgref or ~/.cache/dgref)"),
        Variable("JIT_DEBUG", "1: print every compilation and cache hit, with its time"),
        Variable("PRINT_CONFIGS", "1: print the configuration that a kernel's heuristics chose"),
        Variable("CHECK_LABELS", "1: check what grouped products are told of their groups before every launch; slow"),
        Variable("JIT_DUMP_PTX", "1: write the PTX beside the cache entry"),
        Variable("JIT_DUMP_SASS", "1: write the SASS beside the cache entry (needs cuobjdump)"),
        Variable("JIT_DUMP_ASM", "1: both of the above"),
        Variable("JIT_USE_NVRTC", "0: compile with nvcc; 1 (default): with NVRTC"),
        Variable("JIT_NVCC_COMPILER", "path of the nvcc to compile with, in place of NVRTC"),
        Variable("JIT_PTXAS_VERBOSE", "1: print registers, spills and shared memory of every kernel"),
        Variable("JIT_PTXAS_CHECK", "1: a kernel that spills registers to local memory is an error"),
        Variable("JIT_WITH_LINEINFO", "1: keep source lines in the binary, for profilers and compute-sanitizer"),
    ],
)


def _read(name: str) -> tuple[str, str] | None:
    spellings = VARIABLES[name].spellings
    return next(((spelling, os.environ[spelling]) for spelling in spellings if spelling in os.environ), None)


def text(name: str) -> str | None:
    """Return what a variable is set to, or None where it is unset or empty."""
    found = _read(name)
    return found[1] if found and found[1] else None


def flag(name: str, default: bool = False) -> bool:
    """Return whether a switch is on; a value that is neither yes nor no is an error."""
    found = _read(name)
    if found is None:
        return default
    value = found[1].strip().lower()
    if value not in _TRUE | _FALSE:
        raise InputError(expected(found[0], repr(found[1]), "0 or 1"))
    return value in _TRUE


def cache_folder() -> Path:
    """Return the folder that compiled kernels are kept in."""
    chosen = text("JIT_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dgref"
