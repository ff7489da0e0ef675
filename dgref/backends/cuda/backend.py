"""dgref's own kernels as backends: the architecture picks the module, the op picks the row.

`cuda` configures itself for speed; `cuda/batch_invariant` never lets a row's bits depend on M. Both declare every bit.
"""

from __future__ import annotations

from dataclasses import astuple
from functools import cache
from importlib import import_module
from typing import Any

from dgref.arch import Architecture
from dgref.backends.base import BackendBase, Inputs, Kernel
from dgref.backends.cuda.case_kernel import CaseKernel
from dgref.backends.cuda.launch import LATEST
from dgref.reference.arithmetic import Arithmetic
from dgref.suite import Case

# Where cases are: each module holds CASES, op name -> CaseKernel.
COMMON = "dgref.backends.cuda.common_cases"
MODULES = {"sm90": "dgref.backends.cuda.sm90.cases"}


@cache
def cases_of(architecture: str) -> dict[str, CaseKernel]:
    """Return the ops that an architecture's kernels compute; empty where there are none."""
    if architecture not in MODULES:
        return {}
    return {**import_module(COMMON).CASES, **import_module(MODULES[architecture]).CASES}


class CudaBackend(BackendBase):
    """Kernels of dgref's own, compiled on first use."""

    device = "cuda"

    def __init__(self, name: str, batch_invariant: bool):
        self.name = name
        self._invariant = batch_invariant
        self._prepared: Case | None = None

    def unavailable(self) -> str | None:
        import torch

        return None if torch.cuda.is_available() else "needs a CUDA device; torch sees none"

    def unsupported(self, case: Case, architecture: Architecture | None) -> str | None:
        if architecture is None or architecture.name not in MODULES:
            here = architecture.name if architecture else "unknown"
            return f"there are kernels for {', '.join(MODULES)}; this is {here}"
        row = cases_of(architecture.name).get(case.op)
        return row.refuses(case) if row else f"no kernel of {architecture.name} computes {case.op} yet"

    def arithmetic(self, case: Case, architecture: Architecture | None) -> Arithmetic | str | None:
        return cases_of(architecture.name)[case.op].arithmetic(case, self._invariant)

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        from dgref import machine

        LATEST.plan, self._prepared = None, case
        return cases_of(machine.architecture().name)[case.op].prepare(case, inputs, self._invariant)

    def provenance(self) -> dict[str, Any]:
        """Return what compiled and ran: pairs that must agree, read from the binary that was loaded."""
        from dgref import machine
        from dgref.backends.cuda.compiler import chosen_compiler

        found = {"compiler": chosen_compiler().identity, "architecture": machine.architecture().target}
        plan, case = LATEST.plan, self._prepared
        if plan is None or case is None:
            return found  # nothing was launched
        found |= plan.kernel.provenance
        shape = cases_of(machine.architecture().name)[case.op].shape
        if shape and hasattr(plan, "configuration"):
            found |= {"problem_key": _key(shape(case, self._invariant)), "tuned_key": _key(plan.configuration.shape)}
        return found


def _key(shape: Any) -> str:
    return " ".join(map(str, astuple(shape)))


BACKENDS = [CudaBackend("cuda", False), CudaBackend("cuda/batch_invariant", True)]
