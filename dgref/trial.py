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
from dgref.compare.comparison import compare
from dgref.compare.verdict import Verdict, judge, same
from dgref.errors import DgrefError, UnavailableError, UnsupportedError
from dgref.formats.native import to_numpy as host
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
    record: str | None = None  # folder into which outputs are saved for the backend `recorded`


def blank(case: Case, backend: str, settings: Settings) -> Result:
    """Return the result that a trial fills in: everything known before anything ran."""
    return Result(
        case=case.name,
        backend=backend,
        status="error",
        op=case.op,
        shape=dict(case.shape),
        recipes=OPS[case.op].recipes(case),
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
    equal = same(first[name], now[name], nan_equal=False)
    return not bool(equal.all() if defined is None else equal[defined].all())


def to_numpy(array: Any) -> np.ndarray:
    """Return a copy of a backend's output as a native NumPy array on the host."""
    if isinstance(array, np.ndarray):
        return array.copy()
    return np.array(host(array.detach().cpu()))


def _judge(
    result: Result,
    case: Case,
    op: Op,
    inputs: Any,
    outputs: dict[str, np.ndarray],
    claim: Any,
    differing: list[str],
    settings: Settings,
) -> None:
    with _timed(result, "reference"):
        verdict = _verdict(case, op, inputs, outputs, claim)
    result.level, result.arithmetic = verdict.level, claim if isinstance(claim, str) else getattr(claim, "name", None)
    result.required = required_level(case.expect, claim)
    defined = op.defined(case, inputs)
    result.outputs = {
        name: describe(outputs[name], verdict.expected[name], defined.get(name))
        for name in verdict.expected
        if name in outputs
    }
    if differing:
        result.status, result.reason = "nondeterministic", differing[0]
    elif verdict.reaches(result.required):
        result.status = "pass"
    else:
        result.status, result.reason = "fail", _reason(result, verdict)
    if result.bad and settings.diagnose:
        _diagnose(result, case, inputs, outputs, claim, differing)


def required_level(expect: str, claim: Any) -> str:
    """Return what a backend is held to: what the case expects, or the bound where it declares no arithmetic."""
    if claim is None:
        return "bounded"
    return "exact" if claim == "exact" or expect == "exact" else expect


def _verdict(case: Case, op: Op, inputs: Any, outputs: dict[str, np.ndarray], claim: Any) -> Verdict:
    model = None if claim in (None, "exact") else lambda: op.compute(case, inputs, claim)
    return judge(
        outputs,
        exact=lambda: op.compute(case, inputs, "exact"),
        model=model,
        bound=lambda: op.bound(case, inputs),
        defined=op.defined(case, inputs),
    )


def _reason(result: Result, verdict: Verdict) -> str:
    name = max(verdict.differing, key=verdict.differing.get, default="")
    where = result.outputs.get(name, {}).get("where", "")
    total = result.outputs.get(name, {}).get("elements", 0)
    parts = [f"{verdict.differing.get(name, 0)} of {total} elements of {name} differ from {verdict.against}"]
    parts += [f"({where})"] if where else []
    beyond = verdict.beyond_bound.get(name, 0)
    parts += [f"{beyond} of them beyond any rounding"] if beyond else ["all of them within the derived bound"]
    return ", ".join(parts) + f"; required {result.required}, got {verdict.level}"


def describe(actual: np.ndarray, expected: np.ndarray, mask: np.ndarray | None) -> dict[str, Any]:
    """Return the comparison of one output as JSON: counts, ULP histogram, worst elements, where."""
    return compare(actual, expected, mask=mask).to_dict()


def _diagnose(result: Result, case: Case, inputs: Any, outputs: Any, claim: Any, differing: list[str]) -> None:
    from dgref.compare import diagnose

    with _timed(result, "diagnosis"):
        evidence = {"differing": differing, "provenance": result.provenance}
        result.diagnosis = diagnose(case, inputs, outputs, arithmetic=claim, evidence=evidence).to_dict()
