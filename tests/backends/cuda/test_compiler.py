from __future__ import annotations

import shutil

import pytest

from dgref.backends.cuda import jit
from dgref.errors import CompileError, FileError, InputError, UnavailableError

CONSTANTS = {"factor": 3, "type": "float"}


@pytest.mark.parametrize("architecture", ["sm_90a", "sm_100a", "sm_103a", "sm_120a"])
def test_a_kernel_compiles_for_every_architecture_without_a_gpu(kernel_folder, architecture):
    compiled = jit.compile_only("tiny/fill.cu", "fill", CONSTANTS, architecture)
    assert compiled.cubin.startswith(b"\x7fELF")
    assert compiled.registers > 0
    assert compiled.spill_bytes == 0
    assert "fill" in compiled.lowered_name
    assert architecture in compiled.ptx


def test_a_compile_error_shows_the_line_and_carries_the_log(kernel_folder):
    (kernel_folder / "tiny/scale.cuh").write_text("#pragma once\n\nusing broken = missing;\n")
    with pytest.raises(CompileError) as caught:
        jit.compile_only("tiny/fill.cu", "fill", CONSTANTS)
    assert str(caught.value).startswith('tiny/scale.cuh, line 3: got identifier "missing" is undefined')
    assert "  3 | using broken = missing;" in str(caught.value)
    assert "missing" in caught.value.log


def test_a_missing_header_is_named_with_the_file_that_wants_it(kernel_folder):
    (kernel_folder / "tiny/scale.cuh").unlink()
    with pytest.raises(FileError, match=r"tiny/scale\.cuh.*wanted by tiny/fill\.cu"):
        jit.compile_only("tiny/fill.cu", "fill", CONSTANTS)


def test_a_constant_must_be_spellable_in_cpp(kernel_folder):
    with pytest.raises(InputError, match="constant factor"):
        jit.compile_only("tiny/fill.cu", "fill", {"factor": 1.5, "type": "float"})


def test_a_spill_is_an_error_under_ptxas_check(kernel_folder, monkeypatch):
    monkeypatch.setenv("DG_JIT_PTXAS_CHECK", "1")
    body = "float x[64]; for (int i = 0; i < 64; ++i) x[i] = p[i * 32 + threadIdx.x];"
    tail = "__syncthreads(); for (int i = 0; i < 64; ++i) p[i * 32 + threadIdx.x] = x[i] * x[(i * 7) % 64];"
    (kernel_folder / "tiny/fill.cu").write_text(f"__global__ void fill(float* p) {{ {body} {tail} }}")
    with pytest.raises(CompileError, match="bytes of register spills, need none"):
        jit.compile_only("tiny/fill.cu", "fill", flags=["--maxrregcount=24"])


@pytest.mark.skipif(
    not (shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")), reason="no nvcc on this machine"
)
def test_nvcc_and_nvrtc_agree_on_name_and_resources(kernel_folder, monkeypatch):
    from_nvrtc = jit.compile_only("tiny/fill.cu", "fill", CONSTANTS)
    monkeypatch.setenv("DG_JIT_USE_NVRTC", "0")
    from_nvcc = jit.compile_only("tiny/fill.cu", "fill", CONSTANTS)
    assert from_nvcc.lowered_name == from_nvrtc.lowered_name
    assert from_nvcc.registers > 0
    assert from_nvcc.cubin != from_nvrtc.cubin or from_nvcc.log != from_nvrtc.log


def test_a_missing_nvcc_names_the_variable(kernel_folder, monkeypatch):
    monkeypatch.setenv("DGREF_JIT_NVCC_COMPILER", "/nowhere/nvcc")
    with pytest.raises(UnavailableError, match="DGREF_JIT_NVCC_COMPILER"):
        jit.compile_only("tiny/fill.cu", "fill", CONSTANTS)
