from __future__ import annotations

import shutil

import pytest

from dgref.backends.cuda import cache, disassembly, jit
from dgref.errors import UnavailableError

CONSTANTS = {"factor": 3, "type": "float"}


def has_cuobjdump() -> bool:
    try:
        return bool(disassembly.find_disassembler())
    except UnavailableError:
        return False


def test_a_missing_disassembler_names_what_would_help(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnavailableError, match="a CUDA toolkit, or the wheel triton"):
        disassembly.find_disassembler()


@pytest.mark.skipif(not has_cuobjdump(), reason="no cuobjdump on this machine")
def test_a_dump_of_the_assembly_lies_beside_the_entry(kernel_folder, cache_folder, monkeypatch):
    monkeypatch.setenv("DG_JIT_DUMP_ASM", "1")
    jit.compile_kernel("tiny/fill.cu", "fill", CONSTANTS)
    (entry,) = cache.entries()
    assert "EXIT" in entry.path.with_suffix(".sass").read_text()
    assert ".entry" in entry.path.with_suffix(".ptx").read_text()
