"""Recorded outputs of real GPUs as backends: one for each machine and library, replayed on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dgref.arch import ARCHITECTURES, Architecture
from dgref.backends.base import BackendBase, Inputs, Kernel, StoredKernel, UnusableBackend
from dgref.errors import FileError, expected
from dgref.ops.typical import limit_arithmetic, operands_of
from dgref.recordings import Recording, indices, input_hash, presumed_name
from dgref.reference.arithmetic import Arithmetic
from dgref.suite import Case


class RecordedBackend(BackendBase):
    """What one library once computed on one machine."""

    def __init__(self, recording: Recording):
        self.name = recording.name
        self._recording = recording

    def unsupported(self, case: Case, architecture: Architecture | None) -> str | None:
        return None if self._recording.entry(case) else "not among the recorded cases"

    def arithmetic(self, case: Case, architecture: Architecture | None) -> Arithmetic | str | None:
        claim = self._recording.entry(case)["arithmetic"]
        return Arithmetic.from_dict(claim) if isinstance(claim, dict) else claim

    def limit_arithmetic(self, case: Case, architecture: Architecture | None) -> Arithmetic:
        """Return the arithmetic that bounds an undeclared one on the machine of the recording, not on this one."""
        there = self._recording.index["machine"].get("architecture")
        return limit_arithmetic(case.op, operands_of(case), there in ARCHITECTURES and ARCHITECTURES[there].narrow_fp8)

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        if input_hash(case, inputs) != self._recording.entry(case)["inputs"]:
            need = "the inputs that were recorded: the case or a generator has changed since"
            raise FileError(expected(f"inputs of {case.name}", "other bits", need))
        return StoredKernel(self._recording.outputs(case))

    def provenance(self) -> dict[str, Any]:
        return {"recorded on": self._recording.index["machine"]}


def _backend(path: Path) -> BackendBase:
    """Return the backend of a recording; one whose index is damaged is unavailable."""
    try:
        return RecordedBackend(Recording(path))
    except FileError as error:
        return UnusableBackend(presumed_name(path), str(error))


BACKENDS = [_backend(path) for path in indices()]
