"""One case on one backend: make inputs, launch over poison, repeat, judge, describe. Runs inside a worker."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dgref import machine, recordings
from dgref.answers import answers_for, check_whole
from dgref.backends.base import Backend, BackendBase, Kernel
from dgref.compare.comparison import compare
from dgref.compare.error_map import error_map
from dgref.compare.verdict import Verdict, judge, same
from dgref.errors import DgrefError, UnavailableError, UnsupportedError
from dgref.formats.native import is_torch
from dgref.formats.native import to_numpy as host_view
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


@dataclass
class _Attempt:
    """What is known of a trial once the kernel has run."""

    case: Case
    op: Op
    inputs: dict[str, Any]
    outputs: dict[str, np.ndarray]
    differing: list[str]  # a sentence for each launch whose defined bits were not those of the first
    claim: Any  # the arithmetic that the backend declares
    limits: Any  # the arithmetic that bounds it
    provenance: dict[str, Any]


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
    with _timed(result, "total"):
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
    return result


def _classified(error: Exception) -> tuple[str, str]:
    text = str(error) if isinstance(error, DgrefError) else f"{type(error).__name__}: {error}"
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return ("out_of_memory" if any(mark in text for mark in OUT_OF_MEMORY) else "error"), first


def _fill(result: Result, case: Case, backend: Backend, settings: Settings) -> None:
    reason = backend.unavailable()
    if reason is not None:
        raise UnavailableError(reason)
    reason = backend.unsupported(case, machine.architecture())
    if reason is not None:
        raise UnsupportedError(reason)
    attempt = _launch(result, case, backend, settings)
    if settings.record:
        recordings.save_part(Path(settings.record), backend.name, attempt)
    with _timed(result, "reference"):
        verdict = _verdict(attempt)
    _describe(result, attempt, verdict)
    with _timed(result, "verifier"):
        _check_whole(result, attempt)
    if result.bad and settings.diagnose:
        with _timed(result, "diagnosis"):
            result.diagnosis = _diagnosis(attempt)


def _launch(result: Result, case: Case, backend: Backend, settings: Settings) -> _Attempt:
    here = machine.architecture()
    op = OPS[case.op]
    with _timed(result, "inputs"):
        inputs = case.make_inputs()
    with _timed(result, "prepare"):
        kernel = backend.prepare(case, inputs)
    with _timed(result, "run"):
        outputs, differing = observe(kernel, settings.repeats, op, inputs, case)
    result.evidence.update(runs=len(POISONS) + settings.repeats, poisons=[f"0x{p:02X}" for p in POISONS])
    result.provenance = backend.provenance()
    limits = getattr(backend, "limit_arithmetic", BackendBase().limit_arithmetic)
    claim = backend.arithmetic(case, here)
    limit = limits(case, here) if claim is None and op.takes_arithmetic else claim
    return _Attempt(case, op, inputs, outputs, differing, claim, limit, result.provenance)


@contextmanager
def _timed(result: Result, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    result.seconds[stage] = round(time.perf_counter() - started, 6)


def observe(kernel: Kernel, repeats: int, op: Op, inputs: Any, case: Case) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the outputs of the first launch, and a sentence for every later launch whose defined bits differ."""
    patterns = [*POISONS, *[POISONS[0]] * repeats]
    launches = (_outputs_over(kernel, pattern) for pattern in patterns)
    first = next(launches)
    defined = op.defined(case, inputs)
    differing = []
    for number, (pattern, outputs) in enumerate(zip(patterns[1:], launches, strict=True), 2):
        cause = "over another poison pattern" if pattern != patterns[0] else "repeated"
        changed = [name for name in outputs if _changed(first[name], outputs[name], defined.get(name))]
        differing += [f"output {name} changed when {cause} (launch {number})" for name in changed]
    return first, differing


def _outputs_over(kernel: Kernel, pattern: int) -> dict[str, np.ndarray]:
    kernel.poison(pattern)
    kernel()
    return {name: on_host(array) for name, array in kernel.outputs().items()}


