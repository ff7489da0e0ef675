"""Cases as files, for kernels that Python cannot import: inputs out, outputs in, judged like any backend's.

DIR/manifest.json              the suite, every case, every buffer with its meaning and hash
DIR/<case>.inputs.safetensors  raw bits of the inputs; unsigned integers, so that any reader can load them
DIR/<case>.outputs.safetensors what the program under test writes: one array for each output the manifest names
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from dgref.backends.base import BackendBase, Inputs, Kernel, StoredKernel
from dgref.buffers import Buffer, as_integers, buffers_of, format_name, sha256
from dgref.errors import DgrefError, FileError, UnavailableError, expected
from dgref.files import read_json, write_atomically
from dgref.ops import OPS
from dgref.ops.typical import limit_arithmetic, may_be_narrow, operands_of
from dgref.results import Result, Results
from dgref.suite import Case, Suite, chosen

SCHEMA = "dgref.exchange/1"
MANIFEST = "manifest.json"


def export(suite: Suite, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the inputs of every case of a suite, and the manifest last, so that a half-written folder has none."""
    cases = []
    for number, case in enumerate(suite.cases, 1):
        cases.append(_export_case(case, folder, f"{number:04d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', case.id)}"))
        if progress:
            progress(number, len(suite.cases))
    manifest = {"schema": SCHEMA, "suite": suite.name, "description": suite.description, "cases": cases}
    return write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))


