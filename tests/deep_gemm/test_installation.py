"""`import deep_gemm` finds the drop-in: in this process, below it, and in a program that knows nothing of dgref."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import torch
import deep_gemm
from deep_gemm.testing import calc_diff
from deep_gemm.utils.math import per_block_cast_to_fp8
from deep_gemm.utils import per_token_cast_to_fp8
import deep_gemm.utils.layout as layout

a, b = torch.randn(9, 256).bfloat16(), torch.randn(40, 256).bfloat16()
d = torch.empty(9, 40, dtype=torch.bfloat16)
deep_gemm.fp8_gemm_nt(per_token_cast_to_fp8(a, use_ue8m0=False), per_block_cast_to_fp8(b, use_ue8m0=False), d)
assert calc_diff(d, a @ b.t()) < 1e-3
assert layout.get_mk_alignment_for_contiguous_layout() == 128
print(deep_gemm.__name__, deep_gemm.__version__)
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_a_program_runs_unchanged(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = run("-m", "dgref.deep_gemm", str(program))
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["dgref.deep_gemm", "2.6.1"]


def test_a_program_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    found = run("-m", "dgref.deep_gemm", str(tmp_path / "missing.py"))
    said = f"dgref: program: got {tmp_path / 'missing.py'}, need a file that exists\n"
    assert (found.returncode, found.stderr) == (2, said)


def test_install_and_uninstall() -> None:
    from dgref.deep_gemm import install, uninstall

    install("deep_gemm_for_a_test")
    try:
        import deep_gemm_for_a_test.utils.math as math

        assert math.align(5, 4) == 8
    finally:
        uninstall("deep_gemm_for_a_test")
    assert not [name for name in sys.modules if name.startswith("deep_gemm_for_a_test")]


def test_a_library_that_is_imported_already_is_not_replaced() -> None:
    import pytest

    from dgref.deep_gemm import install
    from dgref.errors import InputError

    with pytest.raises(InputError, match=r"module json: got .*, need .*before anything imports it"):
        install("json")


def test_no_program_is_a_sentence_about_use() -> None:
    from dgref.deep_gemm.__main__ import main

    assert main([]) == 2
