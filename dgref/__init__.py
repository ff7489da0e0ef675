"""dgref: are these bits right, and if not, what exactly is wrong?

Bit-exact references for low-precision GPU kernels, conformance suites, diagnosis, and fast kernels of our own.
Names load on first use, so that `import dgref` costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from dgref.version import VERSION as __version__

# OpenMP's threads otherwise spin between the short parallel loops of the engine and take the cores from everyone else.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HOMES = {
    "ARCHITECTURES": "dgref.arch",
    "ARITHMETICS": "dgref.reference.arithmetic",
    "BACKENDS": "dgref.backends",
    "FORMATS": "dgref.formats",
    "LAYOUTS": "dgref.formats",
    "OPS": "dgref.ops",
    "RECIPES": "dgref.formats",
    "TENSOR_CORES": "dgref.reference.tensor_core",
    "Case": "dgref.suite",
    "ScaledTensor": "dgref.formats",
    "dequantize": "dgref.formats",
    "diagnose": "dgref.compare",
    "infer_arithmetic": "dgref.compare",
    "inspect": "dgref.checkpoint",
    "load_results": "dgref.results",
    "quantize": "dgref.formats",
    "run": "dgref.runner",
}
_ROOMS = ("compare", "deep_gemm", "errors", "reference")
__all__ = [*_HOMES, *_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first used."""
    if name in _ROOMS:
        return import_module(f"dgref.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'dgref' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
