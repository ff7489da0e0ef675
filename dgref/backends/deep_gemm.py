"""An installed DeepGEMM as a backend: its kernels, fed the bytes they read, under the arithmetic they are known for.

Any module with DeepGEMM's surface will do: `dgref.deep_gemm` on the CPU is one, which is how the adapter is tested.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from dgref.arch import Architecture
from dgref.backends.base import BackendBase, Inputs, Kernel
from dgref.backends.deep_gemm_cases import limits, others, products, scales
from dgref.backends.deep_gemm_cases.call import Call
from dgref.reference.arithmetic import Arithmetic
from dgref.suite import Case

SHIPPED = ("sm90", "sm100")
OPERATIONS = {**products.OPERATIONS, **others.OPERATIONS, **scales.OPERATIONS}
_IN_GROUPS = (
    "DeepGEMM's Mega MoE runs in a process group: run it in a program of yours and judge files with dgref verify"
)
NOT_SERVED = dict.fromkeys(("mega_moe", "mega_moe_transform_weights"), _IN_GROUPS)


class DeepGemmBackend(BackendBase):
    """DeepGEMM's kernels for the architecture that is here."""

    name = "deep_gemm"
    device = "cuda"

    def __init__(self, library: ModuleType | None = None, device: str = "cuda", architecture: str | None = None):
        self._given = library
        self.device = device
        self._architecture = architecture

    @property
    def library(self) -> ModuleType:
        """The module that computes; imported on first use."""
        if self._given is None:
            import deep_gemm

            self._given = deep_gemm
        return self._given

    @property
    def architecture_name(self) -> str:
        """The architecture whose layouts the operands get."""
        if self._architecture is None:
            from dgref import machine

            self._architecture = machine.architecture().name
        return self._architecture

    def unavailable(self) -> str | None:
        if self._given is not None:
            return None
        import torch

        if find_spec("deep_gemm") is None:
            return "deep_gemm is not installed: build it from github.com/deepseek-ai/DeepGEMM (sm_90a or sm_100a)"
        return None if torch.cuda.is_available() else "deep_gemm needs a CUDA device; torch sees none"

    def unsupported(self, case: Case, architecture: Architecture | None) -> str | None:
        here = architecture.name if architecture else "unknown"
        if here not in SHIPPED:
            return f"DeepGEMM ships sm_90a and sm_100a kernels: this is {here}"
        if case.op not in OPERATIONS:
            return NOT_SERVED.get(case.op, f"DeepGEMM has no {case.op}")
        refusal = OPERATIONS[case.op].refuses(case, here)
        if refusal is None and self.device == "cuda":
            return limits.refuses(case, here)
        return refusal

    def arithmetic(self, case: Case, architecture: Architecture | None) -> Arithmetic | str | None:
        family = OPERATIONS[case.op].family(case)
        return family if family in (None, "exact") else f"deep_gemm.{_preset(family, architecture.name)}"

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        return OPERATIONS[case.op].prepare(Call(self, case, inputs))

    def provenance(self) -> dict[str, Any]:
        found = {"version": getattr(self.library, "__version__", "unknown"), "module": self.library.__name__}
        with suppress(PackageNotFoundError):
            found["distribution"] = version("deep_gemm")  # "+abc1234" names the commit it was built from
        return found


def _preset(family: str, architecture: str) -> str:
    """Return the row of ARITHMETICS for a kernel family: Blackwell has one for every FP8 scaling."""
    return f"{architecture}.{'fp8_1d1d' if architecture == 'sm100' and family == 'fp8_1d2d' else family}"


BACKENDS = [DeepGemmBackend()]
