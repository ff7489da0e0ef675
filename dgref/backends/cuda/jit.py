"""Kernels on demand: source and constants in, something that launches out.

kernel = compile_kernel("sm90/fp8_gemm.cu", "fp8_gemm", {"block_m": 128, "block_n": 128})
kernel.launch(grid=(132,), block=(384,), arguments=(map_a, map_b, output, m, n, k), shared_bytes=200_000)
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import Any

from dgref.backends.cuda import cache, driver, environment
from dgref.backends.cuda.compiler import CompiledObject, Request, chosen_compiler
from dgref.backends.cuda.launch import Geometry, Plan, check_arguments, value_of
from dgref.backends.cuda.sources import read_source
from dgref.errors import CompileError, InputError, expected

Constant = int | bool | str
_PLANS_KEPT = 512
_HASH = 16  # digits of a hash that people are shown
_HERE = nullcontext()


def compile_kernel(
    source: str,
    entry: str,
    constants: Mapping[str, Constant] | None = None,
    architecture: str = "sm_90a",
    flags: Sequence[str] = (),
) -> Kernel:
    """Return a kernel of `source`, a file under `kernels/`; equal calls return the same object.

    `constants` are the template arguments in order (a str is C++ text, such as a type); their names serve the reader.
    Source and environment are read once per process.
    """
    return _kernel(source, entry, tuple((constants or {}).items()), architecture, tuple(flags))


def compile_only(
    source: str,
    entry: str,
    constants: Mapping[str, Constant] | None = None,
    architecture: str = "sm_90a",
    flags: Sequence[str] = (),
) -> CompiledObject:
    """Compile without a GPU and without the cache, and return the cubin with its resource report."""
    return _compiled(request_for(source, entry, constants, architecture, flags), chosen_compiler())


def request_for(
    source: str,
    entry: str,
    constants: Mapping[str, Constant] | None = None,
    architecture: str = "sm_90a",
    flags: Sequence[str] = (),
) -> Request:
    """Read a kernel's files and spell its template arguments."""
    arguments = tuple(_spell(name, value) for name, value in (constants or {}).items())
    return Request(read_source(source), entry, arguments, architecture, tuple(flags))


def load_or_compile(request: Request) -> CompiledObject:
    """Return the compiled object from the disk cache, or compile it and keep it there."""
    compiler, started = chosen_compiler(), time.perf_counter()
    path = cache.path_of(request, cache.key(request, compiler.identity))
    compiled, origin = cache.load(path), "loaded"
    if compiled is None:
        description = _description(request, compiler.identity)
        compiled, origin = replace(_compiled(request, compiler), made_of=description), "compiled"
        cache.store(path, compiled, description)
    _dump(path, compiled)
    if environment.flag("JIT_DEBUG"):
        print(f"dgref: {origin} {request.context} in {time.perf_counter() - started:.3f} s: {path}", file=sys.stderr)
    return compiled


