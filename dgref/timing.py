"""Time of one launch, against what this card can do: medians by CUDA events, the L2 flushed before each launch.

The roof is measured once a process: a device copy, and torch's FP8 and BF16 products of 8192 x 8192 x 8192.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from dgref.errors import UnavailableError, expected
from dgref.machine import nvidia_smi
from dgref.ops import OPS
from dgref.suite import Case

FLUSH_BYTES = 256 << 20  # more than four times an H200's L2
_SENSORS = {"clock": "clocks.sm", "power": "power.draw", "temperature": "temperature.gpu"}
Waiting = Callable[[], AbstractContextManager[Any]]


@contextmanager
def _turn(waiting: Waiting) -> Iterator[None]:
    with _locked(waiting):  # until the file is closed or this process ends: a fork does not hold it
        yield


def _locked(waiting: Waiting) -> Any:
    import fcntl

    try:
        file = (Path(tempfile.gettempdir()) / f"dgref-gpu-{os.getuid()}.lock").open("a")
        with waiting():
            fcntl.lockf(file, fcntl.LOCK_EX)
    except OSError as error:
        need = "a file that can be locked, so that one process at a time is timed: set TMPDIR"
        raise UnavailableError(expected("turn at the GPU", error, need)) from error
    return file


def turn(timed: bool, waiting: Waiting = nullcontext) -> Any:
    """Return a context in which this process has the GPU to itself, among those that time kernels, where it does so.

    Inputs and references of other cases are computed meanwhile, and what a backend prepares. While this process waits
    it is in the context that `waiting` returns. Where there are no such locks, nobody waits.
    """
    return _turn(waiting) if timed and os.name == "posix" else nullcontext()


def throughput(case: Case, inputs: Mapping[str, Any], launch: Callable[[], None], launches: int) -> dict[str, float]:
    """Return the time of a launch, its rates, and the share of the roof that the larger of its two floors makes up."""
    microseconds = median_microseconds(launch, launches)
    op, roof = OPS[case.op], measured_roof()
    flops, moved = op.flops(case, inputs), op.bytes(case, inputs)
    peak = roof["bf16_tflops" if "bfloat16" in op.recipes(case).values() else "fp8_tflops"]
    floor = max(flops / peak * 1e-6, moved / roof["gigabytes_per_second"] * 1e-3)
    return {
        "microseconds": round(microseconds, 3),
        "tflops": round(flops / microseconds * 1e-6, 3),
        "gigabytes_per_second": round(moved / microseconds * 1e-3, 3),
        "of_roof": round(floor / microseconds, 4),
    }


def median_microseconds(launch: Callable[[], None], launches: int = 20) -> float:
    """Return the median time of one launch, the L2 full of other data before each."""
    import torch

    for _ in range(3):
        launch()
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(launches)]
    for start, stop in pairs:
        flush.zero_()
        start.record()
        launch()
        stop.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(stop) * 1e3 for start, stop in pairs)


@cache
def measured_roof() -> dict[str, float]:
    """Return the copy bandwidth (read plus written) and the matrix rates of this card, on random data."""
    import torch

    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    copied = 2 * source.numel() / median_microseconds(lambda: target.copy_(source), 10) * 1e-3
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    bf16 = 2 * size**3 / median_microseconds(lambda: torch.mm(a, b.t()), 10) * 1e-6
    left, right, one = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn), torch.ones((), device="cuda")
    options = {"out_dtype": torch.bfloat16, "use_fast_accum": True}
    fp8 = 2 * size**3 / median_microseconds(lambda: torch._scaled_mm(left, right.t(), one, one, **options), 10) * 1e-6
    return {"gigabytes_per_second": round(copied, 1), "bf16_tflops": round(bf16, 1), "fp8_tflops": round(fp8, 1)}


def sensors() -> dict[str, str]:
    """Return clock, power and temperature as the driver reports them; empty where it does not."""
    return dict(zip(_SENSORS, nvidia_smi(*_SENSORS.values()), strict=False))
