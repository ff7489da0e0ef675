"""A kernel folder and a cache folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgref.backends.cuda import cache, jit, sources

FILL = """#include "tiny/scale.cuh"
template <int kFactor, typename T>
__global__ void fill(T* out, int value) { out[threadIdx.x] = scaled<kFactor>(value); }
"""
SCALE = """#pragma once
template <int kFactor> __device__ int scaled(int value) { return kFactor * value; }
"""


@pytest.fixture
def kernel_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the JIT at a folder that holds one small kernel with one header."""
    root = tmp_path / "kernels"
    (root / "tiny").mkdir(parents=True)
    (root / "tiny/fill.cu").write_text(FILL)
    (root / "tiny/scale.cuh").write_text(SCALE)
    monkeypatch.setattr(sources, "KERNELS", root)
    monkeypatch.setattr(cache, "_warned", set())
    jit._kernel.cache_clear()
    yield root
    jit._kernel.cache_clear()


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the JIT an empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DGREF_JIT_CACHE_DIR", str(folder))
    return folder
