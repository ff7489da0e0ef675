"""The contract between the runner and whoever computes a case.

A backend is one file in this folder that holds `BACKENDS = [...]`, or an entry point `dgref.backends` of another
package that names such a list. There is no fallback and no silent cast: a backend that cannot do a case says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dgref.errors import UnavailableError
from dgref.guards import GuardedOutputs

if TYPE_CHECKING:
    from dgref.arch import Architecture
    from dgref.reference.arithmetic import Arithmetic
    from dgref.suite import Case

Inputs = Mapping[str, Any]  # operand name -> ScaledTensor, or an integer array for index operands
Outputs = dict[str, Any]  # output name -> native array (NumPy or torch); its dtype says the format


@runtime_checkable
class Kernel(Protocol):
    """A case made ready: calling it launches the work and nothing else, so that it can be timed.

    A kernel may say `poisonable = False` (it owns no buffer) and `repeatable = False` (it replays stored outputs). Its
    `guarded`, where it has one, are the outputs between guard bytes that its `poison` fills.
    """

    def __call__(self) -> None: ...

    def outputs(self) -> Outputs: ...

    def poison(self, pattern: int) -> None:
        """Fill outputs, padding and workspace with a byte; the results must not depend on it."""


class Backend(Protocol):
    """Something that computes cases."""

    name: str

    def unavailable(self) -> str | None:
        """Return None when usable here, else the reason, as a sentence a person can act on."""

    def unsupported(self, case: Case, architecture: Architecture | None) -> str | None:
        """Return None when this case can be computed, else why not ("needs sm_100a, this is sm_90")."""

    def arithmetic(self, case: Case, architecture: Architecture | None) -> Arithmetic | str | None:
        """Return what it claims to compute, bit for bit: `"exact"`, an arithmetic or its name; None where unknown."""

    def limit_arithmetic(self, case: Case, architecture: Architecture | None) -> Arithmetic:
        """Return the arithmetic whose accumulator bounds it where it declares none; see `BackendBase`."""

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        """Lay the inputs out, compile, allocate; may raise."""

    def provenance(self) -> dict[str, Any]:
        """Return versions, commit, flags and what really ran."""


class BackendBase:
    """Defaults that most backends share; not required by the contract."""

    name = ""
    device = "cpu"

    def unavailable(self) -> str | None:
        return None

    def unsupported(self, case: Case, architecture: Architecture | None) -> str | None:
        return None

    def arithmetic(self, case: Case, architecture: Architecture | None) -> Arithmetic | str | None:
        return None

    def limit_arithmetic(self, case: Case, architecture: Architecture | None) -> Arithmetic:
        """Return the arithmetic whose accumulator bounds this backend where it declares none."""
        from dgref.ops.typical import limit_arithmetic, operands_of

        narrow = self.device == "cuda" and architecture is not None and architecture.narrow_fp8
        return limit_arithmetic(case.op, operands_of(case), narrow)

    def provenance(self) -> dict[str, Any]:
        return {}


class UnusableBackend(BackendBase):
    """A backend that could not be made: it is listed as unavailable, with the reason, and stops no other."""

    def __init__(self, name: str, reason: str):
        self.name = name
        self._reason = reason

    def unavailable(self) -> str | None:
        return self._reason

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        raise UnavailableError(self._reason)


class FunctionKernel:
    """A kernel made of a function that returns fresh outputs, such as a CPU library call: nothing to poison."""

    poisonable = False

    def __init__(self, function: Any):
        self._function = function
        self._outputs: Outputs = {}

    def __call__(self) -> None:
        self._outputs = self._function()

    def outputs(self) -> Outputs:
        return self._outputs

    def poison(self, pattern: int) -> None:
        self._outputs = {}


class StoredKernel(FunctionKernel):
    """Outputs that were computed elsewhere: launching again would show nothing."""

    repeatable = False

    def __init__(self, outputs: Outputs):
        super().__init__(lambda: outputs)


class BufferKernel:
    """A kernel that writes into buffers it owns: a launch, its named outputs, and scratch that must not matter.

    Outputs made by `guarded_outputs` are watched: a write outside of them fails the case.
    """

    def __init__(self, launch: Any, outputs: Mapping[str, Any], scratch: Sequence[Any] = ()):
        self._launch = launch
        self._outputs = outputs
        self._scratch = list(scratch)
        self.guarded = outputs if isinstance(outputs, GuardedOutputs) else None

    def __call__(self) -> None:
        self._launch()

    def outputs(self) -> Outputs:
        return dict(self._outputs)

    def poison(self, pattern: int) -> None:
        if self.guarded:
            self.guarded.fill(pattern)
        for buffer in [*(() if self.guarded else self._outputs.values()), *self._scratch]:
            fill_bytes(buffer, pattern)


def fill_bytes(buffer: Any, pattern: int) -> None:
    """Set every byte of a contiguous NumPy array or torch tensor."""
    import numpy as np

    if isinstance(buffer, np.ndarray):
        buffer.view(np.uint8).fill(pattern)
        return
    import torch

    buffer.view(torch.uint8).fill_(pattern)
