"""`pytest --dgref-backend NAME --dgref-suite SUITE`: every case is a test that passes, fails or skips."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import samples

SUITE = """
[[case]]
id = "x"
why = "y"
op = "gemm"
shape = { m = 4, n = 8, k = 16 }
a = "bfloat16"
b = "bfloat16"
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    (folder / "one.toml").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_cases_pass_fail_and_skip_as_tests(tmp_path: Path) -> None:
    names = "correct or one_bit or refuses_late or exit"
    done = run(
        tmp_path,
        "--dgref-suite",
        "./one.toml",
        "--dgref-backend",
        samples.MISBEHAVING,
        "--dgref-no-diagnosis",
        "-k",
        names,
    )
    assert "1 passed" in done.stdout
    assert "2 failed" in done.stdout
    assert "1 skipped" in done.stdout
    assert "1 of 32 bfloat16 elements differ" in done.stdout
    assert "the process exited with code 7" in done.stdout
    assert "needs k % 16 == 0" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dgref-suite", "smoke"], "go together"),
        (["--dgref-suite", "smok", "--dgref-backend", "reference"], "need smoke"),
    ],
)
def test_bad_options_are_usage_errors(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 4
    assert words in done.stderr


def test_a_gate_under_which_nothing_ran_is_not_green(tmp_path: Path) -> None:
    chosen = ("--dgref-suite", "./one.toml", "--dgref-backend", samples.MISBEHAVING, "-k", "refuses_late")
    done = run(tmp_path, *chosen)
    assert "1 skipped" in done.stdout
    assert done.returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_why_nothing_ran_is_said_without_another_option(tmp_path: Path) -> None:
    chosen = ("--dgref-suite", "./one.toml", "--dgref-backend", samples.MISBEHAVING, "-k", "refuses_late")
    assert "dgref: no case ran: 1 x needs k % 16 == 0" in run(tmp_path, *chosen).stdout
    some = run(tmp_path, *chosen[:-1], "refuses_late or correct").stdout
    assert "1 passed" in some and "no case ran" not in some
