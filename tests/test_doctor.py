"""The doctor names what cannot run here and what would spoil a run, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from dgref import doctor
from dgref.arch import ARCHITECTURES
from dgref.doctor import LIBRARIES, Finding

DEEP_GEMM = LIBRARIES[0]


def found(environment: dict[str, str], home: Path) -> dict[str, Finding]:
    return {row.name: row for row in doctor.examine(environment, home) if row.severity == "problem"}


def test_a_library_says_what_it_ships_and_what_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.machine, "library_versions", lambda names=(): {"deep_gemm": "2.6.1"})
    row = doctor.library(DEEP_GEMM, ARCHITECTURES["sm120"])
    assert row.value.startswith("DeepGEMM 2.6.1 ships sm_90a")
    assert row.value.endswith("kernels: this is sm_120a")
    assert (row.severity, bool(row.advice)) == ("problem", True)
    assert doctor.library(DEEP_GEMM, ARCHITECTURES["sm90"]).severity == "ok"
    assert doctor.library(DEEP_GEMM, None).severity == "note"


def test_a_clean_machine_has_no_problem(tmp_path: Path) -> None:
    assert not found({}, tmp_path)


@pytest.mark.parametrize(
    ("environment", "name", "words"),
    [
        ({"NVIDIA_TF32_OVERRIDE": "0"}, "NVIDIA_TF32_OVERRIDE", "forces TF32"),
        ({"DG_JIT_CACHE_DIR": "/does/not/exist"}, "DG_JIT_CACHE_DIR", "does not exist"),
        ({"DG_JIT_DEBUG": "1", "DGREF_JIT_DEBUG": "0"}, "DG_JIT_DEBUG", "differs from DGREF_JIT_DEBUG"),
        ({"SGL_ENABLE_JIT_DEEPGEMM": "1", "SGLANG_ENABLE_JIT_DEEPGEMM": "0"}, "SGL_ENABLE_JIT_DEEPGEMM", "contradicts"),
    ],
)
def test_environment_variables_that_spoil_a_run_are_named(
    tmp_path: Path, environment: dict[str, str], name: str, words: str
) -> None:
    assert words in found(environment, tmp_path)[name].value


def test_harmless_settings_are_notes(tmp_path: Path) -> None:
    rows = list(doctor.examine({"DG_JIT_DEBUG": "1", "CUDA_LAUNCH_BLOCKING": "1"}, tmp_path))
    assert doctor.exit_code(rows) == 0
    assert {"DG_JIT_DEBUG", "CUDA_LAUNCH_BLOCKING"} <= {row.name for row in rows}


def test_half_written_cache_entries_are_a_problem(tmp_path: Path) -> None:
    entry = tmp_path / ".deep_gemm" / "cache" / "kernel.1"
    entry.mkdir(parents=True)
    (entry / "kernel.cubin").write_bytes(b"x")
    assert "DeepGEMM" not in found({}, tmp_path)
    (entry / "kernel.cu").write_bytes(b"")
    problem = found({}, tmp_path)["DeepGEMM"]
    assert "1 empty or half written" in problem.value
