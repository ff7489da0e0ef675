"""One case on one backend: make inputs, launch over poison, repeat, judge, describe. Runs inside a worker."""

from __future__ import annotations

import shlex
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dgref import machine, recordings, timing
from dgref.answers import check_whole
from dgref.backends import backends, source_of
from dgref.backends.base import Backend, BackendBase
from dgref.buffers import sha256
from dgref.compare.comparison import compare
from dgref.compare.error_map import error_map
from dgref.compare.verdict import Verdict, judge, same
from dgref.errors import FileError, UnavailableError, UnsupportedError, counted, seconds, whole_number
from dgref.expectation import Expectation
from dgref.nested import NOT_RECORDED
from dgref.observation import Observation, misfit_of, observe
from dgref.ops import OPS
from dgref.ops.typical import bound_of, published_arithmetics
from dgref.raised import classified, place, printable
from dgref.reference.dispatch import resolve
from dgref.results import UNJUDGED, Result, plain
from dgref.suite import Case

MOST_REPEATS = 1000  # a race that a thousand launches do not show needs another tool
MOST_TIMED = 10_000
Turn = Callable[[], Any]  # what returns the context in which a kernel is launched


@dataclass(frozen=True)
class Settings:
    """How a trial is made; travels to the worker."""

    timeout: float = 120.0
    repeats: int = 2
    diagnose: bool = True
    record: str | None = None  # folder into which outputs are saved, for `runner.pack` to join
    timed_launches: int = 0  # on a GPU: launches whose median is reported
    judge: bool = True

    def __post_init__(self) -> None:
        whole_number("repeats", self.repeats, 0, MOST_REPEATS)
        whole_number("timed launches", self.timed_launches, 0, MOST_TIMED)
        seconds("timeout", self.timeout)


@dataclass
class _Attempt:
    """What is known of a trial once the kernel has run."""

    truth: Expectation
    seen: Observation
    overwritten: list[str]  # inputs that the backend wrote into
    claim: Any  # the arithmetic that the backend declares
    limits: Any  # the arithmetic that bounds it
    provenance: dict[str, Any]
    repeatable: bool  # whether launching it on other inputs would show anything

    @property
    def case(self) -> Case:
        return self.truth.case

    @property
    def inputs(self) -> dict[str, Any]:
        return self.truth.inputs

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        return self.seen.outputs


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
        reproduce=_command(case, backend),
    )


def _command(case: Case, backend: str) -> str:
    """Return what runs the case again; nothing for a backend that is a Python object only."""
    if backend not in backends():
        return ""
    return f"dgref run {case.source} --case {shlex.quote(case.id)} --backend {source_of(backend)}"


def trial(
    case: Case,
    backend: Backend,
    settings: Settings,
    truth: Expectation | None = None,
    waiting: timing.Waiting = nullcontext,
) -> Result:
    """Return what became of one case on one backend; never raises for anything the backend did.

    `truth` is the case's expectation, where the caller keeps one for several backends; `waiting` returns the context in
    which a kernel that is timed waits for the GPU.
    """
    result = blank(case, backend.name, settings)
    with _timed(result, "total"):
        try:
            turn = partial(timing.turn, _is_timed(backend, settings), waiting)
            _fill(result, truth or Expectation(case), backend, settings, turn)
        except UnsupportedError as error:
            result.status, result.reason = "unsupported", str(error)
        except UnavailableError as error:
            result.status, result.reason = "unavailable", str(error)
        except MemoryError as error:
            result.status, result.reason = "out_of_memory", str(error) or "memory ran out"
        except Exception as error:
            result.status, result.reason = classified(error)
            result.evidence |= {"traceback": traceback.format_exc(limit=-6), "raised": place(error, backend)}
    for name in ("evidence", "provenance", "outputs", "diagnosis"):
        setattr(result, name, plain(getattr(result, name)))
    result.reason = printable(result.reason)
    return result


