"""Injected faults: the hypotheses' own transformations, run forwards, and runs that misbehave as real ones do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgref.compare.hypotheses import HYPOTHESES, Misreading, Scene, State
from dgref.compare.prediction import compute
from dgref.errors import DgrefError
from dgref.faults.problems import FINGERPRINT, PROBLEMS, state_of
from dgref.guards import Guarded, GuardedOutputs
from dgref.ops import OPS
from dgref.registry import Registry

_REFUSED = (DgrefError, ArithmeticError, ValueError, IndexError, KeyError)
_VARIANTS = 6  # tried of one fault on one case until one changes a bit


@dataclass(frozen=True, eq=False)
class Instance:
    """A case, its correct outputs, and what came out instead."""

    fault: str
    site: str
    state: State
    correct: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    evidence: Mapping[str, Any] = field(default_factory=dict)


def inject(fault: str, rng: np.random.Generator) -> tuple[Instance | None, int]:
    """Return an instance of a fault in a random case, and how often an injection changed no bit.

    A fault that changes nothing there is injected into another case; when it has changed nothing anywhere, into inputs
    of which every scale differs. Outputs that equal the exact result are right, whatever led to them.
    """
    silent = 0
    for kind in (None, None, FINGERPRINT, None, None, None, None, None):
        for name in _shuffled(list(PROBLEMS), rng):
            state = prepared(fault, state_of(PROBLEMS[name].case(rng, kind)), rng)
            instance, unchanged = _inject_into(fault, state, rng)
            silent += unchanged
            if instance is not None:
                return instance, silent
    return None, silent


def _inject_into(fault: str, state: State, rng: np.random.Generator) -> tuple[Instance | None, int]:
    variants = _shuffled(list(HYPOTHESES[fault].misreadings(Scene(state))), rng)[:_VARIANTS]
    if not variants:
        return None, 0
    right = [compute(state), compute(replace(state, arithmetic="exact"))]
    silent = 0
    for variant in variants:
        outputs = _wrong(state, variant)
        if outputs is not None and all(differ(state, correct, outputs) for correct in right):
            return Instance(fault, variant.site, state, right[0], outputs), silent
        silent += outputs is not None
    return None, silent


def _shuffled(items: list, rng: np.random.Generator) -> list:
    return [items[int(i)] for i in rng.permutation(len(items))]


def _wrong(state: State, variant: Misreading) -> dict[str, np.ndarray] | None:
    try:
        with np.errstate(all="ignore"):  # values are misread on purpose
            return compute(variant.change(state), variant.after, None)
    except _REFUSED:
        return None


def differ(state: State, correct: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> bool:
    """Say whether any defined bit of two sets of outputs differs."""
    from dgref.compare.verdict import same

    for name, mask in OPS[state.case.op].defined(state.case, state.inputs).items():
        different = ~same(outputs[name], correct[name], nan_equal=True)
        if (different if mask is None else different & mask).any():
            return True
    return False


# What some faults need of their inputs before they can show:


def _extreme_bytes(state: State, rng: np.random.Generator) -> State:
    """Put bytes 0 and 255 among UE8M0 scales."""
    for name, tensor in list(state.scaled()):
        if tensor.scaling.scale_format == "float8_e8m0fnu":
            codes = np.array(tensor.scale)
            flat = codes.reshape(-1)
            flat[int(rng.integers(flat.size))] = 255
            state = state.put(name, tensor.with_scale(codes))
            break
    return state


def _own_globals(state: State, rng: np.random.Generator) -> State:
    """Give every group its own global scale."""
    for name, tensor in list(state.scaled()):
        if tensor.global_scale is not None and len(tensor.shape) > 2:
            gains = 1 + rng.integers(1, 64, tensor.shape[:-2]).astype(np.float32) / 16
            scale = (np.float32(tensor.global_scale) * gains).astype(np.float32)
            state = state.put(name, replace(tensor, global_scale=scale))
    return state


_PREPARED: dict[str, Callable[[State, np.random.Generator], State]] = {
    "scale_extreme_byte": _extreme_bytes,
    "shard_global_scale_shared": _own_globals,
}


def prepared(fault: str, state: State, rng: np.random.Generator) -> State:
    """Return the state with what a fault needs of its inputs."""
    return _PREPARED[fault](state, rng) if fault in _PREPARED else state


# Faults that only a run shows:


@dataclass(frozen=True)
class RunnerFault:
    """A fault of a run: a kernel that misbehaves, or a provenance that contradicts itself."""

    name: str
    rows: tuple[int, ...]
    launch: Callable[[np.ndarray, int, int], None] | None = None  # (defined bits, poison, number of the launch)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    stray: Callable[[Guarded], None] | None = None  # writes outside an output


class MisbehavingKernel:
    """A kernel whose output is right but for what a runner fault does at each launch, inside the output or outside."""

    def __init__(self, instance: Instance, fault: RunnerFault):
        self._correct, self._fault = instance.correct, fault
        self._defined = OPS[instance.state.case.op].defined(instance.state.case, instance.state.inputs)
        self._pattern, self._count = 0, 0
        self.guarded = GuardedOutputs(instance.correct)

    def poison(self, pattern: int) -> None:
        """Fill memory, and remember what it holds."""
        self._pattern = pattern
        self.guarded.fill(pattern)

    def __call__(self) -> None:
        self._count += 1
        for name, array in self._correct.items():
            self.guarded[name][...] = array
        name = next(iter(self._correct))
        if self._fault.launch:
            self._spoil(self.guarded[name], self._defined[name], self._fault.launch)
        if self._fault.stray:
            self._fault.stray(self.guarded.parts[name])

    def _spoil(self, output: np.ndarray, mask: np.ndarray | None, launch: Callable) -> None:
        bits = output.view(f"u{output.dtype.itemsize}")
        mask = np.ones(output.shape, bool) if mask is None else mask
        chosen = bits[mask]
        launch(chosen, self._pattern, self._count)
        bits[mask] = chosen

    def outputs(self) -> Mapping[str, np.ndarray]:
        """Return what the last launch wrote."""
        return self.guarded


def _race(bits: np.ndarray, poison: int, number: int) -> None:
    if number > 2:
        bits[:8] ^= bits.dtype.type(number)


def _past_the_end(output: Guarded) -> None:
    output.bytes[output.stop : output.stop + output.array.itemsize] = 0x3A


def _writes_zeros(bits: np.ndarray, poison: int, number: int) -> None:
    bits[...] = 0


def _reads_memory(bits: np.ndarray, poison: int, number: int) -> None:
    bits[-16:] ^= bits.dtype.type(poison)


RUNNER_FAULTS: Registry[RunnerFault] = Registry(
    "runner fault",
    [
        RunnerFault("race", (38, 39, 40), _race),
        RunnerFault("uninitialised_memory", (25, 27), _reads_memory),
        RunnerFault("zeros_written", (43,), _writes_zeros),
        RunnerFault("out_of_bounds_write", (28,), stray=_past_the_end),
        RunnerFault("silent_fallback", (34,), None, {"requested_kernel": "fp8_1d2d", "kernel": "bf16_gemm"}),
        RunnerFault("wrong_architecture", (35,), None, {"architecture": "sm_90a", "built_for": "sm_80"}),
        RunnerFault("autotune_key_mismatch", (36,), None, {"problem_key": "m=64,k=512", "tuned_key": "m=64,k=256"}),
        RunnerFault("stale_artefact", (37,), None, {"source_hash": "9c41", "artefact_hash": "77aa"}),
    ],
)


def misbehave(fault: str, rng: np.random.Generator) -> Instance:
    """Return an instance of a runner fault, observed by the runner's own loop."""
    from dgref.observation import observe

    row = RUNNER_FAULTS[fault]
    problem = PROBLEMS[("fp8", "mxfp8", "bf16", "masked", "logits")[int(rng.integers(5))]]
    state = state_of(problem.case(rng))
    correct = compute(state)
    kernel = MisbehavingKernel(Instance(fault, "", state, correct, correct), row)
    seen = observe(kernel, 2, OPS[state.case.op].defined(state.case, state.inputs))
    evidence = {**seen.evidence, "differing": seen.differing, "provenance": dict(row.provenance)}
    return Instance(fault, "", state, correct, seen.outputs, evidence)


def injected_faults() -> Iterator[str]:
    """Yield the faults that recomputation shows; valid arithmetics are no faults."""
    return (name for name, row in HYPOTHESES.items() if not row.benign and name not in RUNNER_FAULTS)
