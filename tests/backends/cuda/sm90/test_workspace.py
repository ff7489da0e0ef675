"""Counters are zero before any graph is captured, and no two streams share one."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch

from dgref.backends.cuda.sm90 import launch, workspace
from dgref.backends.cuda.sm90.configuration import configure
from dgref.backends.cuda.sm90.gemm import bf16_gemm
from dgref.backends.cuda.sm90.shape import Shape, Tile
from dgref.errors import UnsupportedError
from tests.backends.cuda.sm90.recording import keep_workspaces_here, record


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_workspaces_here(monkeypatch)


def capture(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("zeroed inside a capture")

    monkeypatch.setattr(workspace, "_capturing", lambda: True)
    monkeypatch.setattr(workspace, "_allocate", refuse)


def test_a_stream_that_is_captured_first_gets_counters_that_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.make_ready(0)
    before = workspace.arrivals(0, 7, 100)
    capture(monkeypatch)
    found = workspace.arrivals(0, 8, 16384)
    assert not found.any() and found.numel() >= 4 * 16384
    assert workspace.arrivals(0, 8, 3) is found and workspace.arrivals(0, 7, 100) is before
    starts = sorted(part.data_ptr() for part in (before, found))
    assert starts[1] - starts[0] >= before.numel()


def test_a_device_whose_first_launch_is_captured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    capture(monkeypatch)
    workspace.make_ready(0)
    with pytest.raises(UnsupportedError, match=r"CUDA graph: got the first .* need a launch of this shape before"):
        workspace.arrivals(0, 7, 1)


def test_many_streams_and_many_tiles_get_more() -> None:
    parts = [workspace.arrivals(0, stream, count) for stream in range(100) for count in (1, 20_000)]
    spans = sorted({(part.data_ptr(), part.data_ptr() + part.numel()) for part in parts})
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    assert all(part.data_ptr() % 64 == 0 for part in parts)


def test_a_buffer_that_is_outgrown_is_kept() -> None:
    small = workspace.partial_sums(0, 7, 64)
    assert workspace.partial_sums(0, 7, 1 << 20) is small
    large = workspace.partial_sums(0, 7, (1 << 20) + 1)
    assert large.numel() == 1 << 21 and any(held is small for held in workspace._OUTGROWN)


def split_product() -> None:
    """Multiply with K split: partial sums and counters are workspaces."""
    a, b = (torch.zeros(rows, 8192, dtype=torch.bfloat16) for rows in (16, 256))
    split = configure(Shape(16, 256, 8192, element="BF16", scaling="NONE"), Tile(64, 64, 1), 4, 132)
    bf16_gemm(a, b, torch.zeros(16, 256, dtype=torch.bfloat16), forced=split)


def held() -> list[weakref.ref]:
    return [weakref.ref(buffer) for buffer in workspace._BUFFERS.values()]


def test_workspaces_of_every_thread_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = record(monkeypatch)
    with ThreadPoolExecutor(1) as another:
        another.submit(split_product).result()
        before = held()
        launch.release_workspaces()
        assert len(before) == 2 and not any(buffer() is not None for buffer in before)
        another.submit(split_product).result()
    assert [name for name, *_ in driver.launches] == ["gemm", "gemm"] and len(held()) == 2


def test_a_launch_under_way_keeps_the_workspaces_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, alive = record(monkeypatch), []
    launch_one = driver.launch

    def released_first(*given: object) -> int:
        before = held()
        launch.release_workspaces()
        alive.extend(buffer() is not None for buffer in before)
        return launch_one(*given)

    driver.launch = released_first
    with ThreadPoolExecutor(1) as another:
        another.submit(split_product).result()
    assert alive == [True, True] and not workspace._BUFFERS
