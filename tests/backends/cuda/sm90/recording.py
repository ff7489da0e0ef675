"""A GPU's driver that notes what it is told to launch, so that whole calls can be followed on CPU tensors."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dgref.backends.cuda import driver as cuda_driver
from dgref.backends.cuda import jit, scale_layouts, tensor_map
from dgref.backends.cuda import launch as plans
from dgref.backends.cuda.sm90 import launch, rearrange, workspace

CPU = -1  # where torch says that a tensor on the CPU lies


class Names:
    """An enumeration whose members are their own names."""

    def __getattr__(self, name: str) -> str:
        return name


class Config(SimpleNamespace):
    """A launch's geometry, at an address."""

    def getPtr(self) -> int:
        return id(self)


class Driver:
    """What of `cuda.bindings.driver` a launch uses; a tensor map is its address and a checksum of the rest."""

    cuuint32_t = cuuint64_t = CUstream = CUresult = int
    CUlaunchConfig = Config
    CUtensorMapDataType = CUtensorMapInterleave = CUtensorMapSwizzle = CUtensorMapL2promotion = Names()
    CUtensorMapFloatOOBfill = CUlaunchAttributeID = Names()

    def __init__(self) -> None:
        self.launches: list[tuple] = []
        self.functions: list[tuple[str, list[int]]] = []
        self.launch_refusal = 0

    def cuCtxGetCurrent(self) -> tuple:
        return 0, 1

    def CUlaunchAttribute(self) -> Any:
        return SimpleNamespace(value=SimpleNamespace(clusterDim=SimpleNamespace()))

    def cuTensorMapEncodeTiled(self, dtype: str, rank: int, pointer: int, *geometry: Any) -> tuple:
        checksum = zlib.crc32(repr((dtype, rank, geometry)).encode())
        return 0, SimpleNamespace(opaque=[pointer, checksum, *[0] * 14])

    def launch(self, config: int, function: int, pointers: int, extra: None) -> int:
        name, sizes = self.functions[function]
        geometry = ctypes.cast(config, ctypes.py_object).value
        places = (ctypes.c_void_p * len(sizes)).from_address(pointers)
        arguments = [ctypes.string_at(place, size) for place, size in zip(places, sizes, strict=True)]
        self.launches.append((name, geometry.gridDimX, geometry.hStream, *arguments))
        return self.launch_refusal

    def cuGetErrorString(self, status: int) -> tuple:
        return 0, b"refused"


class NotedKernel(jit.Kernel):
    """A kernel that needs no compiler: its parameters are what it is first given."""

    def __init__(self, driver: Driver, name: str):
        self.driver, self.name = driver, name

    def _plan(self, geometry: Any, device: int, stream: int, values: Sequence[Any]) -> plans.Plan:
        codes = [f"{len(value)}s" if isinstance(value, bytes) else "q" for value in values]
        sizes = [len(value) if isinstance(value, bytes) else 8 for value in values]
        self.driver.functions.append((self.name, sizes))
        return plans.Plan(len(self.driver.functions) - 1, codes, geometry, stream, self)


def keep_workspaces_here(patch: pytest.MonkeyPatch) -> None:
    """Let workspaces be memory of the CPU, and none be left over."""

    def allocate(size: int, device: int, zeroed: bool) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8) if zeroed else torch.full((size,), 0xFF, dtype=torch.uint8)

    patch.setattr(workspace, "_allocate", allocate)
    patch.setattr(workspace, "_capturing", lambda: False)
    patch.setattr(workspace, "_lend", lambda part, device: None)
    for name in ("_BUFFERS", "_ZEROS"):
        patch.setattr(workspace, name, {})


def record(patch: pytest.MonkeyPatch) -> Driver:
    """Put a driver that notes launches in the place of the real one."""
    driver = Driver()
    tensor_map._encoded.cache_clear()
    for module in (cuda_driver, plans, tensor_map):
        patch.setattr(module, "bindings", lambda: driver)
    patch.setattr(plans, "launcher", lambda: driver.launch)
    for module in (jit, launch):
        patch.setattr(module, "current_device", lambda: CPU)
    for module in (jit, launch, rearrange):
        patch.setattr(module, "current_place", lambda: (CPU, 7))
    patch.setattr(launch, "multiprocessors", lambda device: 132)
    gemm = lambda configuration, by_pointer: NotedKernel(driver, "gemm_by_pointer" if by_pointer else "gemm")  # noqa: E731
    patch.setattr(launch, "kernel_of", gemm)
    patch.setattr(scale_layouts, "_kernel", lambda entry, arguments: NotedKernel(driver, entry))
    patch.setattr(rearrange, "compile_kernel", lambda source, entry, constants: NotedKernel(driver, entry))
    patch.setattr(launch._kept, "plans", {})
    keep_workspaces_here(patch)
    return driver