class Kernel:
    """A compiled kernel; it is loaded on each device that it is first launched on."""

    def __init__(self, request: Request, compiled: CompiledObject):
        self.name, self.architecture, self.context = request.entry, request.architecture, request.context
        self.compiled = compiled
        self._source, self._expression = request.source.name, request.expression
        self._functions: dict[int, Any] = {}
        self._loading = threading.Lock()
        self._local = threading.local()

    def launch(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
        cluster: tuple[int, ...] | None = None,
        stream: int | None = None,
        programmatic: bool = False,
    ) -> None:
        """Launch on the current device, on `stream` (a raw handle; by default torch's current stream).

        An argument is an int, a float, a TensorMap, bytes for a struct, or a tensor, which stands for its address.
        The caller keeps tensors alive until the kernel has run, as with any torch operation.
        """
        values = [value_of(argument) for argument in arguments]
        device, current_stream = current_place()
        if stream is None:
            stream = current_stream
        plans = self._local.__dict__
        key = (device, stream, grid, block, shared_bytes, cluster, programmatic)
        plan = plans.get(key)
        if plan is None:
            if len(plans) >= _PLANS_KEPT:
                plans.clear()
            geometry = Geometry(grid, block, shared_bytes, cluster, programmatic)
            plan = plans[key] = self._plan(geometry, device, stream, values)
        plan(values)

    def prepare(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: Sequence[Any],
        *,
        shared_bytes: int = 0,
        cluster: tuple[int, ...] | None = None,
        stream: int | None = None,
        programmatic: bool = False,
    ) -> Plan:
        """Return a launch with its arguments already in place: `plan.again()` is one driver call.

        The plan belongs to the calling thread, keeps to one stream, and keeps tensors among its arguments alive; of
        operands (`binding.Operand`) it holds addresses, which `plan.at` moves first.
        """
        values = [value_of(argument) for argument in arguments]
        device, current_stream = current_place()
        geometry = Geometry(grid, block, shared_bytes, cluster, programmatic)
        plan = self._plan(geometry, device, current_stream if stream is None else stream, values)
        plan.kept = [argument for argument in arguments if hasattr(argument, "data_ptr")]
        plan.write(values)
        plan.bind(arguments)
        return plan

    @property
    def provenance(self) -> dict[str, str]:
        """Return what was asked for beside what was loaded; each pair agrees, or something is stale."""
        made_of = self.compiled.made_of
        known = {
            "requested_kernel": _short(self._expression),
            "kernel": _short(str(made_of.get("kernel", ""))),
            "built_for": self.compiled.built_for,
            "source_hash": read_source(self._source).digest[:_HASH],
            "artefact_hash": str(made_of.get("source_hash", ""))[:_HASH],
        }
        return {name: value for name, value in known.items() if value}

    def _plan(self, geometry: Geometry, device: int, stream: int, values: Sequence[Any]) -> Plan:
        driver.ensure_context(device)
        check_arguments(self.context, values, self.compiled.parameters)
        return Plan(self._function(device), self.compiled.parameters, geometry, stream, self)

    def _function(self, device: int) -> Any:
        with self._loading:
            if device not in self._functions:
                driver.require_architecture(self.name, self.architecture, device)
                function = driver.load_function(self.compiled.cubin, self.compiled.lowered_name)
                limit = driver.shared_memory_limit(device) - driver.static_shared_memory(function)
                driver.allow_shared_memory(function, limit)
                self._functions[device] = function
            return self._functions[device]


def on_device(tensor: Any) -> AbstractContextManager:
    """Return a context in which the tensor's device is the current one; costs nothing where it already is."""
    if tensor.get_device() == current_device():
        return _HERE
    import torch

    return torch.cuda.device(tensor.device)


def current_device() -> int:
    """Return torch's current device."""
    return _torch_state()[0]()


def current_place() -> tuple[int, int]:
    """Return torch's current device and the raw handle of its current stream there."""
    device_now, stream_on = _torch_state()
    device = device_now()
    return device, stream_on(device)


@lru_cache(maxsize=1)
def _torch_state() -> tuple[Callable[[], int], Callable[[int], int]]:
    """Return what torch's own compiler calls: no wrapper, and no Stream object is built."""
    import torch

    torch.cuda.init()
    return torch._C._cuda_getDevice, torch._C._cuda_getCurrentRawStream


@lru_cache(maxsize=1024)
def _kernel(source: str, entry: str, constants: tuple, architecture: str, flags: tuple[str, ...]) -> Kernel:
    request = request_for(source, entry, dict(constants), architecture, flags)
    return Kernel(request, load_or_compile(request))


def _compiled(request: Request, compiler: Any) -> CompiledObject:
    compiled = compiler.compile(request)
    if environment.flag("JIT_PTXAS_VERBOSE"):
        print(f"dgref: {request.context}\n{compiled.log}", file=sys.stderr)
    if environment.flag("JIT_PTXAS_CHECK") and compiled.spill_bytes:
        got = f"{compiled.spill_bytes} bytes of register spills"
        raise CompileError(expected("ptxas", got, "none", request.context), compiled.log)
    return compiled


def _short(expression: str) -> str:
    """Return a kernel's name without the scopes of its template arguments."""
    return re.sub(r"\w+::", "", expression)


def _spell(name: str, value: Constant) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | str):
        return str(value)
    raise InputError(expected(f"constant {name}", repr(value), "an int, a bool or C++ text"))


def _description(request: Request, identity: str) -> dict[str, object]:
    return {
        "source": request.source.name,
        "source_hash": request.source.digest,
        "kernel": request.expression,
        "architecture": request.architecture,
        "flags": list(request.all_flags()),
        "compiler": identity,
    }


def _dump(path: Any, compiled: CompiledObject) -> None:
    everything = environment.flag("JIT_DUMP_ASM")
    if everything or environment.flag("JIT_DUMP_PTX"):
        cache.write_beside(path, ".ptx", compiled.ptx)
    if everything or environment.flag("JIT_DUMP_SASS"):
        from dgref.backends.cuda.disassembly import disassemble

        cache.write_beside(path, ".sass", disassemble(compiled.cubin))
