"""What of this machine can run which kernels, and what may spoil a run: libraries, JIT caches, environment variables.

Everything is read; nothing is imported that could compile, and nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from dgref import machine, recordings
from dgref.arch import ARCHITECTURES, Architecture
from dgref.errors import FileError, counted
from dgref.version import VERSION

Severity = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination; `advice` says what to do about a problem."""

    section: str
    name: str
    value: str
    severity: Severity = "ok"
    advice: str = ""


@dataclass(frozen=True)
class Library:
    """A kernel library: how it is found, and which architectures its kernels are built or compiled for."""

    name: str
    distribution: str
    module: str
    architectures: tuple[str, ...]
    source: str  # where the list of architectures is from


LIBRARIES = (
    Library("DeepGEMM", "deep_gemm", "deep_gemm", ("sm90", "sm100", "sm103"), "csrc/apis: arch_major 9 and 10"),
    Library(
        "FlashInfer",
        "flashinfer-python",
        "flashinfer",
        ("sm75", "sm80", "sm86", "sm89", "sm90", "sm100", "sm103", "sm120", "sm121"),
        "README: GPU support",
    ),
    Library("CUTLASS DSL", "nvidia-cutlass-dsl", "cutlass", tuple(ARCHITECTURES), "compiles for the device"),
    Library("Triton", "triton", "triton", tuple(ARCHITECTURES), "compiles for the device"),
)
_BLACKWELL_DATA_CENTER = ("sm100", "sm103")


def examine(environment: Mapping[str, str] | None = None, home: Path | None = None) -> Iterator[Finding]:
    """Yield every finding about this machine as it is made, section by section."""
    environment = os.environ if environment is None else environment
    home = home or Path.home()
    here = machine.architecture()
    yield from _device()
    yield from _compiler()
    yield from (library(row, here) for row in LIBRARIES)
    yield from _backends()
    yield from _recordings()
    yield from _caches(environment, home)
    yield from _variables(environment, here)


def exit_code(findings: list[Finding]) -> int:
    """Return 1 where anything is a problem, else 0; a machine without a GPU is none."""
    return 1 if any(row.severity == "problem" for row in findings) else 0


def _device() -> Iterator[Finding]:
    versions = machine.library_versions()
    yield Finding("machine", "dgref", VERSION)
    yield Finding("machine", "torch", versions.get("torch", "not installed"))
    gpu = machine.gpu()
    if gpu is None:
        advice = "references, recordings and exchange work here; kernels need a CUDA device that torch can see"
        yield Finding("machine", "GPU", "none that torch can see", "note", advice)
        return
    here = machine.architecture()
    capability = ".".join(map(str, gpu["capability"]))
    yield Finding("machine", "GPU", f"{gpu['name']}, {gpu['memory_bytes'] >> 30} GiB, capability {capability}")
    known = here.name if here else f"no row for capability {capability}"
    advice = "" if here else f"known: {', '.join(ARCHITECTURES)}"
    yield Finding("machine", "architecture", known, "ok" if here else "problem", advice)
    yield Finding("machine", "driver", gpu["driver"] or "nvidia-smi does not say", "ok" if gpu["driver"] else "note")
    yield Finding("machine", "CUDA of torch", gpu["cuda"] or "none")


def _compiler() -> Iterator[Finding]:
    try:
        from cuda.bindings import nvrtc

        status, major, minor = nvrtc.nvrtcVersion()
        found = f"{major}.{minor}" if int(status) == 0 else f"nvrtcVersion gave {status}"
        yield Finding("compiler", "NVRTC", found, "ok" if int(status) == 0 else "problem")
    except (ImportError, RuntimeError, OSError) as error:
        advice = "pip install nvidia-cuda-nvrtc cuda-bindings"
        yield Finding("compiler", "NVRTC", f"cannot be loaded ({error})", "problem", advice)


def library(row: Library, here: Architecture | None) -> Finding:
    """Return whether a kernel library is installed and whether its kernels run on an architecture."""
    version = machine.library_versions((row.distribution,)).get(row.distribution)
    if version is None and find_spec(row.module) is None:
        return Finding("libraries", row.name, "not installed", "note")
    label = f"{row.name} {version or '(version unknown)'}"
    targets = [ARCHITECTURES[name].target for name in row.architectures if name in ARCHITECTURES]
    ships = f"{label} ships {', '.join(targets[:-1])} and {targets[-1]} kernels"
    if here is None:
        return Finding("libraries", row.name, f"{ships}: no GPU here", "note")
    if here.name not in row.architectures:
        advice = f"use another backend, or a GPU of {', '.join(row.architectures)}"
        return Finding("libraries", row.name, f"{ships}: this is {here.target}", "problem", advice)
    return Finding("libraries", row.name, f"{label} runs on {here.target}")


def _backends() -> Iterator[Finding]:
    from dgref.backends import backends

    for name, backend in backends().items():
        reason = backend.unavailable()
        yield Finding("backends", name, reason or "usable", "note" if reason else "ok")


def _recordings() -> Iterator[Finding]:
    for path in recordings.indices():
        try:
            recordings.Recording(path)
        except FileError as error:
            advice = "restore the file from the repository, or install dgref again: until then nothing replays it"
            yield Finding("recordings", recordings.presumed_name(path), str(error), "problem", advice)


