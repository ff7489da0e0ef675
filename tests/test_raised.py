"""What a backend raises names its place, also where the backend is launched by itself."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dgref import backends
from dgref.cli.fingerprint import command
from dgref.errors import BackendError, UnsupportedError
from dgref.suite import load
from tests import samples

ADDRESSES = "--addresses"


def asked(backend: str, *options: str, case: str = "fp8-blocks") -> str:
    backends.load_file(samples.MISBEHAVING)
    arguments = ["smoke", "--case", case, "--backend", backend, "--budget", "0.1", *options]
    return CliRunner().invoke(command, arguments, standalone_mode=False, catch_exceptions=False).output


@pytest.mark.parametrize("option", [(), (ADDRESSES,)])
def test_what_a_backend_raises_while_it_is_asked_names_its_file_and_line(option: tuple[str, ...]) -> None:
    words = r"^misbehaving/raises raised ZeroDivisionError: division by zero \[misbehaving\.py, line \d+, in prepare\]$"
    with pytest.raises(BackendError, match=words) as caught:
        asked("misbehaving/raises", *option)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("option", [(), (ADDRESSES,)])
@pytest.mark.parametrize(("fault", "words"), [("no_output", "got nothing"), ("wrong_shape", "got shape ")])
def test_outputs_of_another_kind_are_named_as_a_run_names_them(fault: str, words: str, option: tuple[str, ...]) -> None:
    with pytest.raises(BackendError, match=f"^misbehaving/{fault}: output d: {words}"):
        asked(f"misbehaving/{fault}", *option)


def test_what_cannot_run_stays_what_it_is() -> None:
    with pytest.raises(UnsupportedError, match=r"^needs k % 16 == 0$"):
        asked("misbehaving/refuses_late")


def test_a_search_in_vain_says_how_to_ask_for_the_addresses() -> None:
    command = "dgref fingerprint smoke --case fp8-blocks --backend misbehaving/one_bit --addresses"
    assert asked("misbehaving/one_bit").endswith(f"it reads other payload or scales than it should: {command}\n")
    assert ADDRESSES not in asked("misbehaving/correct")


def test_stored_outputs_have_no_addresses_to_ask_for() -> None:
    name = "recorded/nvidia-h200/cuda"
    row = backends.backends()[name]
    case = next(case for case in load("smoke").cases if not row.unsupported(case, None) and case.op == "gemm")
    with pytest.raises(UnsupportedError, match=r"^addresses of recorded/.*: got stored outputs, need a kernel"):
        asked(name, ADDRESSES, case=case.id)
