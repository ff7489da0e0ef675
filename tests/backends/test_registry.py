"""Backends are found by their place, their entry point or their path; one that is broken does not stop the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dgref import backends as registry
from dgref.backends import backends, load_file, select, source_hashes, source_of
from dgref.backends.base import BackendBase, BufferKernel, FunctionKernel, Kernel, StoredKernel
from dgref.errors import DgrefError, FileError, InputError, UnknownNameError
from dgref.suite import load
from tests import samples


@pytest.mark.parametrize("name", backends())
def test_every_backend_keeps_the_contract_on_every_smoke_case(name: str) -> None:
    backend = backends()[name]
    assert backend.name == name
    assert backend.unavailable() is None or isinstance(backend.unavailable(), str)
    for case in load("smoke").cases:
        reason = backend.unsupported(case, None)
        assert reason is None or (isinstance(reason, str) and reason)
    assert backend.unavailable() is not None or isinstance(backend.provenance(), dict)


@pytest.mark.parametrize("made", [FunctionKernel(dict), StoredKernel({}), BufferKernel(lambda: None, {})])
def test_every_kind_of_kernel_is_a_kernel(made: Kernel) -> None:
    assert isinstance(made, Kernel)
    made.poison(0xFF)
    made()
    assert made.outputs() == {}


def test_a_family_a_name_and_a_path_select() -> None:
    assert {row.name for row in select(["reference"])} == {name for name in backends() if name.startswith("reference/")}
    assert [row.name for row in select(["torch/cpu", "torch/cpu"])] == ["torch/cpu"]
    assert {row.name.split("/")[0] for row in select([samples.MISBEHAVING])} == {"misbehaving"}
    assert source_of("misbehaving/exit") == samples.MISBEHAVING
    assert source_of("torch/cpu") == "torch/cpu"


def test_an_unknown_backend_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="torch/cpu"):
        select(["torch/cp"])


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("x = 1", InputError, "need a list BACKENDS"),
        ("BACKENDS = []", InputError, "BACKENDS: got an empty list, need at least one backend"),
        ("BACKENDS = [3]", InputError, "need a backend with a name"),
        ("import absent_library", FileError, "ModuleNotFoundError"),
        ("def f(:", FileError, "SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, error: type, words: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(error, match=words) as caught:
        load_file(path)
    assert "bad.py" in str(caught.value)
    assert isinstance(caught.value, DgrefError)


def test_a_file_may_not_take_a_name_that_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "taken.py"
    path.write_text("from dgref.backends.base import BackendBase\nclass B(BackendBase):\n    name = 'torch/cpu'\n"
                    "    def prepare(self, case, inputs): ...\nBACKENDS = [B()]\n")  # fmt: skip
    with pytest.raises(InputError, match="a name that no other backend has"):
        load_file(path)


def test_a_broken_entry_point_is_unavailable_with_its_reason() -> None:
    def fail() -> None:
        raise ImportError("libmine.so is missing")

    (row,) = registry._entry_backends(SimpleNamespace(name="mine", value="pkg:BACKENDS", load=fail))
    assert row.unavailable() == "pkg:BACKENDS cannot be imported: ImportError: libmine.so is missing"


def test_an_entry_point_may_name_one_backend_or_a_list() -> None:
    class Mine(BackendBase):
        name = "mine"

        def prepare(self, case: object, inputs: object) -> object:
            raise NotImplementedError

    for made in (Mine(), [Mine()], (Mine(),)):
        entry = SimpleNamespace(name="mine", value="pkg:BACKENDS", load=lambda made=made: made)
        assert [row.name for row in registry._entry_backends(entry)] == ["mine"]


SOLE = """from {module} import NAME
from dgref.backends.base import BackendBase
class B(BackendBase):
    name = NAME
    def prepare(self, case, inputs): ...
BACKENDS = [B()]
"""


def test_a_file_imports_its_neighbours_and_never_those_of_another_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "neighbour_of_two_folders.py").write_text(f"NAME = 'neighbour/{folder}'")
        (tmp_path / folder / "mine.py").write_text(SOLE.format(module="neighbour_of_two_folders"))
    assert load_file(tmp_path / "one" / "mine.py") == ["neighbour/one"]
    with pytest.raises(InputError, match="modules whose names tell folders apart"):
        load_file(tmp_path / "two" / "mine.py")
    assert set(source_hashes(["neighbour/one"])) == {
        str(tmp_path / "one" / name) for name in ("mine.py", "neighbour_of_two_folders.py")
    }
    assert source_hashes(["torch/cpu"]) == {}
