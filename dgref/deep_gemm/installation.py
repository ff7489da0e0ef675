"""Make `import deep_gemm` resolve to this package, for code and test files that were written for it."""

from __future__ import annotations

import sys
from importlib import import_module

from dgref.errors import InputError, expected

PACKAGE = "dgref.deep_gemm"
# every module that DeepGEMM has and users import
MODULES = (
    "",
    ".legacy",
    ".mega",
    ".testing",
    ".testing.bench",
    ".testing.numeric",
    ".testing.utils",
    ".utils",
    ".utils.dist",
    ".utils.layout",
    ".utils.math",
)


def install(name: str = "deep_gemm") -> None:
    """Let `import NAME` and everything below it find dgref's; a real library that is imported already is an error."""
    present = sys.modules.get(name)
    ours = import_module(PACKAGE)
    if present is not None and present is not ours:
        need = "dgref.deep_gemm.install() before anything imports it"
        raise InputError(expected(f"module {name}", f"{getattr(present, '__file__', present)}, imported already", need))
    for suffix in MODULES:
        sys.modules[name + suffix] = import_module(PACKAGE + suffix)


def uninstall(name: str = "deep_gemm") -> None:
    """Undo `install`: the name is free for a real library again."""
    for suffix in MODULES:
        if sys.modules.get(name + suffix) is sys.modules.get(PACKAGE + suffix):
            sys.modules.pop(name + suffix, None)
