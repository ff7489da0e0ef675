"""The fault bench: is every injected fault caught and named, is no correct result called wrong, what do others say?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgref.compare.diagnosis import Diagnosis, diagnose
from dgref.compare.hypotheses import HYPOTHESES, Scene, State
from dgref.compare.metrics import Metrics, metrics
from dgref.compare.prediction import compute
from dgref.compare.ulp import paired_codes
from dgref.compare.verdict import Verdict, judge
from dgref.errors import DgrefError
from dgref.faults.injectors import RUNNER_FAULTS, Instance, differ, inject, injected_faults, misbehave
from dgref.faults.problems import PROBLEMS, state_of
from dgref.ops import OPS
from dgref.ops.typical import limit_arithmetic, operands_of

OTHERS: dict[str, Callable[[Metrics], bool]] = {
    "calc_diff < 1e-3": lambda m: m.calc_diff < 1e-3,
    "cosine > 0.99": lambda m: m.cosine > 0.99,
    "FlashInfer-Bench": lambda m: m.flashinfer_bench == 1.0,
    "torch.allclose": lambda m: m.allclose,
}
BARS = {"caught": 1.0, "named first": 0.95, "among the first three": 1.0}


@dataclass
class Outcome:
    """What became of one instance."""

    fault: str
    case: str
    caught: bool
    beyond_bound: bool  # caught even if no arithmetic were declared
    names: list[str]
    same_bits: bool  # what was named first gives the very same outputs
    passed: dict[str, bool]  # other projects' rules that call it right
    seconds: float
    sentence: str

    @property
    def first(self) -> bool:
        """Whether the fault's own name came first."""
        return self.names[:1] == [self.fault]

    @property
    def third(self) -> bool:
        """Whether it is among the first three."""
        return self.fault in self.names[:3]


@dataclass
class Bench:
    """Everything that a run of the bench found."""

    seed: int
    outcomes: list[Outcome] = field(default_factory=list)
    silent: int = 0  # injections that changed no output bit
    absent: list[str] = field(default_factory=list)  # faults for which no instance was found
    correct: int = 0
    alarms: list[str] = field(default_factory=list)  # correct results that were called wrong
    orders: int = 0  # correct results under an arithmetic other than the declared one
    unnamed_orders: list[str] = field(default_factory=list)  # those that the diagnosis did not call right
    seconds: float = 0.0

    def rate(self, what: Callable[[Outcome], bool]) -> float:
        """Return the share of instances for which something holds; all of none."""
        return sum(map(what, self.outcomes)) / len(self.outcomes) if self.outcomes else 1.0

    @property
    def ok(self) -> bool:
        """Whether every bar is met."""
        named = self.rate(lambda o: o.first or o.same_bits)
        rates = (self.rate(lambda o: o.caught), named, self.rate(lambda o: o.third or o.same_bits))
        met = all(rate >= bar for rate, bar in zip(rates, BARS.values(), strict=True))
        return met and not self.alarms and not self.unnamed_orders and not self.absent


def bench(
    seed: int = 0,
    instances: int = 400,
    correct: int = 2000,
    progress: Callable[[int, int], None] | None = None,
    only: tuple[str, ...] = (),
) -> Bench:
    """Inject faults into correct results and diagnose them; then judge correct results by many valid arithmetics."""
    started = time.perf_counter()
    result = Bench(seed)
    faults = [name for name in (*injected_faults(), *RUNNER_FAULTS) if not only or name in only]
    for number in range(instances):
        fault = faults[number % len(faults)]
        rng = np.random.default_rng([seed, number])
        _one_fault(result, fault, rng)
        if progress:
            progress(number + 1, instances + correct)
    for number in range(correct):
        _one_correct(result, np.random.default_rng([seed, 1 << 20, number]), number)
        if progress:
            progress(instances + number + 1, instances + correct)
    result.seconds = time.perf_counter() - started
    return result


def _one_fault(result: Bench, fault: str, rng: np.random.Generator) -> None:
    if fault in RUNNER_FAULTS:
        instance: Instance | None = misbehave(fault, rng)
    else:
        instance, silent = inject(fault, rng)
        result.silent += silent
    if instance is None:
        result.absent.append(fault)
    else:
        result.outcomes.append(outcome_of(instance))


