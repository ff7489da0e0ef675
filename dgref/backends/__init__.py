"""Who computes: every file of this folder that holds `BACKENDS`, entry points `dgref.backends`, and files by path."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from dgref.backends.base import Backend, UnusableBackend
from dgref.errors import FileError, InputError, expected
from dgref.files import as_path
from dgref.registry import Registry

_NOT_BACKENDS = {"__init__", "base"}


def _own_modules() -> list[str]:
    folder = Path(__file__).parent
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/backend.py")}
    return sorted(f"dgref.backends.{name}" for name in names - _NOT_BACKENDS)


def _module_backends(module: str) -> list[Backend]:
    package = Path(__file__).parent / module.rsplit(".", 1)[1]
    return getattr(import_module(f"{module}.backend" if package.is_dir() else module), "BACKENDS", [])


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
    """Return the backends of another package; one that fails to import is listed as unavailable, with the reason."""
    try:
        return _rows(entry.load(), f"entry point {entry.name}")
    except Exception as error:
        return [UnusableBackend(entry.name, f"{entry.value} cannot be imported: {type(error).__name__}: {error}")]


def _rows(made: Any, subject: str) -> list[Backend]:
    rows = list(made) if isinstance(made, list | tuple) else [made]
    if not rows:
        raise InputError(expected(f"{subject} BACKENDS", "an empty list", "at least one backend"))
    for row in rows:
        if not isinstance(getattr(row, "name", None), str) or not row.name or not callable(getattr(row, "prepare", 0)):
            raise InputError(expected(subject, repr(row), "a backend with a name and a `prepare`, or a list of them"))
    return rows


_FILES: dict[str, list[str]] = {}  # path of a loaded file -> names of its backends


def load_file(path: str | Path) -> list[str]:
    """Add the backends of a Python file that holds `BACKENDS`, and return their names."""
    path = as_path("backend", path).resolve()
    if str(path) in _FILES:
        return _FILES[str(path)]
    if not path.is_file():
        raise FileError(expected(str(path), "no such file", "a Python file that holds BACKENDS"))
    spec = spec_from_file_location(f"dgref_backend_{path.stem}", path)
    module = module_from_spec(spec)
    _give_access(path.parent)
    try:
        spec.loader.exec_module(module)
        made = module.BACKENDS
    except AttributeError as error:
        raise InputError(expected(str(path), error, "a list BACKENDS")) from error
    except Exception as error:
        raise FileError(
            expected(str(path), f"{type(error).__name__}: {error}", "a file that can be imported")
        ) from error
    rows = _rows(made, path.name)
    for row in rows:
        if row.name in backends():
            raise InputError(expected(f"{path.name} backend", repr(row.name), "a name that no other backend has"))
        backends().add(row)
    _FILES[str(path)] = [row.name for row in rows]
    return _FILES[str(path)]


def _give_access(folder: Path) -> None:
    """Let a backend's file import its neighbours, last, so that they take the place of no library."""
    others = {Path(path).parent for path in _FILES} - {folder}
    for name, module in list(sys.modules.items()):
        held = getattr(module, "__file__", None)
        if held and Path(held).parent in others and (folder / Path(held).name).is_file():
            got = f"{held} under that name already"
            raise InputError(expected(f"module {name!r} of {folder}", got, "modules whose names tell folders apart"))
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def loaded_files() -> list[str]:
    """Return the files that `load_file` has loaded: a worker process loads them too."""
    return list(_FILES)


def source_of(name: str) -> str:
    """Return what `--backend` takes for a backend: its file, or its name."""
    return next((path for path, names in _FILES.items() if name in names), name)


def source_hashes(names: Iterable[str]) -> dict[str, str]:
    """Return the hash of every file from outside of dgref that holds code of these backends, as far as it is imported.

    That is the file of the backend itself, and every module beside or below it.
    """
    homes = {path for path in map(_home_of, names) if path is not None}
    files = homes | {path for path in _module_files() if any(_is_near(path, home) for home in homes)}
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files) if path.is_file()}


def _home_of(name: str) -> Path | None:
    """Return the file that defines a backend; None for dgref's own."""
    loaded = next((path for path, held in _FILES.items() if name in held), None)
    module = sys.modules.get(type(backends()[name]).__module__)
    path = Path(loaded or getattr(module, "__file__", None) or __file__)
    return None if path.is_relative_to(Path(__file__).parents[1]) else path


def _module_files() -> Iterator[Path]:
    return (Path(held) for held in (getattr(row, "__file__", None) for row in list(sys.modules.values())) if held)


def _is_near(path: Path, home: Path) -> bool:
    """Say whether a module is one of a backend's neighbours, and not a library installed below them."""
    return path.is_relative_to(home.parent) and "site-packages" not in path.relative_to(home.parent).parts


def select(names: list[str]) -> list[Backend]:
    """Return the backends of these names; `recorded` stands for every `recorded/...`, a path for a file's backends."""
    registry = backends()
    chosen: dict[str, Backend] = {}
    for name in names:
        if name.endswith(".py"):
            chosen.update({row: registry[row] for row in load_file(name)})
            continue
        family = {key: row for key, row in registry.items() if key.startswith(f"{name}/")}
        chosen.update(family if family and name not in registry else {name: registry[name]})
    return list(chosen.values())


def __getattr__(name: str) -> Any:
    if name == "BACKENDS":
        return backends()
    raise AttributeError(f"module 'dgref.backends' has no attribute {name!r}")
