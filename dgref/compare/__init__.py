"""How two arrays differ, and why: `dgref.compare(actual, expected)` is this package, called.

The package and the function share the name that users type, so the module itself is callable.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_HOMES = {
    "Comparison": "dgref.compare.comparison",
    "Policy": "dgref.compare.ulp",
    "locate_k": "dgref.compare.k_blocks",
    "ulp_distance": "dgref.compare.ulp",
    "diagnose": "dgref.compare.diagnosis",
    "infer_arithmetic": "dgref.compare.fingerprint",
}
__all__ = ["compare", *_HOMES]


class _CallableModule(ModuleType):
    def __call__(self, actual: Any, expected: Any, *args: Any, **kwargs: Any) -> Any:
        """Compare two arrays; see `dgref.compare.comparison.compare`."""
        from dgref.compare.comparison import compare

        return compare(actual, expected, *args, **kwargs)

    @property
    def compare(self) -> Any:
        from dgref.compare.comparison import compare

        return compare


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dgref.compare' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


sys.modules[__name__].__class__ = _CallableModule