def _export_case(case: Case, folder: Path, stem: str) -> dict[str, Any]:
    op = OPS[case.op]
    buffers = buffers_of(case, case.make_inputs())
    write_arrays(folder / f"{stem}.inputs.safetensors", {name: raw(part) for name, part in buffers.items()})
    outputs = {
        name: {
            "format": format_name(array),
            "shape": list(array.shape),
            "stored": {"dtype": str(as_integers(array).dtype)},
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
    return array if array.dtype.kind in "iu" or array.dtype == np.float32 else as_integers(array)


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


def read_arrays(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Return (stored type, raw bits) of every array of a safetensors file; unusable files are named errors."""
    from safetensors import SafetensorError, deserialize

    if not path.is_file():
        raise FileError(expected(str(path), "no such file", "a safetensors file"))
    try:
        return {name: (row["dtype"], _bits(row)) for name, row in deserialize(path.read_bytes())}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(expected(str(path), f"unreadable ({error})", "a whole safetensors file")) from error


def _bits(row: Mapping[str, Any]) -> np.ndarray:
    shape, data = row["shape"], bytes(row["data"])
    width = len(data) // int(np.prod(shape, dtype=np.int64)) if data else _width(row["dtype"])
    kind = "i" if row["dtype"].startswith("I") else "u"
    return np.frombuffer(data, np.dtype(f"{kind}{width}")).reshape(shape)


def _width(stored: str) -> int:
    """Return the bytes of one element of a type such as BF16 or F8_E4M3; of no elements, nothing else says it."""
    digits = re.search(r"\d+", stored)
    return max(int(digits[0]) // 8, 1) if digits else 1


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of an exported folder."""
    path = folder / MANIFEST
    data = read_json(path, "the manifest that `dgref export` writes")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("cases"), list):
        raise FileError(expected(str(path), "another file", f"a manifest of schema {SCHEMA}"))
    for number, row in enumerate(data["cases"], 1):
        _check_entry(row, f"{path} case #{number}")
    return data


def _check_entry(row: Any, subject: str) -> None:
    need = {"case": dict, "inputs_file": str, "inputs": dict, "outputs_file": str, "outputs": dict}
    if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in need.items()):
        raise FileError(expected(subject, "other fields", f"{', '.join(need)}, as `dgref export` wrote them"))
    for key in ("inputs_file", "outputs_file"):
        if Path(row[key]).name != row[key]:
            raise FileError(expected(f"{subject} field {key!r}", repr(row[key]), "a file's name without a folder"))


class FolderBackend(BackendBase):
    """Whatever program wrote outputs into an exported folder; `arithmetic` is what the program claims to compute.

    `architecture` is where it ran, `cpu` or a GPU's: that decides what bounds it where it claims nothing.
    """

    def __init__(self, folder: Path, arithmetic: str | None = None, architecture: str | None = None):
        self.name = f"files/{folder.resolve().name}"
        self._folder = folder
        self._arithmetic, self._narrow = arithmetic, may_be_narrow(architecture)
        self._entries: dict[str, dict[str, Any]] = {}
        for row in read_manifest(folder)["cases"]:
            name = _case_of(row, folder).name
            if name in self._entries:
                raise FileError(expected(f"{folder / MANIFEST} case {name!r}", "two entries", "one, as exported"))
            self._entries[name] = row

    def cases(self) -> list[Case]:
        """Return the exported cases."""
        return [Case.from_dict(row["case"]) for row in self._entries.values()]

    def outputs_file(self, case: Case) -> Path:
        """Return where the program under test writes a case's outputs."""
        return self._folder / self._entries[case.name]["outputs_file"]

    def arithmetic(self, case: Case, architecture: Any) -> str | None:
        return self._arithmetic

    def limit_arithmetic(self, case: Case, architecture: Any) -> Any:
        """Return what bounds the program: where nobody says where it ran, a narrow accumulator is not excluded."""
        return limit_arithmetic(case.op, operands_of(case), self._narrow)

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        """Check that the inputs on disk are those that were exported, then read the outputs."""
        entry = self._entries[case.name]
        self._check_inputs(entry, case, inputs)
        path = self.outputs_file(case)
        arrays = read_arrays(path)
        wanted = OPS[case.op].allocate(case)
        return StoredKernel({name: _output(arrays, name, like, path) for name, like in wanted.items()})

    def _check_inputs(self, entry: Mapping[str, Any], case: Case, inputs: Inputs) -> None:
        path = self._folder / entry["inputs_file"]
        stored = read_arrays(path)
        for name, part in buffers_of(case, inputs).items():
            subject = f"{path.name} array {name!r}"
            if name not in stored:
                raise FileError(expected(subject, "nothing", "the array that was exported"))
            if sha256(stored[name][1]) != sha256(raw(part)):
                raise FileError(expected(subject, "other bits", "those that the case generates: changed after export"))

    def provenance(self) -> dict[str, Any]:
        """Return where the files are from."""
        return {"folder": self._folder.name}


def _case_of(row: Mapping[str, Any], folder: Path) -> Case:
    try:
        return Case.from_dict(row["case"])
    except (DgrefError, KeyError, TypeError, AttributeError) as error:
        raise FileError(expected(str(folder / MANIFEST), f"an unusable case ({error})", "cases as exported")) from error


# safetensors' names of types, for programs that store outputs under their own type in place of unsigned integers
_STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


def _output(arrays: Mapping[str, Any], name: str, like: np.ndarray, path: Path) -> np.ndarray:
    subject, need = f"{path.name} array {name!r}", f"{like.shape} of {format_name(like)} or {as_integers(like).dtype}"
    if name not in arrays:
        raise FileError(expected(subject, f"only {sorted(arrays)}", need))
    stored, array = arrays[name]
    foreign = _STORED.get(stored, format_name(like)) != format_name(like)
    if foreign or array.dtype.itemsize != like.dtype.itemsize or array.shape != like.shape:
        raise FileError(expected(subject, f"{array.shape} of {stored}", need))
    return array.view(like.dtype)


def verify(
    folder: Path,
    settings: Any,
    arithmetic: str | None = None,
    ids: Collection[str] = (),
    progress: Any = None,
    architecture: str | None = None,
) -> Results:
    """Judge the outputs that a program wrote beside exported inputs; where it wrote none at all, say so."""
    from dgref import machine

    backend = FolderBackend(folder, arithmetic, architecture)
    if not any(backend.outputs_file(case).exists() for case in backend.cases()):
        raise UnavailableError(expected(str(folder), "no outputs", "the files that the manifest names `outputs_file`"))
    results = Results(machine=machine.describe(), flags={"folder": folder.name, "settings": asdict(settings)})
    cases = chosen(backend.cases(), ids)
    for number, case in enumerate(cases, 1):
        result = _judged(case, backend, settings)
        where = f" --architecture {architecture}" if architecture else ""
        result.reproduce = f"dgref verify {shlex.quote(str(folder))} --case {shlex.quote(case.id)}{where}"
        results.results.append(result)
        if progress:
            progress(number, len(cases), result)
    return results


def _judged(case: Case, backend: FolderBackend, settings: Any) -> Result:
    from dgref.trial import blank, trial

    path = backend.outputs_file(case)
    if path.exists():
        return trial(case, backend, settings)
    reason = expected(path.name, "no such file", "the outputs of this case")
    return replace(blank(case, backend.name, settings), status="missing", reason=reason)
