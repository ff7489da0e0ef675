"""Measurements of dgref itself, one module a subject: each has `rows()` and prints them when run."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter


def best_seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the shortest of several runs after one that warms up: the machine's noise only adds."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def resident_peak() -> float:
    """Return the most memory that this process has held so far, in GiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
