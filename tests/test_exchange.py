"""Kernels that Python cannot import are judged through files, and files that lie are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from dgref.cli import group
from dgref.errors import DgrefError, FileError, UnavailableError
from dgref.exchange import FolderBackend, export, read_manifest, verify
from dgref.ops import OPS
from dgref.suite import OperandChoice
from dgref.trial import Settings
from tests import samples

PROGRAM = Path(__file__).parent / "foreign_program.py"
QUICK = Settings(diagnose=False)


def suite(count: int = 2) -> samples.Suite:
    return samples.Suite("sample", "", tuple(samples.case(f"case-{i}", out="float32") for i in range(count)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    export(suite(), tmp_path / "x")
    subprocess.run([sys.executable, str(PROGRAM), str(tmp_path / "x")], check=True)
    return tmp_path / "x"


def test_a_program_that_knows_nothing_of_dgref_is_judged(folder: Path) -> None:
    results = verify(folder, QUICK)
    assert [row.status for row in results] == ["pass", "pass"]
    assert all(row.required == "bounded" for row in results)


def test_a_claimed_arithmetic_is_held_to_every_bit(folder: Path) -> None:
    path = sorted(folder.glob("*.outputs.safetensors"))[0]
    bits = load_file(path)["d"].copy()
    bits[0, 0] ^= 1
    save_file({"d": bits}, path)
    assert verify(folder, QUICK, arithmetic="exact").results[0].status == "fail"


def test_an_arithmetic_claimed_by_its_name_is_held_to_its_bits(folder: Path) -> None:
    path = sorted(folder.glob("*.outputs.safetensors"))[0]
    bits = load_file(path)["d"].copy()
    bits[0, 0] += 1e-6
    save_file({"d": bits}, path)
    first = verify(folder, QUICK, arithmetic="deep_gemm.sm90.bf16").results[0]
    assert (first.status, first.level, first.arithmetic) == ("fail", "bounded", "deep_gemm.sm90.bf16")


def test_a_program_may_have_run_on_a_narrow_accumulator(tmp_path: Path) -> None:
    operands = {"a": OperandChoice("deepseek_fp8"), "b": OperandChoice("deepseek_fp8_weight")}
    case = samples.case(shape={"m": 16, "n": 32, "k": 512}, operands=operands, out="float32")
    export(samples.Suite("sample", "", (case,)), tmp_path)
    made = OPS["gemm"].compute(case, case.make_inputs(), "deep_gemm.sm90.fp8_1d2d")
    save_file({"d": made["d"]}, FolderBackend(tmp_path).outputs_file(case))
    assert verify(tmp_path, QUICK).results[0].level == "bounded"
    assert verify(tmp_path, QUICK, architecture="sm90").results[0].level == "bounded"
    for architecture in ("cpu", "sm100"):
        result = verify(tmp_path, QUICK, architecture=architecture).results[0]
        assert result.level == "wrong" and "beyond the bound of an fp32 accumulator; required" in result.reason
        assert result.reproduce.endswith(f"--architecture {architecture}")
    with pytest.raises(DgrefError, match="architecture: got 'sm999', need"):
        verify(tmp_path, QUICK, architecture="sm999")
    ran = CliRunner().invoke(group, ["verify", str(tmp_path), "--architecture", "cpu"], standalone_mode=False)
    assert ran.return_value == 1 and "the bound of an fp32 accumulator" in " ".join(ran.output.split())


def test_an_output_without_elements_is_judged_like_any_other(tmp_path: Path) -> None:
    case = samples.case(shape={"m": 0, "n": 8, "k": 16}, out="float32")
    export(samples.Suite("sample", "", (case,)), tmp_path)
    save_file({"d": np.empty((0, 8), np.float32)}, FolderBackend(tmp_path).outputs_file(case))
    assert verify(tmp_path, QUICK).results[0].level == "exact"


def test_two_entries_of_one_case_are_an_error_and_not_one_judged(folder: Path) -> None:
    manifest = read_manifest(folder)
    manifest["cases"].append({**manifest["cases"][0], "outputs_file": "other.safetensors"})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FileError, match="two entries"):
        verify(folder, QUICK)


def test_outputs_may_be_stored_under_their_own_type(folder: Path) -> None:
    for path in folder.glob("*.outputs.safetensors"):
        save_file({"d": load_file(path)["d"].view(np.float32)}, path)
    assert verify(folder, QUICK).exit_code == 0


def test_the_commands_export_and_verify_go_together(tmp_path: Path) -> None:
    target = str(tmp_path / "x")
    made = CliRunner().invoke(group, ["export", "smoke", "--case", "bf16", "-o", target], standalone_mode=False)
    assert made.return_value == 0, made.output
    subprocess.run([sys.executable, str(PROGRAM), target], check=True)
    judged = CliRunner().invoke(group, ["verify", target, "-o", str(tmp_path / "report")], standalone_mode=False)
    assert judged.return_value == 0, judged.output
    assert (tmp_path / "report" / "index.html").exists()


def test_no_outputs_at_all_is_no_verdict(tmp_path: Path) -> None:
    export(suite(), tmp_path)
    with pytest.raises(UnavailableError, match="got no outputs"):
        verify(tmp_path, QUICK)


def test_a_missing_output_is_neither_wrong_nor_skipped_and_fails_the_gate(folder: Path) -> None:
    sorted(folder.glob("*.outputs.safetensors"))[0].unlink()
    results = verify(folder, QUICK)
    assert [row.status for row in results] == ["missing", "pass"]
    assert "no such file" in results.results[0].reason
    assert [row.wrong for row in results] == [False, False]
    assert results.exit_code == 1


def _reason(folder: Path) -> str:
    return verify(folder, QUICK).results[0].reason


def test_tampered_inputs_are_named(folder: Path) -> None:
    path = sorted(folder.glob("*.inputs.safetensors"))[0]
    arrays = load_file(path)
    arrays["a"] = arrays["a"] ^ 1
    save_file(arrays, path)
    assert "array 'a': got other bits, need those that the case generates" in _reason(folder)


def test_truncated_outputs_are_named(folder: Path) -> None:
    path = sorted(folder.glob("*.outputs.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-3])
    assert "unreadable" in _reason(folder)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"e": np.zeros((4, 8), np.uint32)}, "got only ['e'], need (4, 8) of float32 or uint32"),
        ({"d": np.zeros((8, 4), np.uint32)}, "got (8, 4) of U32"),
        ({"d": np.zeros((4, 8), np.uint16)}, "got (4, 8) of U16"),
    ],
)
def test_outputs_of_another_name_shape_or_width_are_named(folder: Path, arrays: dict, words: str) -> None:
    save_file(arrays, sorted(folder.glob("*.outputs.safetensors"))[0])
    assert words in _reason(folder)


def test_a_manifest_cannot_point_outside_its_folder(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"0001-case-0.outputs', '"../0001-case-0.outputs'))
    with pytest.raises(FileError, match="without a folder"):
        read_manifest(folder)


def test_a_folder_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="the manifest that `dgref export` writes"):
        read_manifest(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_damage_to_a_manifest_is_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    if not (tmp_path / "manifest.json").exists():
        export(suite(1), tmp_path)
    document = json.loads((tmp_path / "manifest.json").read_text())
    entry = document["cases"][0]
    victim = data.draw(st.sampled_from([document, entry, entry["case"], entry["case"]["shape"], entry["outputs"]]))
    key = data.draw(st.sampled_from(sorted(victim)))
    victim[key] = data.draw(st.none() | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=2))
    damaged = tmp_path / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / "manifest.json").write_text(json.dumps(document))
    try:
        FolderBackend(damaged)
    except DgrefError as error:
        assert "manifest.json" in str(error)
