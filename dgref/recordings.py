"""Outputs of real GPUs, kept small beside the suites, so that any machine can judge them again.

suites/recorded/<machine>/<backend>.json   the machine, and for each case: arithmetic, provenance, input hash
suites/recorded/<machine>/<backend>.npz    the bits of every output, as unsigned integers
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dgref.buffers import as_integers, buffers_of, format_name, sha256
from dgref.errors import FileError, expected
from dgref.files import read_json, write_atomically
from dgref.formats import FORMATS
from dgref.suite import Case, folder

SCHEMA = "dgref.recording/1"
LARGEST_BYTES = 1 << 19  # outputs above this are not worth their place in a repository


def recorded_folder() -> Path:
    """Return the folder of the recordings that ship with dgref."""
    return folder() / "recorded"


def input_hash(case: Case, inputs: Any) -> str:
    """Return one hash over every buffer of a case's inputs: a recording is of these bits and no others."""
    parts = [f"{name}:{sha256(part.array)}" for name, part in sorted(buffers_of(case, inputs).items())]
    return sha256(np.frombuffer("\n".join(parts).encode(), np.uint8))


def save_part(target: Path, backend: str, attempt: Any) -> None:
    """Write the outputs of one attempt of `trial`; `pack` later joins the parts of a run."""
    if sum(array.nbytes for array in attempt.outputs.values()) > LARGEST_BYTES:
        return
    case, claim = attempt.case, attempt.claim
    entry = {
        "backend": backend,
        "case": case.name,
        "inputs": input_hash(case, attempt.inputs),
        "arithmetic": claim if isinstance(claim, str | None) else claim.to_dict(),
        "provenance": attempt.provenance,
        "outputs": {
            name: {"format": format_name(array), "dtype": str(array.dtype)} for name, array in attempt.outputs.items()
        },
    }
    path = target / "parts" / _file_name(backend) / _file_name(case.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(f"{path}.npz", **{name: as_integers(array) for name, array in attempt.outputs.items()})
    write_atomically(path.with_name(f"{path.name}.json"), json.dumps(entry))


def _file_name(name: str) -> str:
    return name.replace("/", "__")


def pack(target: Path, machine: dict[str, Any]) -> list[Path]:
    """Join the parts of a run into one pair of files a backend, and remove them."""
    import shutil

    written = []
    for parts in sorted((target / "parts").glob("*")):
        entries = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(parts.glob("*.json"))]
        arrays = {}
        for path in sorted(parts.glob("*.npz")):
            with np.load(path) as stored:
                arrays.update({f"{path.stem}/{name}": stored[name] for name in stored.files})
        np.savez_compressed(target / f"{parts.name}.npz", **arrays)
        index = {"schema": SCHEMA, "backend": entries[0]["backend"], "machine": machine}
        index["cases"] = {entry.pop("case"): {k: v for k, v in entry.items() if k != "backend"} for entry in entries}
        written.append(write_atomically(target / f"{parts.name}.json", json.dumps(index, indent=1)))
    shutil.rmtree(target / "parts", ignore_errors=True)
    return written


class Recording:
    """The outputs of one backend on one machine."""

    def __init__(self, path: Path):
        self.path = path
        self.index = _read_index(path)
        self.name = f"recorded/{path.parent.name}/{self.index['backend']}"

    def entry(self, case: Case) -> dict[str, Any] | None:
        """Return what was recorded of a case, or None."""
        return self.index["cases"].get(case.name)

    def outputs(self, case: Case) -> dict[str, np.ndarray]:
        """Return the recorded outputs as native arrays."""
        entry, stored = self.index["cases"][case.name], self.path.with_suffix(".npz")
        try:
            with stored.open("rb") as file, np.load(file) as arrays:  # a file that is no archive must be closed too
                return {
                    name: _native(arrays[f"{_file_name(case.name)}/{name}"], row)
                    for name, row in entry["outputs"].items()
                }
        except (OSError, KeyError, ValueError, BadZipFile) as error:
            raise FileError(expected(str(stored), f"unreadable ({error})", f"the outputs of {case.name}")) from error


def _native(bits: np.ndarray, row: dict[str, Any]) -> np.ndarray:
    if row["dtype"] == str(bits.dtype):
        return bits
    return bits.view(FORMATS[row["format"]].native_dtype)


def _read_index(path: Path) -> dict[str, Any]:
    index = read_json(path, "a recording's index")
    if not isinstance(index, dict) or index.get("schema") != SCHEMA:
        raise FileError(expected(str(path), "another file", f"a recording of schema {SCHEMA}"))
    if not isinstance(index.get("backend"), str) or not isinstance(index.get("cases"), dict):
        raise FileError(expected(str(path), "an index without backend or cases", "a recording as --record writes it"))
    return index


def recordings(root: Path | None = None) -> list[Recording]:
    """Return every recording under a folder, by default those that ship with dgref."""
    return [Recording(path) for path in sorted((root or recorded_folder()).glob("*/*.json"))]
