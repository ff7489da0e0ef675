"""Shared fixtures: where recorded outputs of real GPUs are, and whether a GPU is here."""

from __future__ import annotations

import os
from pathlib import Path

# Tests run in parallel processes: threads inside each would only fight over the cores. Read when numba and BLAS load.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "vectors"
VECTORS = Path(os.environ.get("DGREF_VECTORS", _BESIDE))

needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason="no recorded vectors here: set DGREF_VECTORS")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, with the reason."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device here")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)
