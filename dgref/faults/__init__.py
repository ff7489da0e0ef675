"""Faults: the catalogue, injectors that share the hypotheses' code, and the bench that holds the diagnosis to it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "CATALOGUE": "dgref.faults.catalogue",
    "Bench": "dgref.faults.bench",
    "bench": "dgref.faults.bench",
    "inject": "dgref.faults.injectors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dgref.faults' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