def on_host(array: Any) -> np.ndarray:
    """Return a copy of a backend's output as a native NumPy array."""
    return np.array(host_view(array.detach().cpu() if is_torch(array) else array))


def _changed(first: np.ndarray, now: np.ndarray, mask: np.ndarray | None) -> bool:
    equal = same(first, now, nan_equal=False)
    return not bool(equal.all() if mask is None else equal[mask].all())


def _verdict(attempt: _Attempt) -> Verdict:
    answers = answers_for(attempt.op, attempt.case, attempt.inputs)
    modelled = attempt.claim not in (None, "exact")
    return judge(
        answers.part(attempt.outputs),
        exact=answers.exact,
        model=(lambda: answers.model(attempt.claim)) if modelled else None,
        bound=(lambda: answers.bound(attempt.limits)) if attempt.limits not in (None, "exact") else None,
        defined=answers.defined(),
    )


def _check_whole(result: Result, attempt: _Attempt) -> None:
    """Where only a sample was judged, let the GPU check the rest against the declared arithmetic."""
    coverage = answers_for(attempt.op, attempt.case, attempt.inputs).coverage()
    result.evidence.update(coverage)
    differing = check_whole(attempt) if coverage and not result.bad else None
    if differing is None:
        return
    result.evidence["verifier"] = f"{differing} of {attempt.outputs['d'].size} elements differ from {result.arithmetic}"
    if differing:
        result.status, result.level = "fail", "wrong"
        result.reason = f"d: {result.evidence['verifier']}, found by the verifier on the GPU"


def required_level(expect: str, claim: Any) -> str:
    """Return what a backend is held to: what the case expects, or the bound where it declares no arithmetic."""
    if claim is None:
        return "bounded"
    return "exact" if claim == "exact" else expect


def _describe(result: Result, attempt: _Attempt, verdict: Verdict) -> None:
    claim = attempt.claim
    result.level, result.arithmetic = verdict.level, claim if isinstance(claim, str | None) else claim.name
    result.required = required_level(attempt.case.expect, claim)
    for name, expected in verdict.expected.items():
        if name in verdict.actual and verdict.actual[name].shape == expected.shape:
            result.outputs[name] = _output(verdict.actual[name], expected, verdict.defined.get(name), verdict)
    if attempt.differing:
        result.status, result.reason = "nondeterministic", attempt.differing[0]
    elif verdict.reaches(result.required):
        result.status = "pass"
    else:
        result.status, result.reason = "fail", _reason(result, attempt, verdict)


def _output(actual: np.ndarray, expected: np.ndarray, mask: np.ndarray | None, verdict: Verdict) -> dict[str, Any]:
    """Return the comparison of one output as JSON: counts, ULP histogram, worst elements, where."""
    if not verdict.differing:
        return {"count": int(expected.size), "differing": 0, "summary": f"all {expected.size} equal"}
    different = ~same(actual, expected, nan_equal=verdict.against == "exact")
    described = compare(actual, expected, mask=mask, against=verdict.against).to_dict()
    return {**described, "map": error_map(different if mask is None else different & mask)}


def _reason(result: Result, attempt: _Attempt, verdict: Verdict) -> str:
    name = max(verdict.differing, key=lambda output: verdict.differing[output])
    described = result.outputs.get(name)
    if described is None:
        got = attempt.outputs[name].shape if name in attempt.outputs else "nothing"
        return f"output {name}: got {got}, need {verdict.expected[name].shape}"
    beyond = verdict.beyond_bound.get(name, 0)
    bound = f"; {beyond} of them beyond the derived bound" if beyond else "; all within the derived bound"
    return f"{name}: {described['summary']}{bound}; required {result.required}, got {verdict.level}"


def _diagnosis(attempt: _Attempt) -> dict[str, Any]:
    from dgref.compare import diagnose

    evidence = {"differing": attempt.differing, "provenance": attempt.provenance}
    found = diagnose(attempt.case, attempt.inputs, attempt.outputs, arithmetic=attempt.claim, evidence=evidence)
    return found.to_dict()
