"""What machine this is: processor, GPU, driver, libraries and commit; what is absent is left out, never an error."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dgref.arch import Architecture, architecture_of
from dgref.errors import UnavailableError
from dgref.version import VERSION

LIBRARIES = (
    "numpy",
    "torch",
    "ml_dtypes",
    "numba",
    "cuda-bindings",
    "cuda-core",
    "nvidia-cuda-nvrtc",
    "deep_gemm",
    "flashinfer-python",
    "nvidia-cutlass-dsl",
)


def library_versions(names: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Return the versions of the libraries that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit of dgref's own checkout, with `+` where the tree is changed.

    Outside a checkout it is what DGREF_COMMIT says, or None.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return os.environ.get("DGREF_COMMIT")
    head = _output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return head and head + ("+" if changed else "")


def nvidia_smi(*fields: str) -> list[str]:
    """Return what the driver says of the first GPU, a text for each field; nothing where it does not answer."""
    line = _output("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0")
    return [part.strip() for part in line.split(",")] if line else []


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def leave_without_gpu() -> None:
    """End a program that only a GPU can run where torch sees none: one sentence, and the exit code for it."""
    import torch

    if not torch.cuda.is_available():
        print("dgref: needs a CUDA device; torch sees none", file=sys.stderr)
        sys.exit(UnavailableError.exit_code)


def gpu() -> dict[str, Any] | None:
    """Return name, capability and memory of the first CUDA device; None where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "driver": next(iter(nvidia_smi("driver_version")), None),
    }


def architecture() -> Architecture | None:
    """Return the architecture row of the first CUDA device; None where there is none, or no row for it."""
    found = gpu()
    return architecture_of(*found["capability"]) if found else None


def describe() -> dict[str, Any]:
    """Return everything a result file says about its machine."""
    here = architecture()
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": gpu(),
        "architecture": here.name if here else None,
        "libraries": library_versions(),
        "dgref": VERSION,
        "commit": commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
