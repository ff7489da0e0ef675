"""The tuner launches what it says it times, each configuration once, and names what was chosen and what was best."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from dgref.backends.cuda.sm90 import tune
from dgref.backends.cuda.sm90.configuration import candidates, configuration
from dgref.backends.cuda.sm90.shape import Shape
from dgref.errors import InputError
from tests.backends.cuda.sm90.recording import CPU, Driver, record

OPTIONS = {"element": "E4M3", "scaling": "BLOCK", "weights": "AS_A", "schedule": "DENSE", "output": "BF16"}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = record(monkeypatch)
    monkeypatch.setattr(tune, "current_device", lambda: CPU)
    monkeypatch.setattr(tune, "multiprocessors", lambda device: 132)
    launched = iter(range(1, 10_000))

    def median(launch, launches):
        before = len(driver.launches)
        launch()
        assert len(driver.launches) > before and driver.launches[-1][0] == "gemm"
        return 1000.0 / next(launched)  # the last one is the best

    monkeypatch.setattr(tune, "median_microseconds", median)
    return driver


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("48x384x512", {}),
        ("48x384x512", {"scaling": "VECTOR", "output": "F32", "accumulate": True}),
        ("48x384x512", {"element": "BF16", "scaling": "NONE"}),
        ("48x384x512", {"element": "BF16", "scaling": "NONE", "accumulate": True}),
        ("16x384x512", {"scaling": "VECTOR_32", "weights": "E2M1"}),
        ("16x384x512", {"scaling": "POWERS_32", "weights": "E2M1"}),
        ("3x64x384x512", {"schedule": "MASKED", "scaling": "POWERS", "weights": "E2M1"}),
        ("2x128x384x512", {"schedule": "LABELLED"}),
        ("3x64x384x512", {"schedule": "MASKED"}),
        ("3x64x384x512", {"schedule": "MASKED", "element": "BF16", "scaling": "NONE"}),
    ],
)
def test_every_configuration_near_the_least_estimate_is_launched(driver: Driver, text: str, changes: dict) -> None:
    shape, groups = tune.shape_of(text, OPTIONS | changes)
    found = tune.timed(shape, groups, 1.3, 3, device="cpu")
    assert found[0].configuration == configuration(shape, 132)
    assert {row.configuration for row in found} == {
        way for way, clocks in candidates(shape, 132).items() if clocks <= 1.3 * min(candidates(shape, 132).values())
    }
    grids = [launch[1] for launch in driver.launches if launch[0] == "gemm"]
    assert grids == [row.configuration.blocks for row in found]


def test_rows_of_contiguous_groups_lie_in_one_operand() -> None:
    shape, groups = tune.shape_of("4x8192x4096x7168", OPTIONS | {"schedule": "LABELLED"})
    assert (shape.m, shape.groups, groups) == (32768, 1, 4)


@pytest.mark.parametrize("text", ["64x64", "axbxc", "1x2x3x4x5", "2x64x64x64", "0x64x64"])
def test_a_shape_that_is_none_gets_a_sentence(text: str) -> None:
    with pytest.raises(InputError, match=f"shape: got '{text}', need "):
        tune.shape_of(text, OPTIONS)


def test_the_chosen_one_is_shown_beside_the_best(driver: Driver, monkeypatch, tmp_path) -> None:
    real = tune.timed
    monkeypatch.setattr(tune, "timed", lambda *arguments: real(*arguments, device="cpu"))
    path = tmp_path / "tune.json"
    monkeypatch.setattr(tune.machine, "leave_without_gpu", lambda: None)
    result = CliRunner().invoke(tune.main, ["48x384x512", "--slack", "1.4", "-o", str(path)], catch_exceptions=False)
    rows = json.loads(path.read_text())
    first, *others, last = result.output.splitlines()
    ratio = rows[0]["microseconds"] / rows[-1]["microseconds"]
    assert f"{len(rows)} configurations, the chosen one takes {ratio:.3f} times" in first
    assert len(others) == 6 and others[-1].endswith("<- chosen")
    assert last == f"geometric mean over 1 shapes: {ratio:.3f}"
    assert Shape(**rows[0]["configuration"]["shape"]) == Shape(48, 384, 512)
