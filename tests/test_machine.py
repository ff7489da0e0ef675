"""A description of the machine is JSON, and absent parts are absent, not errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgref import machine


def test_a_machine_describes_itself_as_json() -> None:
    described = json.loads(json.dumps(machine.describe()))
    assert {"processor", "gpu", "architecture", "libraries", "dgref", "commit"} <= set(described)
    assert "numpy" in described["libraries"]


def test_libraries_that_are_absent_are_left_out() -> None:
    assert set(machine.library_versions(("numpy", "no-such-library"))) == {"numpy"}


def test_a_command_that_is_absent_or_fails_is_none() -> None:
    assert machine._output("no-such-command") is None
    assert machine._output("false") is None


def test_a_processor_without_cpuinfo_still_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert isinstance(machine._processor(), str)