def _fill(result: Result, truth: Expectation, backend: Backend, settings: Settings, turn: Turn) -> None:
    reason = backend.unavailable()
    if reason is not None:
        raise UnavailableError(reason)
    reason = backend.unsupported(truth.case, machine.architecture())
    if reason is not None:
        raise UnsupportedError(reason)
    attempt = _launch(result, truth, backend, settings, turn)
    if not settings.judge:
        result.status, result.reason = "pass", UNJUDGED
        return
    misfit = misfit_of(truth.case, attempt.outputs)
    if misfit or attempt.overwritten:
        result.status, result.reason, result.level = "fail", misfit or _overwritten(attempt.overwritten), "wrong"
        return
    if settings.record:
        _record(result, Path(settings.record), backend.name, attempt)
    with _timed(result, "reference"):
        verdict = _verdict(attempt)
    _describe(result, attempt, verdict)
    with turn(), _timed(result, "verifier"):
        _check_whole(result, attempt)
    if result.bad and settings.diagnose:
        with _timed(result, "diagnosis"):
            _diagnose(result, attempt)


def _record(result: Result, target: Path, backend: str, attempt: _Attempt) -> None:
    """Save the outputs; that the disk is full says nothing about the backend, so that it is judged all the same."""
    try:
        recordings.save_part(target, backend, attempt)
    except FileError as error:
        result.evidence[NOT_RECORDED] = str(error)


def _is_timed(backend: Backend, settings: Settings) -> bool:
    return bool(settings.timed_launches) and getattr(backend, "device", "cpu") == "cuda"


def _launch(result: Result, truth: Expectation, backend: Backend, settings: Settings, turn: Turn) -> _Attempt:
    case, here = truth.case, machine.architecture()
    with _timed(result, "inputs"):
        inputs = truth.fresh_inputs()
    with _timed(result, "prepare"):
        kernel = backend.prepare(case, inputs)
    with turn():
        with _timed(result, "run"):
            seen = observe(kernel, settings.repeats, truth.defined)
        result.evidence.update(seen.evidence)
        if _is_timed(backend, settings):
            with _timed(result, "timing"):
                result.throughput = timing.throughput(case, inputs, kernel, settings.timed_launches)
            result.evidence.update(timing.sensors())
    result.provenance = backend.provenance()
    limits = getattr(backend, "limit_arithmetic", BackendBase().limit_arithmetic)
    claim = _claimed(backend, case)
    limit = resolve(limits(case, here)) if claim is None and truth.op.takes_arithmetic else claim
    repeatable = getattr(kernel, "repeatable", True)
    return _Attempt(truth, seen, truth.overwritten(inputs), claim, limit, result.provenance, repeatable)


def _claimed(backend: Backend, case: Case) -> Any:
    """Return the arithmetic that a backend declares: None, "exact", or the arithmetic of the name that it gave."""
    claim = backend.arithmetic(case, machine.architecture())
    model = resolve(claim)
    return claim if model is None else model


