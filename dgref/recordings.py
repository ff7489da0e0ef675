"""Outputs of real GPUs, kept small beside the suites, so that any machine can judge them again.

suites/recorded/<machine>/<backend>.json   the machine, and for each case: arithmetic, provenance, input hash
suites/recorded/<machine>/<backend>.npz    the bits of every output, as unsigned integers

While a run goes on, parts/<backend>/<case>.npz holds both of one case, whole or not at all.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dgref.buffers import as_integers, buffers_of, format_name, sha256
from dgref.errors import FileError, counted, expected
from dgref.files import read_json, write_atomically
from dgref.formats import FORMATS
from dgref.suite import Case, folder

SCHEMA = "dgref.recording/1"
ENTRY = "entry.json"  # beside the outputs of a part: what the index will say of its case
UNREADABLE = (OSError, KeyError, ValueError, EOFError, RuntimeError, struct.error, BadZipFile, zlib.error)
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
        "case": case.name,
        "inputs": input_hash(case, attempt.inputs),
        "arithmetic": claim if isinstance(claim, str | None) else claim.to_dict(),
        "provenance": attempt.provenance,
        "outputs": {
            name: {"format": format_name(array), "dtype": str(array.dtype)} for name, array in attempt.outputs.items()
        },
    }
    _write_part(target, backend, entry, {name: as_integers(array) for name, array in attempt.outputs.items()})


def _write_part(target: Path, backend: str, entry: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    text = np.frombuffer(json.dumps({"backend": backend, "entry": entry}).encode(), np.uint8)
    write_atomically(_part(target, backend, entry["case"]), _archive({ENTRY: text, **arrays}))


def _part(target: Path, backend: str, case: str) -> Path:
    return target / "parts" / _file_name(backend) / f"{_file_name(case)}.npz"


def _file_name(name: str) -> str:
    return name.replace("/", "__")


def _archive(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _read_part(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what a part says and its outputs; reading all of it is what finds damage."""
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return json.loads(arrays.pop(ENTRY).tobytes()), arrays
    except UNREADABLE as error:
        raise FileError(expected(str(path), f"unreadable ({error})", "the outputs of one case")) from error


def is_damaged(target: Path, backend: str, case: str) -> bool:
    """Say whether the part of a case is there and cannot be read."""
    path = _part(target, backend, case)
    try:
        return path.exists() and not _read_part(path)
    except FileError:
        return True


def begin(target: Path, done: Collection[tuple[str, str]]) -> None:
    """Remove every part that is of none of these pairs of case and backend: what an earlier run left.

    What a run that is resumed has joined already is taken apart again, so that it is joined with what comes now.
    """
    kept = {_part(target, backend, case) for case, backend in done}
    try:
        for path in (target / "parts").glob("*/*"):
            if path not in kept:
                path.unlink()
    except OSError as error:
        need = "a folder that can be written"
        raise FileError(expected(str(target / "parts"), error.strerror or error, need)) from error
    for path in sorted(target.glob("*.json")) if done else ():
        _take_apart(Recording(path), target, done)


def _take_apart(recording: Recording, target: Path, done: Collection[tuple[str, str]]) -> None:
    backend = recording.index["backend"]
    for case, entry in recording.index["cases"].items():
        if (case, backend) in done and not _part(target, backend, case).exists():
            _write_part(target, backend, {"case": case, **entry}, recording.integers(case))


def pack(target: Path, machine: dict[str, Any], unwritten: Iterable[str] = (), finished: bool = True) -> list[Path]:
    """Join the parts of a run into one pair of files a backend, and remove them once the run is finished.

    What could not be written, as `unwritten` says, or cannot be read again is an error, raised once the rest is joined.
    """
    written, lost = [], list(unwritten)
    for parts in sorted((target / "parts").glob("*")):
        if rows := list(_whole(parts, lost)):
            written += _write(target / parts.name, rows, machine)
    if finished:
        shutil.rmtree(target / "parts", ignore_errors=True)
    if lost:
        got = f"no outputs of {counted(len(lost), 'case')} ({lost[0]})"
        raise FileError(expected(f"recording {target}", got, "those of every case: run them again"))
    return written


def _whole(parts: Path, lost: list[str]) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    for path in sorted(parts.glob("*.npz")):
        try:
            yield _read_part(path)
        except FileError as error:
            lost.append(str(error))


def _write(path: Path, rows: Iterable[tuple[dict[str, Any], dict[str, np.ndarray]]], machine: Any) -> list[Path]:
    """Write the pair of files of one backend; a failure leaves no index that speaks of other outputs."""
    index, arrays = {"schema": SCHEMA, "backend": "", "machine": machine, "cases": {}}, {}
    for part, outputs in rows:
        case = part["entry"].pop("case")
        index["backend"], index["cases"][case] = part["backend"], part["entry"]
        arrays |= {f"{_file_name(case)}/{name}": array for name, array in outputs.items()}
    stored = write_atomically(path.with_name(f"{path.name}.npz"), _archive(arrays))
    spoken = path.with_name(f"{path.name}.json")
    spoken.unlink(missing_ok=True)
    return [stored, write_atomically(spoken, json.dumps(index, indent=1))]


class Recording:
    """The outputs of one backend on one machine."""

    def __init__(self, path: Path):
        self.path = path
        self.index = _read_index(path)
        self.name = _name(path, self.index["backend"])

    def entry(self, case: Case) -> dict[str, Any] | None:
        """Return what was recorded of a case, or None."""
        return self.index["cases"].get(case.name)

    def outputs(self, case: Case) -> dict[str, np.ndarray]:
        """Return the recorded outputs as native arrays."""
        rows = self.index["cases"][case.name]["outputs"]
        with self._reading(case.name):
            return {name: _native(array, rows[name]) for name, array in self.integers(case.name).items()}

    def integers(self, case: str) -> dict[str, np.ndarray]:
        """Return the bits of the recorded outputs of the case of this name."""
        names, stored = self.index["cases"][case]["outputs"], self.path.with_suffix(".npz")
        with (
            self._reading(case),
            stored.open("rb") as file,
            np.load(file) as arrays,
        ):  # no archive: to be closed as well
            return {name: arrays[f"{_file_name(case)}/{name}"] for name in names}

    @contextmanager
    def _reading(self, case: str) -> Iterator[None]:
        try:
            yield
        except FileError:
            raise
        except UNREADABLE as error:
            stored = self.path.with_suffix(".npz")
            raise FileError(expected(str(stored), f"unreadable ({error})", f"the outputs of {case}")) from error


def _name(path: Path, backend: str) -> str:
    return f"recorded/{path.parent.name}/{backend}"


def presumed_name(path: Path) -> str:
    """Return what a recording would be called whose index cannot be read."""
    return _name(path, path.stem.replace("__", "/"))


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


def indices(root: Path | None = None) -> list[Path]:
    """Return the index of every recording under a folder, by default of those that ship with dgref."""
    return sorted((root or recorded_folder()).glob("*/*.json"))


def recordings(root: Path | None = None) -> list[Recording]:
    """Return every recording under a folder, by default those that ship with dgref."""
    return [Recording(path) for path in indices(root)]
