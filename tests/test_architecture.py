"""The house stays a house: imports go one way, and the public names are where they are promised."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import dgref

ROOT = Path(dgref.__file__).parent

# Lowest first. A module may import from its own room and from rooms above it in this list, never from one below.
ROOMS = [
    ("errors", "annotations", "registry", "arch", "version", "files", "tables"),
    ("formats",),
    ("reference",),
    ("inputs", "ops"),
    ("machine", "grid", "suite", "given", "suite_documentation", "timing", "buffers", "guards", "recordings"),
    ("compare",),
    ("backends", "deep_gemm"),
    ("nested", "results", "merging", "waivers", "journal"),
    ("answers", "expectation", "observation", "raised", "trial", "worker", "pool", "runner"),
    ("checkpoint", "exchange", "faults", "testing", "doctor"),
    ("report",),
    ("bench",),
    ("cli", "__main__"),
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
THIRD_PARTY_KERNELS = {"deep_gemm", "flashinfer", "cutlass", "vllm", "sgl_kernel", "transformer_engine"}


def test_the_page_names_every_room_in_this_order() -> None:
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = [
        name for line in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)/?`", line)
    ]
    assert set(named) == set(LEVEL) - {"__main__"}
    assert sorted(named, key=LEVEL.__getitem__) == named


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return every absolute name that a file imports, also inside functions; type-checking imports are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(node) for block in ast.walk(tree) if _is_type_checking(block) for node in ast.walk(block)}
    names = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    here = LEVEL[room(path)]
    for name in imported(path):
        if name.startswith("dgref."):
            there = name.split(".")[1]
            if there in LEVEL:
                assert LEVEL[there] <= here, f"{path.relative_to(ROOT)} imports {name}, which lies above it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_kernel_libraries_are_imported_by_their_own_backend_only(path: Path) -> None:
    foreign = {name.split(".")[0] for name in imported(path)} & THIRD_PARTY_KERNELS
    assert all(path.parent.name == "backends" and path.stem == name for name in foreign)


def test_no_relative_imports() -> None:
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level], path


@pytest.mark.parametrize("name", dgref.__all__)
def test_every_public_name_loads(name: str) -> None:
    assert getattr(dgref, name) is not None


def test_compare_is_both_a_room_and_a_function() -> None:
    import dgref.compare.verdict

    assert callable(dgref.compare)
    assert dgref.compare.verdict is not None
