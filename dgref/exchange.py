"""Cases as files, for kernels that Python cannot import: inputs out, outputs in, judged like any backend's.

DIR/manifest.json              the suite, every case, every buffer with its meaning and hash
DIR/<case>.inputs.safetensors  raw bits of the inputs; unsigned integers, so that any reader can load them
DIR/<case>.outputs.safetensors what the program under test writes: one array for each output the manifest names
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dgref.backends.base import BackendBase, FunctionKernel, Inputs, Kernel
from dgref.buffers import Buffer, buffers_of, sha256
from dgref.errors import FileError, UnsupportedError, expected
from dgref.files import write_atomically
from dgref.formats import FORMATS
from dgref.ops import OPS
from dgref.results import Results
from dgref.suite import Case, Suite

SCHEMA = "dgref.exchange/1"
MANIFEST = "manifest.json"


def export(suite: Suite, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the inputs of every case of a suite, and the manifest last, so that a half-written folder has none."""
    cases = []
    for number, case in enumerate(suite.cases, 1):
        cases.append(_export_case(case, folder))
        if progress:
            progress(number, len(suite.cases))
    manifest = {"schema": SCHEMA, "suite": suite.name, "description": suite.description, "cases": cases}
    return write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))


def _export_case(case: Case, folder: Path) -> dict[str, Any]:
    op = OPS[case.op]
    buffers = buffers_of(case, case.make_inputs())
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", case.id)
    write_arrays(folder / f"{stem}.inputs.safetensors", {name: raw(part) for name, part in buffers.items()})
    outputs = {
        name: {
            "format": format_name(array),
            "shape": list(array.shape),
            "stored": {"dtype": str(unsigned(array).dtype)},
        }
        for name, array in op.allocate(case).items()
    }
    return {
        "case": case.to_dict(),
        "equation": op.equation,
        "inputs_file": f"{stem}.inputs.safetensors",
        "inputs": {name: part.describe() for name, part in buffers.items()},
        "outputs_file": f"{stem}.outputs.safetensors",
        "outputs": outputs,
    }


def raw(part: Buffer) -> np.ndarray:
    """Return a buffer's bits in a dtype that every safetensors reader knows."""
    array = np.ascontiguousarray(part.array)
    return array if array.dtype.kind in "iu" or array.dtype == np.float32 else unsigned(array)


def unsigned(array: np.ndarray) -> np.ndarray:
    """Return a native float array as unsigned integers; integers stay as they are."""
    return array if array.dtype.kind in "iu" else array.view(np.dtype(f"u{array.dtype.itemsize}"))


def format_name(array: np.ndarray) -> str:
    """Return the format of a native array, or the dtype of an integer one."""
    from dgref.formats import format_of

    return str(array.dtype) if array.dtype.kind in "iu" else format_of(array).name


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file whole or not at all."""
    from safetensors.numpy import save_file

    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
        temporary.replace(path)
    except OSError as error:
        raise FileError(expected(str(path), error.strerror or error, "a path that can be written")) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file; missing, truncated or foreign files are named errors."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise FileError(expected(str(path), "no such file", "a safetensors file"))
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            expected(str(path), f"unreadable ({error})", "a whole safetensors file of integer or float32 arrays")
        ) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an exported folder."""
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(expected(str(path), error.strerror, "the manifest that `dgref export` writes")) from error
    except ValueError as error:
        raise FileError(
            expected(str(path), f"invalid JSON ({error})", "the manifest as `dgref export` wrote it")
        ) from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("cases"), list):
        raise FileError(expected(str(path), "another file", f"a manifest of schema {SCHEMA}"))
    return data


class FolderBackend(BackendBase):
    """Whatever program wrote outputs into an exported folder."""

    def __init__(self, folder: Path, name: str = ""):
        self.name = name or f"files/{folder.name}"
        self._folder = folder
        self._entries = {Case.from_dict(row["case"]).name: row for row in read_manifest(folder)["cases"]}

    def cases(self) -> list[Case]:
        """Return the exported cases."""
        return [Case.from_dict(row["case"]) for row in self._entries.values()]

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        """Check that the inputs on disk are those that were exported, then read the outputs."""
        entry = self._entries[case.name]
        self._check_inputs(entry, case, inputs)
        path = self._folder / entry["outputs_file"]
        if not path.exists():
            raise UnsupportedError(
                expected(entry["outputs_file"], "no such file", "the outputs of the program under test")
            )
        arrays = read_arrays(path)
        outputs = {name: _output(arrays, name, row, path) for name, row in entry["outputs"].items()}
        return FunctionKernel(lambda: outputs)

    def _check_inputs(self, entry: Mapping[str, Any], case: Case, inputs: Inputs) -> None:
        path = self._folder / entry["inputs_file"]
        stored = read_arrays(path)
        for name, part in buffers_of(case, inputs).items():
            if name not in stored:
                raise FileError(expected(f"{path.name} array {name!r}", "nothing", "the array that was exported"))
            if sha256(stored[name]) != sha256(raw(part)) or entry["inputs"].get(name, {}).get("sha256") != sha256(
                part.array
            ):
                raise FileError(
                    expected(
                        f"{path.name} array {name!r}",
                        "other bits",
                        "those that the case generates: it was changed after export",
                    )
                )

    def provenance(self) -> dict[str, Any]:
        """Return where the files are from."""
        return {"folder": self._folder.name}


def _output(arrays: Mapping[str, np.ndarray], name: str, row: Mapping[str, Any], path: Path) -> np.ndarray:
    if name not in arrays:
        raise FileError(
            expected(f"{path.name} array {name!r}", f"only {sorted(arrays)}", f"an array of shape {row['shape']}")
        )
    array, shape = arrays[name], tuple(row["shape"])
    width = np.dtype(row["stored"]["dtype"]).itemsize
    if array.dtype.itemsize != width or array.shape != shape:
        need = f"{shape} of {row['format']} as {row['stored']['dtype']}"
        raise FileError(expected(f"{path.name} array {name!r}", f"{array.shape} of {array.dtype}", need))
    if row["format"] not in FORMATS:
        return array
    return np.ascontiguousarray(array).view(FORMATS[row["format"]].native_dtype)


def verify(folder: Path, settings: Any, progress: Any = None) -> Results:
    """Judge the outputs that a program wrote beside exported inputs."""
    from dataclasses import asdict

    from dgref import machine
    from dgref.trial import trial

    backend = FolderBackend(folder)
    results = Results(machine=machine.describe(), flags={"folder": str(folder), "settings": asdict(settings)})
    cases = backend.cases()
    for number, case in enumerate(cases, 1):
        result = trial(case, backend, settings)
        result.reproduce = f"dgref verify {folder}"
        results.results.append(result)
        if progress:
            progress(number, len(cases), result)
    return results
