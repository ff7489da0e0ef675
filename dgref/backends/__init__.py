"""Who computes: every file of this folder that holds `BACKENDS`, and the entry points `dgref.backends`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from dgref.backends.base import Backend
from dgref.errors import InputError, expected
from dgref.registry import Registry

_NOT_BACKENDS = {"__init__", "base"}


def _own_modules() -> list[str]:
    folder = Path(__file__).parent
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/backend.py")}
    return sorted(f"dgref.backends.{name}" for name in names - _NOT_BACKENDS)


def _module_backends(module: str) -> list[Backend]:
    package = Path(__file__).parent / module.rsplit(".", 1)[1]
    return import_module(f"{module}.backend" if package.is_dir() else module).BACKENDS


@cache
def backends() -> Registry[Backend]:
    """Return every backend by name; modules are imported on the first call, libraries only when a backend is used."""
    registry: Registry[Backend] = Registry("backend")
    for module in _own_modules():
        for backend in _module_backends(module):
            registry.add(backend)
    for entry in entry_points(group="dgref.backends"):
        for backend in _entry_backends(entry):
            registry.add(backend)
    return registry


def _entry_backends(entry: Any) -> list[Backend]:
    made = entry.load()
    rows = list(made) if isinstance(made, list | tuple) else [made]
    for row in rows:
        if not getattr(row, "name", ""):
            raise InputError(expected(f"entry point {entry.name}", row, "a backend with a name, or a list of them"))
    return rows


def select(names: list[str]) -> list[Backend]:
    """Return the backends of these names; `recorded` stands for every `recorded/...`, likewise any prefix."""
    registry = backends()
    chosen: dict[str, Backend] = {}
    for name in names:
        family = {key: row for key, row in registry.items() if key.startswith(f"{name}/")}
        chosen.update(family if family and name not in registry else {name: registry[name]})
    return list(chosen.values())


def __getattr__(name: str) -> Any:
    if name == "BACKENDS":
        return backends()
    raise AttributeError(f"module 'dgref.backends' has no attribute {name!r}")
