"""What a launch says of itself is read from the binary, and what disagrees is what diagnosis finds."""

from __future__ import annotations

import pytest

from dgref.backends.cuda import jit
from dgref.backends.cuda.backend import BACKENDS
from dgref.backends.cuda.sm90 import launch
from dgref.backends.cuda.sm90.configuration import configuration
from dgref.backends.cuda.sm90.shape import Shape
from dgref.compare.runner_evidence import findings

CONSTANTS = {"factor": 3, "type": "float"}


def test_a_fresh_kernel_and_one_from_disk_agree_with_their_source(kernel_folder, cache_folder) -> None:
    first = jit.compile_kernel("tiny/fill.cu", "fill", CONSTANTS).provenance
    jit._kernel.cache_clear()
    assert jit.compile_kernel("tiny/fill.cu", "fill", CONSTANTS).provenance == first
    assert first["requested_kernel"] == first["kernel"] == "fill<3, float>"
    assert first["built_for"] == "sm_90a"
    assert not list(findings({"provenance": first}))


def test_a_source_that_changed_under_a_loaded_kernel_is_found(kernel_folder, cache_folder) -> None:
    kernel = jit.compile_kernel("tiny/fill.cu", "fill", CONSTANTS)
    header = kernel_folder / "tiny/scale.cuh"
    header.write_text(header.read_text().replace("kFactor * value", "kFactor + value"))
    (found,) = findings({"provenance": kernel.provenance})
    assert found.hypothesis == "stale_artefact"


def test_nothing_is_said_of_a_kernel_before_one_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgref.machine.architecture", lambda: type("Row", (), {"name": "sm90", "target": "sm_90a"}))
    assert set(BACKENDS[0].provenance()) == {"compiler", "architecture"}


def test_a_choice_is_printed_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DG_PRINT_CONFIGS", "1")
    monkeypatch.setattr(launch, "compile_kernel", lambda *_: None)
    launch.kernel_of.cache_clear()
    chosen = configuration(Shape(3, 200, 512), 132)
    launch.kernel_of(chosen)
    launch.kernel_of(chosen)
    launch.kernel_of.cache_clear()
    assert capsys.readouterr().err == f"dgref: {chosen}\n"


def test_one_multiprocessor_gets_no_cluster() -> None:
    assert all(configuration(Shape(m, 4096, 4096), 1).tile.cluster == 1 for m in (1, 128, 4096))
