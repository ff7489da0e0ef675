"""From CUDA C++ to a cubin: NVRTC from its wheel, or nvcc where the environment asks for it. Neither needs a GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Protocol

from dgref.backends.cuda import environment
from dgref.backends.cuda.sources import KernelSource
from dgref.errors import CompileError, UnavailableError, expected

# No contraction is left to the compiler: the order of roundings is part of each kernel's contract.
BASE_FLAGS = ("-std=c++20", "--fmad=false", "--ptxas-options=-v")


@dataclass(frozen=True)
class Request:
    """Everything that decides the bits of a compiled kernel, beside the compiler itself."""

    source: KernelSource
    entry: str
    arguments: tuple[str, ...]
    architecture: str
    flags: tuple[str, ...]

    @property
    def expression(self) -> str:
        """The kernel's name as C++ spells it, template arguments included."""
        return f"{self.entry}<{', '.join(self.arguments)}>" if self.arguments else self.entry

    @property
    def context(self) -> str:
        return f"{self.source.name}, {self.expression}, {self.architecture}"

    def all_flags(self) -> tuple[str, ...]:
        lineinfo = ("-lineinfo",) if environment.flag("JIT_WITH_LINEINFO") else ()
        return (*BASE_FLAGS, *lineinfo, *self.flags)


@dataclass(frozen=True)
class CompiledObject:
    """A cubin, and what the assembler said about it."""

    cubin: bytes
    lowered_name: str
    log: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    stack_bytes: int
    ptx: str = ""
    made_of: Mapping[str, object] = field(default_factory=dict)  # the description in its cache entry

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The kernel's parameters in order, as `struct` codes: `q`, `i`, `f`, or `144s` for a struct of 144 bytes."""
        start = self.ptx.index("(", self.ptx.index(f".entry {self.lowered_name}"))
        declared = _PARAMETER.findall(self.ptx[start : self.ptx.index(")", start)])
        return tuple(f"{count}s" if count else _PARAMETER_CODES[kind] for kind, count in declared)

    @property
    def built_for(self) -> str:
        """The architecture that the PTX names, such as `sm_90a`; empty where there is no PTX."""
        found = _TARGET.search(self.ptx)
        return found[1] if found else ""


# `.param .u64 .ptr .align 1 name` or `.param .align 64 .b8 name[128]`; PTX does not keep the sign of an integer.
_PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.([a-z]\d+)[^\[,\n]*(?:\[(\d+)\])?")
_TARGET = re.compile(r"^\.target (\w+)", re.M)
_PARAMETER_CODES = {"f32": "f", "f64": "d"} | {
    f"{sign}{bits}": code for sign in "usb" for bits, code in ((8, "b"), (16, "h"), (32, "i"), (64, "q"))
}


class Compiler(Protocol):
    """What turns a request into a cubin."""

    @property
    def identity(self) -> str: ...  # name and version: a part of the cache key

    def compile(self, request: Request) -> CompiledObject: ...


class Nvrtc:
    """The run-time compiler of the `nvidia-cuda-nvrtc` wheel, or of the toolkit that the loader finds."""

    @property
    def identity(self) -> str:
        return "nvrtc {}.{}".format(*_nvrtc_version())

    def compile(self, request: Request) -> CompiledObject:
        """Compile one instantiation; a failure carries the whole log and shows the offending line."""
        nvrtc = _nvrtc()
        headers = request.source.headers
        text, name = request.source.text.encode(), request.source.name.encode()
        bodies, names = [body.encode() for body in headers.values()], [header.encode() for header in headers]
        program = _checked(nvrtc.nvrtcCreateProgram(text, name, len(names), bodies, names), request)
        try:
            return self._build(program, request)
        finally:
            nvrtc.nvrtcDestroyProgram(program)

    def _build(self, program: object, request: Request) -> CompiledObject:
        nvrtc, expression = _nvrtc(), request.expression.encode()
        _checked(nvrtc.nvrtcAddNameExpression(program, expression), request)
        flags = [flag.encode() for flag in (f"--gpu-architecture={request.architecture}", *request.all_flags())]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
        log = _buffer(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        log = log.rstrip(b"\0").decode(errors="replace")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise compile_error(request, log or status.name)
        cubin = _buffer(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
        ptx = _buffer(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program).rstrip(b"\0").decode()
        lowered = _checked(nvrtc.nvrtcGetLoweredName(program, expression), request).decode()
        return described(cubin, lowered, log, ptx)


def _buffer(size: object, fill: object, program: object) -> bytes:
    _, count = size(program)
    target = bytearray(count)
    fill(program, target)
    return bytes(target)


def _checked(result: tuple, request: Request) -> object:
    status, *values = result
    if int(status) != 0:
        raise CompileError(expected("NVRTC", status.name, "NVRTC_SUCCESS", request.context))
    return values[0] if values else None


@lru_cache(maxsize=1)
def _nvrtc() -> object:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except Exception as error:  # cuda-pathfinder raises its own type where the library is absent
        need = "the wheels cuda-bindings and nvidia-cuda-nvrtc"
        raise UnavailableError(expected("NVRTC", f"{type(error).__name__}: {error}", need)) from error
    return nvrtc


@lru_cache(maxsize=1)
def _nvrtc_version() -> tuple[int, int]:
    _, major, minor = _nvrtc().nvrtcVersion()
    return major, minor


def described(cubin: bytes, lowered_name: str, log: str, ptx: str = "") -> CompiledObject:
    """Read what ptxas reports about one kernel (and the functions it calls) in the log."""
    reports = log.split("Compiling entry function ")
    report = next((text for text in reports if text.startswith(f"'{lowered_name}'")), log)

    def total(pattern: str) -> int:
        return sum(int(number) for number in re.findall(pattern, report))

    return CompiledObject(
        cubin=cubin,
        lowered_name=lowered_name,
        log=log.strip(),
        registers=total(r"Used (\d+) registers"),
        spill_bytes=total(r"(\d+) bytes spill (?:stores|loads)"),
        shared_bytes=total(r"(\d+) bytes smem"),
        stack_bytes=total(r"(\d+) bytes stack frame"),
        ptx=ptx,
    )


_ERROR_LINE = re.compile(
    r"^(?P<file>[^\s(][^(\n]*)\((?P<line>\d+)\): (?:catastrophic )?error(?: #\S+)?: (?P<what>.*)$", re.M
)


def compile_error(request: Request, log: str) -> CompileError:
    """Return the error for a failed compilation: the first message, the line it points at, then the whole log."""
    found = _ERROR_LINE.search(log)
    if not found:
        return CompileError(f"{expected('kernel', 'a compiler error', 'a cubin', request.context)}\n{log}", log)
    name, number = found["file"], int(found["line"])
    known = next((file for file in request.source.files if name == file or name.endswith("/" + file)), name)
    subject = f"{known}, line {number}"
    message = expected(subject, found["what"], "a kernel that compiles", request.context)
    return CompileError(f"{message}\n  {number} | {request.source.line(known, number)}\n{log}", log)


def chosen_compiler() -> Compiler:
    """Return the compiler that the environment selects: NVRTC unless nvcc is named or NVRTC is switched off."""
    path = environment.text("JIT_NVCC_COMPILER")
    if not environment.flag("JIT_USE_NVRTC", default=path is None):
        from dgref.backends.cuda.nvcc import Nvcc

        return Nvcc.found(path)
    return Nvrtc()
