"""Which kernels serve calls on CUDA tensors: imported on the first such call, for the GPU that is there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from inspect import unwrap
from typing import Any

from dgref.deep_gemm.settings import device_architecture
from dgref.errors import UnsupportedError, expected


@dataclass(frozen=True)
class Kernels:
    """The launches of one architecture."""

    fp8_gemm: Any
    bf16_gemm: Any
    contiguous: Any
    masked: Any
    k_grouped: Any


@cache
def kernels() -> Kernels:
    """Return the kernels for the GPU here."""
    if device_architecture() != "sm90":
        need = "sm90, or tensors on the CPU: there are no kernels for another GPU yet"
        raise UnsupportedError(expected("CUDA tensors", f"a GPU of {device_architecture()}", need))
    from dgref.backends.cuda.sm90 import gemm, grouped

    rows = (grouped.gemm_grouped_contiguous, grouped.gemm_grouped_masked)
    launches = (gemm.fp8_gemm, gemm.bf16_gemm, *rows, grouped.gemm_grouped_k)
    return Kernels(*map(unwrap, launches))  # the drop-in's own functions explain errors
