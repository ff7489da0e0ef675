"""nvcc as the alternative compiler: the same request, through a temporary folder and a subprocess."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dgref.backends.cuda.compiler import CompiledObject, Request, compile_error, described
from dgref.errors import CompileError, UnavailableError, expected


@dataclass(frozen=True)
class Nvcc:
    """One nvcc executable."""

    path: str

    @classmethod
    def found(cls, path: str | None) -> Nvcc:
        """Return the nvcc at `path`, or else on PATH or in /usr/local/cuda."""
        found = shutil.which(path or "nvcc") or (None if path else shutil.which("/usr/local/cuda/bin/nvcc"))
        if found is None:
            need = "the path of an nvcc in DGREF_JIT_NVCC_COMPILER"
            raise UnavailableError(expected("nvcc", path or "none on PATH", need))
        return cls(found)

    @property
    def identity(self) -> str:
        return _version(self.path)

    def compile(self, request: Request) -> CompiledObject:
        """Compile one instantiation in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="dgref-nvcc-") as folder:
            root = Path(folder)
            for name, text in request.source.files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text, encoding="utf-8")
            return self._build(request, root)

    def _build(self, request: Request, root: Path) -> CompiledObject:
        main, cubin, ptx = root / "instantiate.cu", root / "kernel.cubin", root / "kernel.ptx"
        main.write_text(f'#include "{request.source.name}"\n{_instantiation(request)}\n', encoding="utf-8")
        virtual = request.architecture.replace("sm_", "compute_")
        base = [self.path, str(main), f"-I{root}", *request.all_flags()]
        log = _run([*base, f"-gencode=arch={virtual},code={request.architecture}", "-cubin", "-o", str(cubin)], request)
        _run([*base, f"-arch={virtual}", "-ptx", "-o", str(ptx)], request)
        binary = cubin.read_bytes()
        names = kernel_names(binary)
        if len(names) != 1:
            raise CompileError(expected("nvcc", f"kernels {names}", "exactly one kernel", request.context), log)
        return described(binary, names[0], log, ptx.read_text())


def _instantiation(request: Request) -> str:
    """A host function that takes the kernel's address makes nvcc instantiate the template."""
    if not request.arguments:
        return ""
    return f"[[maybe_unused]] static void* instantiate() {{ return reinterpret_cast<void*>(&{request.expression}); }}"


def _run(command: list[str], request: Request) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    if done.returncode != 0:
        raise compile_error(request, log)
    return log


@lru_cache(maxsize=8)
def _version(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(expected(path, f"exit status {done.returncode}", "an nvcc that runs"))
    return f"nvcc {path} " + " ".join(done.stdout.split()[-2:])


def kernel_names(cubin: bytes) -> list[str]:
    """Return the kernels of a cubin: the functions that own an `.nv.info.<name>` section (ELF64, little-endian)."""
    (section_offset,) = struct.unpack_from("<Q", cubin, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", cubin, 0x3A)

    def section(index: int) -> tuple[int, int]:
        base = section_offset + index * entry_size
        return struct.unpack_from("<I", cubin, base)[0], struct.unpack_from("<Q", cubin, base + 0x18)[0]

    strings = section(names_index)[1]
    titles = [_text(cubin, strings + section(index)[0]) for index in range(count)]
    return sorted(title.removeprefix(".nv.info.") for title in titles if title.startswith(".nv.info."))


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
