"""SASS of a cubin, through the disassembler of a CUDA toolkit or of Triton."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

from dgref.errors import UnavailableError, expected


def disassemble(cubin: bytes) -> str:
    """Return the machine code of a cubin as text."""
    tool = find_disassembler()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(expected(tool, done.stderr.strip(), "a cuobjdump that reads this cubin"))
    return done.stdout


def find_disassembler() -> str:
    """Return the path of `cuobjdump`: on PATH, in /usr/local/cuda, or in Triton's wheel."""
    candidates = ["cuobjdump", "/usr/local/cuda/bin/cuobjdump"]
    triton = find_spec("triton")
    if triton and triton.origin:
        candidates.append(str(Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"))
    found = next(filter(None, map(shutil.which, candidates)), None)
    if found is None:
        raise UnavailableError(expected("cuobjdump", "none on PATH", "a CUDA toolkit, or the wheel triton"))
    return found
