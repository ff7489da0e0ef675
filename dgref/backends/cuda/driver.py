"""The CUDA driver, as little of it as the kernels need: libraries, functions, attributes, error strings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from dgref.arch import architecture_of
from dgref.errors import DgrefError, UnavailableError, UnsupportedError, expected

_CUDA = 12000  # the version whose entry points are asked for: the first with tensor maps


class DriverError(DgrefError, RuntimeError):
    """A call of the CUDA driver that failed."""


@lru_cache(maxsize=1)
def bindings() -> Any:
    """Return the module `cuda.bindings.driver`, initialised."""
    try:
        from cuda.bindings import driver

        (status,) = driver.cuInit(0)
    except Exception as error:  # cuda-pathfinder raises its own type where there is no driver
        need = "an NVIDIA driver and the wheel cuda-bindings"
        raise UnavailableError(expected("CUDA driver", f"{type(error).__name__}: {error}", need)) from error
    if int(status) != 0:
        raise UnavailableError(expected("CUDA driver", status.name, "a GPU that the driver can use"))
    return driver


def checked(result: tuple, call: str) -> Any:
    """Return what a driver call returned beside its status; a failure says what the driver says."""
    status, *values = result
    if int(status) != 0:
        raise DriverError(expected(call, explain(status), "CUDA_SUCCESS"))
    return values[0] if len(values) == 1 else tuple(values) or None


def explain(status: object) -> str:
    """Return a status as its name and the driver's own sentence."""
    _, sentence = bindings().cuGetErrorString(status)
    return f"{getattr(status, 'name', status)} ({(sentence or b'no description').decode()})"


@lru_cache(maxsize=1)
def launcher() -> Callable[[int, int, int, None], int]:
    """Return cuLaunchKernelEx as a function of addresses (config, function, pointers to arguments) that gives a status.

    It costs half a microsecond less than the bindings' own. The GIL is given up: where the GPU's queue is full, a
    launch waits.
    """
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return kind(_entry_point("cuLaunchKernelEx"))


def _entry_point(name: str) -> int:
    driver = bindings()
    flags = driver.CUdriverProcAddress_flags.CU_GET_PROC_ADDRESS_DEFAULT
    address, _ = checked(driver.cuGetProcAddress(name.encode(), _CUDA, flags), f"cuGetProcAddress({name})")
    return int(address)


def check_status(status: int, call: str) -> None:
    """Raise what the driver says about a status that is a plain number."""
    if status:
        raise DriverError(expected(call, explain(bindings().CUresult(status)), "CUDA_SUCCESS"))


@lru_cache(maxsize=64)
def device_architecture(device: int) -> str:
    """Return a device's architecture as the compiler spells it without suffix, such as `sm_90`."""
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@lru_cache(maxsize=64)
def multiprocessors(device: int) -> int:
    """Return how many multiprocessors a device has."""
    import torch

    return torch.cuda.get_device_properties(device).multi_processor_count


@lru_cache(maxsize=64)
def shared_memory_limit(device: int) -> int:
    """Return how much shared memory one block may have, static and dynamic together."""
    driver = bindings()
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    handle = checked(driver.cuDeviceGet(device), "cuDeviceGet")
    return checked(driver.cuDeviceGetAttribute(attribute, handle), "cuDeviceGetAttribute")


def require_architecture(kernel: str, needed: str, device: int) -> None:
    """Raise a sentence where the device cannot run code that was compiled for `needed`."""
    have = device_architecture(device)
    if not runs_on(needed, have):
        row = architecture_of(int(have[3:-1]), int(have[-1]))
        products = f", such as {row.products[0]}" if row else ""
        need = f"{needed}: use `--backend reference`, or a backend that `dgref list backends` shows for {have}"
        raise UnsupportedError(expected(f"kernel {kernel}", f"device {device}, {have}{products}", need))


def runs_on(needed: str, have: str) -> bool:
    """Say whether a cubin for `needed` (`sm_90a`, `sm_80`) runs on a device `have` (`sm_90`)."""
    if needed[-1].isalpha():
        return needed[:-1] == have
    return needed[:-1] == have[:-1] and int(needed[-1]) <= int(have[-1])


def ensure_context(device: int) -> None:
    """Make the device's primary context current in a thread that has none yet."""
    driver = bindings()
    if int(checked(driver.cuCtxGetCurrent(), "cuCtxGetCurrent")) == 0:
        handle = checked(driver.cuDeviceGet(device), "cuDeviceGet")
        context = checked(driver.cuDevicePrimaryCtxRetain(handle), "cuDevicePrimaryCtxRetain")
        checked(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")


def load_function(cubin: bytes, name: str) -> Any:
    """Load a cubin into the current context and return its function; the module lives as long as the process."""
    driver = bindings()
    module = checked(driver.cuModuleLoadData(cubin), "cuModuleLoadData")
    return checked(driver.cuModuleGetFunction(module, name.encode()), "cuModuleGetFunction")


def static_shared_memory(function: Any) -> int:
    """Return how much shared memory a function has of its own: reports may lack it where several threads compile."""
    driver = bindings()
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
    return checked(driver.cuFuncGetAttribute(attribute, function), "cuFuncGetAttribute(SHARED_SIZE_BYTES)")


def allow_shared_memory(function: Any, count: int) -> None:
    """Raise a function's limit of dynamic shared memory."""
    driver = bindings()
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    call = f"cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES, {count})"
    checked(driver.cuFuncSetAttribute(function, attribute, count), call)