def outcome_of(instance: Instance) -> Outcome:
    """Judge and diagnose one instance."""
    state = instance.state
    started = time.perf_counter()
    found = diagnose(state.case, state.inputs, instance.outputs, state.arithmetic, instance.evidence)
    seconds = time.perf_counter() - started
    verdict = _verdict(state, instance.outputs, state.arithmetic)
    shown = bool(instance.evidence.get("differing") or instance.fault in RUNNER_FAULTS)
    return Outcome(
        instance.fault,
        state.case.id,
        caught=shown or not verdict.reaches("model"),
        beyond_bound=shown or any(verdict.beyond_bound.values()),
        names=found.names,
        same_bits=found.status == "confirmed" and not found.benign and bool(found.ranked) and found.ranked[0].whole,
        passed=verdicts_of_others(instance),
        seconds=seconds,
        sentence=found.sentence,
    )


def _verdict(state: State, outputs: Mapping[str, np.ndarray], claim: Any) -> Verdict:
    op = OPS[state.case.op]
    limits = None
    if op.takes_arithmetic:
        limits = limit_arithmetic(state.case.op, operands_of(state.case), True)
    with np.errstate(all="ignore"):
        return judge(
            outputs,
            exact=lambda: op.compute(state.case, state.inputs, "exact"),
            model=(lambda: op.compute(state.case, state.inputs, claim)) if claim not in (None, "exact") else None,
            bound=(lambda: op.bound(state.case, state.inputs, limits)) if limits is not None else None,
            defined=op.defined(state.case, state.inputs),
        )


def verdicts_of_others(instance: Instance) -> dict[str, bool]:
    """Return which of the rules of other projects call the outputs right, compared with the correct ones.

    Elements that are not finite when correct are left out, as those projects do: their scores would be NaN.
    """
    passed = dict.fromkeys(OTHERS, True)
    defined = OPS[instance.state.case.op].defined(instance.state.case, instance.state.inputs)
    for name, correct in instance.correct.items():
        finite = np.isfinite(correct.astype(np.float64))
        mask = finite if defined.get(name) is None else finite & defined[name]
        with np.errstate(all="ignore"):
            scores = metrics(*paired_codes(instance.outputs[name], correct, None), mask)
        for rule, holds in OTHERS.items():
            passed[rule] &= bool(holds(scores))
    return passed


def valid_states(state: State) -> Iterator[State]:
    """Yield the same problem under every valid order of adding: other splits, trees, promotions, the exact one."""
    for name in ("reduction_order", "infinitely_precise"):
        yield from (row.change(state) for row in HYPOTHESES[name].misreadings(Scene(state)))


def _one_correct(result: Bench, rng: np.random.Generator, number: int) -> None:
    problem = PROBLEMS[("fp8", "mxfp8", "nvfp4", "rowwise", "bf16", "masked", "contiguous")[number % 7]]
    case = problem.case(rng)
    small = {axis: min(extent, 40) if axis in ("m", "n") else extent for axis, extent in case.shape.items()}
    state = state_of(replace(case, shape=small))
    states = [state, *valid_states(state)]
    for other in [states[int(i)] for i in rng.permutation(len(states))[:4]]:
        try:
            outputs = compute(other)
        except (DgrefError, ValueError):
            continue
        _judge_correct(result, state, other, outputs)


def _judge_correct(result: Bench, state: State, other: State, outputs: Mapping[str, np.ndarray]) -> None:
    result.correct += 1
    name = getattr(other.arithmetic, "name", other.arithmetic)
    undeclared = _verdict(state, outputs, None)
    if undeclared.level == "wrong" or not _verdict(state, outputs, other.arithmetic).reaches("model"):
        result.alarms.append(f"{state.case.id} under {name}")
    if result.correct % 10 == 0 and differ(state, compute(state), outputs):
        result.orders += 1
        found: Diagnosis = diagnose(state.case, state.inputs, outputs, state.arithmetic)
        if not found.benign:
            result.unnamed_orders.append(f"{state.case.id} under {name}: {found.sentence}")
