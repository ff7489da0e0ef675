"""One case on one backend: make inputs, launch over poison, repeat, judge, describe. Runs inside a worker."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgref import machine
from dgref.backends.base import Backend, Kernel
from dgref.errors import DgrefError, UnavailableError, UnsupportedError
from dgref.ops import OPS, Op
from dgref.results import Result
from dgref.suite import Case

POISONS = (0xFF, 0x55)  # NaN in every format that has one; then an ordinary number
OUT_OF_MEMORY = ("out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "Unable to allocate")


@dataclass(frozen=True)
class Settings:
    """How a trial is made; travels to the worker."""

    timeout: float = 120.0
    repeats: int = 2
    diagnose: bool = True


def blank(case: Case, backend: str, settings: Settings) -> Result:
    """Return the result that a trial fills in: everything known before anything ran."""
    return Result(
        case=case.name,
        backend=backend,
        status="error",
        op=case.op,
        shape=dict(case.shape),
        recipes={name: choice.recipe for name, choice in case.operands.items()},
        layouts={name: choice.layout for name, choice in case.operands.items() if choice.layout},
        out=case.out,
        why=case.why,
        required=case.expect,
        reproduce=f"dgref run {case.suite or 'SUITE'} --case {case.id} --backend {backend}",
    )


def trial(case: Case, backend: Backend, settings: Settings) -> Result:
    """Return what became of one case on one backend; never raises for anything the backend did."""
    result = blank(case, backend.name, settings)
    started = time.perf_counter()
    try:
        _fill(result, case, backend, settings)
    except UnsupportedError as error:
        result.status, result.reason = "unsupported", str(error)
    except UnavailableError as error:
        result.status, result.reason = "unavailable", str(error)
    except MemoryError as error:
        result.status, result.reason = "out_of_memory", str(error) or "memory ran out"
    except Exception as error:
        result.status, result.reason = _classified(error)
        result.evidence["traceback"] = traceback.format_exc(limit=-6)
    result.seconds["total"] = round(time.perf_counter() - started, 6)
    return result


def _classified(error: Exception) -> tuple[str, str]:
    text = str(error) if isinstance(error, DgrefError) else f"{type(error).__name__}: {error}"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return ("out_of_memory" if any(mark in text for mark in OUT_OF_MEMORY) else "error"), first


def _fill(result: Result, case: Case, backend: Backend, settings: Settings) -> None:
    here = machine.architecture()
    for status, reason in (("unavailable", backend.unavailable()), ("unsupported", backend.unsupported(case, here))):
        if reason is not None:
            result.status, result.reason = status, reason
            return
    op = OPS[case.op]
    with _timed(result, "inputs"):
        inputs = case.make_inputs()
    with _timed(result, "prepare"):
        kernel = backend.prepare(case, inputs)
    with _timed(result, "run"):
        outputs, differing = observe(kernel, settings.repeats, op, inputs, case)
    result.evidence.update(runs=len(POISONS) + settings.repeats, poisons=[f"0x{p:02X}" for p in POISONS])
    result.provenance = backend.provenance()
    _judge(result, case, op, inputs, outputs, backend.arithmetic(case, here), differing, settings)


@contextmanager
def _timed(result: Result, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    result.seconds[stage] = round(time.perf_counter() - started, 6)


def observe(kernel: Kernel, repeats: int, op: Op, inputs: Any, case: Case) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the outputs of the first launch, and a sentence for every later launch whose defined bits differ."""
    first: dict[str, np.ndarray] | None = None
    differing = []
    patterns = [*POISONS, *[POISONS[0]] * repeats]
    for number, pattern in enumerate(patterns, 1):
        kernel.poison(pattern)
        kernel()
        outputs = {name: to_numpy(array) for name, array in kernel.outputs().items()}
        if first is None:
            first = outputs
            continue
        cause = "over another poison pattern" if pattern != patterns[0] else "repeated"
        differing += [
            f"output {name} changed when {cause} (launch {number})"
            for name in outputs
            if _changed(first, outputs, name, op, inputs, case)
        ]
    assert first is not None
    return first, differing


def _changed(first: dict, now: dict, name: str, op: Op, inputs: Any, case: Case) -> bool:
    defined = op.defined(case, inputs).get(name)
    same = bits(first[name]) == bits(now[name])
    return not bool(same.all() if defined is None else same[defined].all())


def bits(array: np.ndarray) -> np.ndarray:
    """Return a native array's bits as unsigned integers, without a copy."""
    return array.view(np.dtype(f"u{array.dtype.itemsize}")) if array.dtype.kind != "u" else array


def to_numpy(array: Any) -> np.ndarray:
    """Return a copy of a backend's output as a native NumPy array on the host."""
    if isinstance(array, np.ndarray):
        return array.copy()
    from dgref.formats import native_from_torch

    return native_from_torch(array).copy()
