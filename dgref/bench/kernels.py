"""Throughput of backends on a suite: medians of single launches timed with CUDA events, the L2 flushed before each.

Roofs are measured in the same run: a device copy, and torch's tensorwise FP8 and BF16 products of 8192 x 8192 x 8192.
Results are the runner's own, with time, rate and share of the roof, and clock, power and temperature beside them.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from dgref import machine
from dgref.backends import select
from dgref.backends.base import Backend
from dgref.errors import DgrefError, UnavailableError
from dgref.ops import OPS
from dgref.results import Result, Results
from dgref.suite import Case, OperandChoice, Suite
from dgref.trial import Settings, blank

FLUSH_BYTES = 256 << 20  # more than four times an H200's L2
TENSORWISE = "torch/cuda_fast"  # the peer without block scales: an unfair but hard target, the same on every machine
_SMI = "clocks.sm,power.draw,temperature.gpu"


def bench(suite: Suite, names: Sequence[str], launches: int = 20, peer: bool = True, progress: Any = None) -> Results:
    """Return timed results of every case on every backend, and of the tensorwise peer where a case has one."""
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError("bench: got no CUDA device, need one; `dgref bench codecs` and others run on a CPU")
    roof = measured_roof()
    results = Results(machine=machine.describe(), flags={"launches": launches, "roof": roof})
    for number, case in enumerate(suite.cases, 1):
        for result in _case_results(case, select(list(names)), launches, roof, peer):
            results.results.append(result)
            if progress:
                progress(number, len(suite.cases), result)
    return results


def _case_results(case: Case, backends: list[Backend], launches: int, roof: dict, peer: bool) -> Iterator[Result]:
    inputs = case.make_inputs()
    for backend in backends:
        yield _timed(case, inputs, backend, launches, roof)
    other = tensorwise(case) if peer else None
    if other is not None:
        yield _timed(other, other.make_inputs(), select([TENSORWISE])[0], launches, roof)


def tensorwise(case: Case) -> Case | None:
    """Return the same product without block scales, or None where that means nothing."""
    if case.op != "gemm" or not all(choice.recipe.startswith("deepseek_fp8") for choice in case.operands.values()):
        return None
    operands = {name: OperandChoice("per_tensor_fp8") for name in case.operands}
    return replace(case, id=f"{case.id} tensorwise", operands=operands, params={})


def _timed(case: Case, inputs: Any, backend: Backend, launches: int, roof: dict[str, float]) -> Result:
    result = blank(case, backend.name, Settings())
    result.reproduce = f"dgref bench {case.suite} --backend {backend.name}"
    reason = backend.unavailable() or backend.unsupported(case, machine.architecture())
    if reason:
        result.status, result.reason = "unsupported", reason
        return result
    try:
        kernel = backend.prepare(case, inputs)
        microseconds = median_microseconds(kernel, launches)
    except (DgrefError, RuntimeError) as error:
        result.status, result.reason = "error", str(error).splitlines()[0]
        return result
    result.status, result.level = "pass", None
    result.throughput = _rates(case, inputs, microseconds, roof)
    result.evidence = _sensors()
    result.provenance = backend.provenance()
    return result


def _rates(case: Case, inputs: Any, microseconds: float, roof: dict[str, float]) -> dict[str, float]:
    op = OPS[case.op]
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


def _sensors() -> dict[str, str]:
    """Return clock, power and temperature as the driver reports them; empty where it does not."""
    command = ["nvidia-smi", f"--query-gpu={_SMI}", "--format=csv,noheader", "--id=0"]
    try:
        line = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(("clock", "power", "temperature"), (part.strip() for part in line.split(",")), strict=False))
