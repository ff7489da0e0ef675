"""Launches that cost little: the configuration and the argument block are built once per shape and used again.

A plan owns one argument block, so it belongs to one thread; kernels keep their plans per thread. The driver copies the
block before a launch returns, also while a CUDA graph is captured, so it may be rewritten for the next launch at once.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from dgref.backends.cuda.binding import Address, Struct
from dgref.backends.cuda.driver import bindings, check_status, launcher
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import InputError, expected

_ALIGNMENT = 64  # of each argument in the block: what a tensor map asks for
_WORD = 8  # bytes of an address


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


class Latest:
    """Which plan was launched last in this process.

    No attribute of the class `Plan` says so: Python forgets where all attributes of plans lie whenever one of their
    class is set.
    """

    plan: Plan | None = None


LATEST = Latest()


class Plan:
    """One function with one geometry on one stream, and the memory its arguments are written to."""

    def __init__(self, function: Any, parameters: Sequence[str], geometry: Geometry, stream: int, kernel: Any = None):
        self.kernel = kernel
        self._config = _config(geometry, stream)
        self._struct, self._offsets = argument_block(parameters)
        self._block, self._base = _aligned_block(self._struct.size)
        self._words = memoryview(self._block).cast("B").cast("Q")
        self._pointers = (ctypes.c_void_p * (len(parameters) + 1))(*(self._base + offset for offset in self._offsets))
        self._pointers_at: list[tuple[int, int]] = []  # word of the block, operand
        self.kept: Sequence[Any] = ()  # tensors whose addresses stay in the block
        self._addresses: Sequence[int] | None = None  # of the operands that the block has been written for
        given = (int(self._config.getPtr()), int(function), ctypes.addressof(self._pointers), None)
        self._launch = partial(launcher(), *given)

    def __call__(self, values: Sequence[Any]) -> None:
        """Launch with these arguments; the driver copies them before it returns."""
        self.write(values)
        self.again()

    def write(self, values: Sequence[Any]) -> None:
        """Put arguments into the block."""
        try:
            self._struct.pack_into(self._block, 0, *values)
            self._addresses = None
        except struct.error as error:
            raise InputError(
                expected("kernel arguments", values, f"values that fit the parameters ({error})")
            ) from error

    def bind(self, arguments: Sequence[Any]) -> None:
        """Note which bytes of the block are addresses of operands, for `at` to replace."""
        for offset, argument in zip(self._offsets, arguments, strict=True):
            for place, address in _addresses_in(argument):
                self._pointers_at.append(((offset + place) // _WORD, address.index))

    def at(self, addresses: Sequence[int]) -> None:
        """Launch with the operands of a call at these addresses."""
        if addresses != self._addresses:
            self._move(addresses)
        LATEST.plan = self
        status = self._launch()
        if status:
            check_status(status, "cuLaunchKernelEx")

    def _move(self, addresses: Sequence[int]) -> None:
        self._addresses = None  # what is interrupted half way must not be taken for what is in the block
        words = self._words
        for word, index in self._pointers_at:
            words[word] = addresses[index]
        self._addresses = addresses

    def again(self) -> None:
        """Launch with the arguments that are in the block."""
        self.at(self._addresses)


def value_of(argument: Any) -> Any:
    """Return what is written to the argument block: an address, a number or bytes."""
    pointer = getattr(argument, "data_ptr", None)
    if pointer is not None:
        return pointer()
    if isinstance(argument, Address):
        return argument.now
    return argument.data if isinstance(argument, TensorMap | Struct) else argument


def _addresses_in(argument: Any) -> Sequence[tuple[int, Address]]:
    """Return the addresses that an argument holds as plain words, and at which byte of it."""
    if isinstance(argument, Address):
        return ((0, argument),)
    return argument.addresses if isinstance(argument, TensorMap | Struct) else ()


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


def _aligned_block(size: int) -> tuple[Any, int]:
    """Return memory whose address is a multiple of what tensor maps ask for, and the address."""
    whole = ctypes.create_string_buffer(size + 2 * _ALIGNMENT)
    gap = -ctypes.addressof(whole) % _ALIGNMENT
    block = (ctypes.c_char * (size + _ALIGNMENT)).from_buffer(whole, gap)
    return block, ctypes.addressof(block)


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
