"""Timing as DeepGEMM's tests do it; `dgref bench` measures with more care."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from dgref.errors import InputError, expected

_CACHE_BYTES, _FLUSH_BYTES = 256_000_000, 8_000_000_000
_OUTPUTS = (1, 2)  # where C writes, whatever sys.stdout is
_BUSY_CYCLES = 20_000_000  # about 10 ms: enough for every rank to catch up


def bench(fn: Callable, num_warmups: int = 5, num_tests: int = 10, high_precision: bool = False) -> float:
    """Return the mean seconds of a call, launches included; on a machine without a GPU, of the CPU."""
    if not torch.cuda.is_available():
        return _bench_on_cpu(fn, num_warmups, num_tests)
    torch.cuda.synchronize()
    torch.empty(_CACHE_BYTES // 4, dtype=torch.int32, device="cuda").zero_()
    for _ in range(num_warmups):
        fn()
    if high_precision:  # a long kernel hides the first launches
        long = torch.randn((8192, 8192), device="cuda")
        torch.mm(long, long)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(num_tests):
        fn()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / num_tests / 1e3


def _bench_on_cpu(fn: Callable, num_warmups: int, num_tests: int) -> float:
    for _ in range(num_warmups):
        fn()
    begun = time.perf_counter()
    for _ in range(num_tests):
        fn()
    return (time.perf_counter() - begun) / num_tests


class empty_suppress(nullcontext):
    """A context that does nothing."""


class suppress_stdout_stderr:
    """A context in which nothing of this process is printed, not even by libraries in C."""

    def __enter__(self) -> suppress_stdout_stderr:
        self._streams = (sys.stdout, sys.stderr)
        self._saved = [os.dup(target) for target in _OUTPUTS]
        self._null = open(os.devnull, "w")  # open as long as the context
        for target in _OUTPUTS:
            os.dup2(self._null.fileno(), target)
        sys.stdout = sys.stderr = self._null
        return self

    def __exit__(self, *_: Any) -> None:
        sys.stdout, sys.stderr = self._streams
        for target, saved in zip(_OUTPUTS, self._saved, strict=True):
            os.dup2(saved, target)
            os.close(saved)
        self._null.close()


def bench_kineto(
    fn: Callable,
    kernel_names: str | tuple[str, ...],
    num_tests: int = 30,
    suppress_kineto_output: bool = False,
    trace_path: str | None = None,
    flush_l2: bool = True,
    with_multiple_kernels: bool = False,
    barrier: Callable | None = None,
) -> Any:
    """Return the mean seconds of the kernels whose names contain `kernel_names`, from the profiler; 0 for no such one.

    On a machine without a GPU it is the time of a whole call, for every name.
    """
    names = (kernel_names,) if isinstance(kernel_names, str) else kernel_names
    if int(os.environ.get("DG_USE_NVIDIA_TOOLS", 0)):
        times = (1,) * len(names)
    elif not torch.cuda.is_available():
        times = (_bench_on_cpu(fn, 1, num_tests),) * len(names)
    else:
        fn()  # whatever is compiled or tuned on the first call
        with suppress_stdout_stderr() if suppress_kineto_output else empty_suppress():
            profiler = _profile(fn, num_tests, flush_l2, barrier)
        if trace_path is not None:
            profiler.export_chrome_trace(trace_path)
        times = tuple(_kernel_time(profiler, name, with_multiple_kernels) for name in names)
    return times[0] if isinstance(kernel_names, str) else times


def _profile(fn: Callable, num_tests: int, flush_l2: bool, barrier: Callable | None) -> Any:
    schedule = torch.profiler.schedule(wait=0, warmup=1, active=1, repeat=1)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, schedule=schedule, acc_events=True) as profiler:
        for _ in range(2):
            for _ in range(num_tests):
                if flush_l2:
                    torch.empty(_FLUSH_BYTES // 4, dtype=torch.int32, device="cuda").zero_()
                if barrier is not None:
                    torch.cuda._sleep(_BUSY_CYCLES)
                    barrier()
                fn()
            torch.cuda.synchronize()
            profiler.step()
    return profiler


def _kernel_time(profiler: Any, name: str, several: bool) -> float:
    found = [event for event in profiler.key_averages() if re.search(re.escape(name), event.key)]
    if len(found) > 1 and not several:
        need = "one kernel of that name, or with_multiple_kernels=True"
        raise InputError(expected(f"kernel {name!r}", [event.key for event in found], need))
    count = sum(event.count for event in found)
    return sum(event.device_time_total for event in found) / count / 1e6 if count else 0


__all__ = ["bench", "bench_kineto", "empty_suppress", "suppress_stdout_stderr"]
