"""A description of the machine is JSON, and absent parts are absent, not errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dgref import machine, timing


def test_a_machine_describes_itself_as_json() -> None:
    described = json.loads(json.dumps(machine.describe()))
    assert {"processor", "gpu", "architecture", "libraries", "dgref", "commit"} <= set(described)
    assert "numpy" in described["libraries"]


def test_libraries_that_are_absent_are_left_out() -> None:
    assert set(machine.library_versions(("numpy", "no-such-library"))) == {"numpy"}


def test_a_command_that_is_absent_or_fails_is_none() -> None:
    assert machine._output("no-such-command") is None
    assert machine._output("false") is None


def test_the_driver_answers_field_by_field_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(machine, "_output", lambda *command: asked.append(command[1]) or "1980 MHz, 350.21 W, 45")
    assert timing.sensors() == {"clock": "1980 MHz", "power": "350.21 W", "temperature": "45"}
    assert asked == ["--query-gpu=clocks.sm,power.draw,temperature.gpu"]
    monkeypatch.setattr(machine, "_output", lambda *command: None)
    assert timing.sensors() == {} and machine.nvidia_smi("driver_version") == []


def test_a_processor_without_cpuinfo_still_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    assert isinstance(machine._processor(), str)