def _caches(environment: Mapping[str, str], home: Path) -> Iterator[Finding]:
    from dgref.backends.cuda import cache
    from dgref.backends.cuda.environment import cache_folder

    broken = [entry for entry in cache.check() if entry.problem]
    value = f"{cache_folder()}: {counted(len(cache.entries()), 'entry')}" + (
        f", {len(broken)} damaged" if broken else ""
    )
    advice = "dgref cache clear --problems" if broken else ""
    yield Finding("caches", "dgref", value, "problem" if broken else "ok", advice)
    places = {
        "DeepGEMM": [Path(environment.get("DG_JIT_CACHE_DIR") or home / ".deep_gemm"), home / ".cache" / "deep_gemm"],
        "FlashInfer": [Path(environment.get("FLASHINFER_WORKSPACE_BASE") or home) / ".cache" / "flashinfer"],
        "Triton": [Path(environment.get("TRITON_CACHE_DIR") or home / ".triton" / "cache")],
    }
    for name, folders in places.items():
        for folder in folders:
            if folder.is_dir():
                yield _cache(name, folder)


def _cache(name: str, folder: Path) -> Finding:
    """Return how large a library's cache is, and which files in it no finished compilation leaves behind."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) >> 20
    spoiled = [path for path in files if not path.stat().st_size or "tmp" in path.relative_to(folder).parts]
    value = f"{folder}: {counted(len(files), 'file')}, {size:,} MiB"
    if not spoiled:
        return Finding("caches", name, value)
    advice = f"remove {folder} and let it compile again: an interrupted compilation can poison later runs"
    return Finding("caches", name, f"{value}, {len(spoiled)} empty or half written", "problem", advice)


@dataclass(frozen=True)
class _Rule:
    """A setting of an environment variable that changes what runs, or its bits."""

    name: str
    on: bool | None  # True: set to a true value; False: to a false one; None: set at all
    severity: Severity
    value: str
    advice: str
    needs: str = ""  # applies only where this module is absent
    elsewhere: tuple[str, ...] = ()  # applies only on a GPU that is none of these


_FALSE = {"", "0", "false", "off", "no"}
_RULES = (
    _Rule("NVIDIA_TF32_OVERRIDE", None, "problem", "forces TF32 on or off in every NVIDIA library", "unset it"),
    _Rule("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", True, "problem", "makes torch's FP32 products TF32", "unset it"),
    _Rule("CUDA_LAUNCH_BLOCKING", True, "note", "hides races and spoils timings", "unset it for a run that counts"),
    _Rule("CUDA_FORCE_PTX_JIT", True, "problem", "ignores every compiled kernel", "unset it"),
    _Rule("VLLM_USE_DEEP_GEMM", True, "problem", "asks for DeepGEMM, which is not installed",
          "install deep_gemm or set it to 0", needs="deep_gemm"),
    _Rule("VLLM_USE_DEEP_GEMM", True, "problem", "asks for DeepGEMM, which has no kernels for this GPU", "set it to 0",
          elsewhere=("sm90", *_BLACKWELL_DATA_CENTER)),
    _Rule("SGLANG_ENABLE_JIT_DEEPGEMM", True, "problem", "asks for DeepGEMM, which is not installed",
          "install deep_gemm or set it to 0", needs="deep_gemm"),
    _Rule("SGLANG_ENABLE_JIT_DEEPGEMM", True, "problem", "asks for DeepGEMM, which has no kernels for this GPU",
          "set it to 0", elsewhere=("sm90", *_BLACKWELL_DATA_CENTER)),
)  # fmt: skip
_PREFIXES = ("DG_", "DGREF_", "SGLANG_", "SGL_", "VLLM_USE_DEEP_GEMM", "VLLM_DEEP_GEMM")
_PAIRS = (
    ("SGL_ENABLE_JIT_DEEPGEMM", "SGLANG_ENABLE_JIT_DEEPGEMM"),
    ("VLLM_USE_DEEP_GEMM", "SGLANG_ENABLE_JIT_DEEPGEMM"),
)


def _variables(environment: Mapping[str, str], here: Architecture | None) -> Iterator[Finding]:
    for rule in _RULES:
        if _applies(rule, environment, here):
            value = f"{environment[rule.name]!r} {rule.value}"
            yield Finding("environment", rule.name, value, rule.severity, rule.advice)
    for name in sorted(environment):
        if name.startswith(_PREFIXES) and ("DEEP" in name or name.startswith(("DG_", "DGREF_"))):
            yield _setting(name, environment[name], environment)
    for one, other in _PAIRS:
        if one in environment and other in environment and _true(environment[one]) != _true(environment[other]):
            value = f"{environment[one]!r} contradicts {other}={environment[other]!r}"
            yield Finding("environment", one, value, "problem", "set both to the same, or unset one")


def _applies(rule: _Rule, environment: Mapping[str, str], here: Architecture | None) -> bool:
    if rule.name not in environment or (rule.on is not None and _true(environment[rule.name]) != rule.on):
        return False
    if rule.needs:
        return find_spec(rule.needs) is None
    return not rule.elsewhere or (here is not None and here.name not in rule.elsewhere)


def _true(value: str) -> bool:
    return value.strip().lower() not in _FALSE


def _setting(name: str, value: str, environment: Mapping[str, str]) -> Finding:
    other = name.replace("DG_", "DGREF_", 1)
    if name.startswith("DG_") and other in environment and environment[other] != value:
        text = f"{value!r} differs from {other}={environment[other]!r}, which wins in dgref"
        return Finding("environment", name, text, "problem", "set both to the same, or unset one")
    if name.endswith(("CACHE_DIR", "NVCC_COMPILER")) and not Path(value).exists():
        return Finding("environment", name, f"{value!r} does not exist", "problem", "create it or unset the variable")
    return Finding("environment", name, repr(value), "note")


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings as plain data."""
    from dataclasses import asdict

    return {"schema": "dgref.doctor/1", "exit_code": exit_code(findings), "findings": [asdict(row) for row in findings]}