@contextmanager
def _timed(result: Result, stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    result.seconds[stage] = round(time.perf_counter() - started, 6)


def _overwritten(names: list[str]) -> str:
    return f"input {' and '.join(names)}: got other bits after the launch, need inputs that are only read"


def _verdict(attempt: _Attempt) -> Verdict:
    truth, claim, limits = attempt.truth, attempt.claim, attempt.limits
    return judge(
        truth.answers.part(attempt.outputs),
        exact=truth.exact,
        model=(lambda: truth.model(claim)) if claim not in (None, "exact") else None,
        bound=(lambda: truth.bound(limits)) if limits not in (None, "exact") else None,
        peers=lambda: map(truth.model, published_arithmetics(limits)),
        defined=truth.answers.defined(),
    )


def _check_whole(result: Result, attempt: _Attempt) -> None:
    """Where only a sample was judged, let the GPU check the rest against the declared arithmetic."""
    coverage = attempt.truth.answers.coverage()
    result.evidence.update(coverage)
    differing = check_whole(attempt) if coverage and not result.bad else None
    if differing is None:
        return
    elements = counted(attempt.outputs["d"].size, "element")
    result.evidence["verifier"] = f"{differing:,} of {elements} differ from {result.arithmetic}"
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
    result.evidence.update(_remarks(verdict))
    result.evidence["bits"] = {name: _digest(verdict, name) for name in verdict.expected}
    for name, right in verdict.expected.items():
        result.outputs[name] = _output(verdict.actual[name], right, verdict.defined.get(name), verdict)
    if attempt.seen.evidence.get("guards"):
        result.status, result.level, result.reason = "fail", "wrong", "; ".join(attempt.seen.evidence["guards"])
    elif attempt.seen.differing:
        result.status, result.reason = "nondeterministic", attempt.seen.differing[0]
    elif verdict.reaches(result.required):
        result.status = "pass"
    else:
        result.status, result.reason = "fail", _reason(result, attempt, verdict)


def _remarks(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Yield what a result that conforms still has to say."""
    unjudged = [f"{name}: {count:,} differing" for name, count in verdict.unbounded.items() if count]
    if unjudged:
        yield "not bounded here", "; ".join(unjudged)
    if verdict.gains:
        yield "gain", "; ".join(f"{name}: {gain.sentence()}" for name, gain in verdict.gains.items())


def _digest(verdict: Verdict, name: str) -> str:
    """Return a short hash of what was judged, undefined elements left out: two runs are compared by it."""
    mask = verdict.defined.get(name)
    return sha256(verdict.actual[name] if mask is None else verdict.actual[name][mask])[:16]


def _output(actual: np.ndarray, right: np.ndarray, mask: np.ndarray | None, verdict: Verdict) -> dict[str, Any]:
    """Return the comparison of one output as JSON: counts, ULP histogram, worst elements, where."""
    if not verdict.differing:
        return {"count": int(right.size), "differing": 0, "summary": f"all {right.size} equal"}
    different = ~same(actual, right, nan_equal=verdict.against == "exact")
    described = compare(actual, right, mask=mask, policy=verdict.policy, against=verdict.against).to_dict()
    return {**described, "map": error_map(different if mask is None else different & mask)}


def _reason(result: Result, attempt: _Attempt, verdict: Verdict) -> str:
    name = max(verdict.differing, key=lambda output: verdict.differing[output])
    described = result.outputs[name]
    beyond = verdict.beyond_bound.get(name, 0)
    bound = "" if attempt.limits in (None, "exact") else f"; {_within(beyond)} {bound_of(attempt.limits)}"
    return f"{name}: {described['summary']}{bound}; required {result.required}, got {verdict.level}"


def _within(beyond: int) -> str:
    return f"{beyond:,} of them beyond" if beyond else "all within"


def _diagnose(result: Result, attempt: _Attempt) -> None:
    """Name the cause; a search that fails is noted, and changes nothing about the verdict."""
    from dgref.compare import diagnose
    from dgref.compare.address_parts import refusal

    evidence = {**attempt.seen.evidence, "differing": attempt.seen.differing, "provenance": attempt.provenance}
    held = {"arithmetic": attempt.claim, "limits": None if attempt.claim else attempt.limits}
    try:
        found = diagnose(attempt.case, attempt.inputs, attempt.outputs, evidence=evidence, **held)
    except Exception as error:
        result.evidence["diagnosis"] = f"the search for a cause failed: {classified(error)[1]}"
        return
    probed = attempt.repeatable and refusal(attempt.case) is None and result.reproduce
    if found.status == "none" and not found.benign and not found.fix and probed:
        found.fix = "ask the kernel which payload and scales it reads"
        found.ask = f"{result.reproduce.replace('dgref run', 'dgref fingerprint', 1)} --addresses"
    result.diagnosis = found.to_dict()
