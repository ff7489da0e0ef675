"""How often a kernel is launched, and what that tells."""

from __future__ import annotations

import time

import numpy as np

from dgref.backends.base import BufferKernel
from dgref.observation import REPEAT_SECONDS, observe


def slow(launches_that_are: range) -> BufferKernel:
    """Return a kernel of which some launches take as long as all repeats may."""
    d, count = np.zeros(4, np.float32), iter(range(100))

    def launch() -> None:
        d[:] = 1
        if next(count) in launches_that_are:
            time.sleep(REPEAT_SECONDS)

    return BufferKernel(launch, {"d": d})


def test_a_first_launch_that_compiles_leaves_time_for_repeats() -> None:
    assert observe(slow(range(1)), 1, {"d": None}).evidence["runs"] == 3


def test_a_slow_kernel_is_launched_over_each_pattern_and_no_more() -> None:
    assert observe(slow(range(100)), 1, {"d": None}).evidence["runs"] == 2
