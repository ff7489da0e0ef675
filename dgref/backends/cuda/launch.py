"""Launches that cost little: the configuration and the argument block are built once per shape and used again.

A plan owns one argument block, so it belongs to one thread; kernels keep their plans per thread.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from dgref.backends.cuda.driver import DriverError, bindings, explain
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import InputError, expected

_ALIGNMENT = 64  # of each argument in the block: what a tensor map asks for


@dataclass(frozen=True)
class Geometry:
    """Where a kernel runs and how: everything about a launch except its arguments."""

    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int = 0
    cluster: tuple[int, ...] | None = None
    programmatic: bool = False


class Resources(NamedTuple):
    """How much of the GPU a launch may have, and whether it may be made ready while the one before still runs."""

    multiprocessors: int = 0  # 0: all of them
    programmatic: bool = False


WHOLE_CARD = Resources()


class Plan:
    """One function with one geometry on one stream, and the memory its arguments are written to."""

    last: ClassVar[Plan | None] = None  # what was launched last in this process

    def __init__(self, function: Any, parameters: Sequence[str], geometry: Geometry, stream: int, kernel: Any = None):
        self.kernel = kernel
        self._config = _config(geometry, stream)
        self._struct, offsets = argument_block(parameters)
        self._block = ctypes.create_string_buffer(self._struct.size + 1)
        base = ctypes.addressof(self._block)
        self._pointers = (ctypes.c_void_p * (len(offsets) + 1))(*(base + offset for offset in offsets))
        self._function = function
        self._address = ctypes.addressof(self._pointers)
        self._launch = bindings().cuLaunchKernelEx

    def __call__(self, values: Sequence[Any]) -> None:
        """Launch with these arguments; the driver copies them before it returns."""
        self.write(values)
        self.again()

    def write(self, values: Sequence[Any]) -> None:
        """Put arguments into the block."""
        try:
            self._struct.pack_into(self._block, 0, *values)
        except struct.error as error:
            raise InputError(
                expected("kernel arguments", values, f"values that fit the parameters ({error})")
            ) from error

    def again(self) -> None:
        """Launch with the arguments that are in the block."""
        Plan.last = self
        (status,) = self._launch(self._config, self._function, self._address, 0)
        if status:
            raise DriverError(expected("cuLaunchKernelEx", explain(status), "CUDA_SUCCESS"))


def value_of(argument: Any) -> Any:
    """Return what is written to the argument block: an address, a number or bytes."""
    pointer = getattr(argument, "data_ptr", None)
    if pointer is not None:
        return pointer()
    return argument.data if isinstance(argument, TensorMap) else argument


def check_arguments(name: str, values: Sequence[Any], parameters: Sequence[str]) -> None:
    """Raise where values differ from a kernel's parameters in number, or a struct in size."""
    if len(values) != len(parameters):
        raise InputError(expected(f"kernel {name}", f"{len(values)} arguments", f"{len(parameters)} arguments"))
    for index, (value, code) in enumerate(zip(values, parameters, strict=True)):
        got = f"{len(value)}s" if isinstance(value, bytes) else code
        if got != code or isinstance(value, bytes) != code.endswith("s"):
            have = f"{len(value)} bytes" if isinstance(value, bytes) else repr(value)
            raise InputError(expected(f"kernel {name}, argument {index}", have, _described(code)))


def _described(code: str) -> str:
    if code.endswith("s"):
        return f"a struct of {code[:-1]} bytes"
    return f"a number for a parameter of {struct.calcsize(code)} bytes"


def argument_block(parameters: Sequence[str]) -> tuple[struct.Struct, list[int]]:
    """Return how arguments are packed one after the other, and where each of them starts."""
    codes, offsets, end = ["="], [], 0
    for code in parameters:
        size = struct.calcsize(f"={code}")
        gap = -size % _ALIGNMENT
        codes.append(f"{code}{gap}x")
        offsets.append(end)
        end += size + gap
    return struct.Struct("".join(codes)), offsets


def _config(geometry: Geometry, stream: int) -> Any:
    driver = bindings()
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = _three(geometry.grid)
    config.blockDimX, config.blockDimY, config.blockDimZ = _three(geometry.block)
    config.sharedMemBytes = geometry.shared_bytes
    config.hStream = driver.CUstream(stream)
    attributes = _attributes(geometry)
    config.attrs = attributes
    config.numAttrs = len(attributes)
    return config


def _attributes(geometry: Geometry) -> list[Any]:
    driver, attributes = bindings(), []
    if geometry.cluster is not None:
        cluster = driver.CUlaunchAttribute()
        cluster.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        cluster.value.clusterDim.x, cluster.value.clusterDim.y, cluster.value.clusterDim.z = _three(geometry.cluster)
        attributes.append(cluster)
    if geometry.programmatic:
        overlap = driver.CUlaunchAttribute()
        overlap.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        overlap.value.programmaticStreamSerializationAllowed = 1
        attributes.append(overlap)
    return attributes


def _three(extents: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*extents, 1, 1)[:3]
    return x, y, z
