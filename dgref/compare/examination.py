"""What a diagnosis looks at: outputs of a case, what they should be, where they are wrong, what would explain them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from dgref.compare.gain import Gain, unexplained
from dgref.compare.hypotheses import Misreading, State
from dgref.compare.k_blocks import locate_k
from dgref.compare.prediction import Agreement, Observation, agree, compute, cut
from dgref.compare.relation import relation
from dgref.compare.suspects import choose_part, projected_places, suspect_places, suspects
from dgref.compare.verdict import same
from dgref.errors import counted
from dgref.ops import OPS, Part
from dgref.ops.typical import (
    bound_of,
    limit_arithmetic,
    operands_of,
    published_arithmetics,
    typical_arithmetic,
)
from dgref.reference.arithmetic import resolve
from dgref.reference.limits import within

SMALL = 1 << 27  # multiply-adds that are recomputed whole before anything else: a tenth of a second
_STAGE = 128  # of K: the block whose share of an error is measured


class Examination:
    """Observed outputs beside what should have come out, and how far a misreading explains the difference."""

    def __init__(
        self,
        case: Any,
        inputs: Any,
        observed: Mapping[str, np.ndarray],
        arithmetic: Any,
        limits: Any = None,
        poisoned: bool = False,
    ):
        self.op = op = OPS[case.op]
        self.declared = arithmetic is not None or not op.takes_arithmetic
        operands = operands_of(case)
        typical = None if self.declared else typical_arithmetic(case.op, operands)
        chosen = (arithmetic or "exact") if self.declared else typical
        limits = None if self.declared else resolve(limits or limit_arithmetic(case.op, operands, True))
        self.state = State(case, dict(inputs), chosen)
        self.poisoned = poisoned  # the outputs, before what was observed
        self.observation = Observation(case, observed, op.defined(case, inputs), limits)
        self.work = op.flops(case, inputs) // 2
        self.tried = 0

    @cached_property
    def elements(self) -> int:
        """How many elements the op defines."""
        masks = self.observation.defined
        sizes = {n: array.size for n, array in self.observation.outputs.items()}
        return sum(size if masks.get(n) is None else int(np.count_nonzero(masks[n])) for n, size in sizes.items())

    @property
    def name(self) -> str:
        """What outputs are compared with."""
        arithmetic = self.state.arithmetic
        return getattr(arithmetic, "name", arithmetic)

    @property
    def bound(self) -> str:
        """What outputs are held to beside bits, in words; nothing where every bit must agree."""
        limits = self.observation.limits
        return "" if limits is None else bound_of(limits)

    @property
    def excluded(self) -> bool:
        """Whether outputs that are right in every bit under the arithmetic assumed for them are beyond their limits."""
        if self.declared or self.correct is None:
            return False
        outputs = self.observation.outputs
        pairs = [(outputs[name], self.limits[name], self.observation.defined.get(name)) for name in self.limits]
        return not all(within(found, limit)[... if mask is None else mask].all() for found, limit, mask in pairs)

    @cached_property
    def correct(self) -> dict[str, np.ndarray] | None:
        """What the outputs should be; None where that is too much work to begin with."""
        if self.work > SMALL:
            return None
        return {n: array for n, array in compute(self.state).items() if n in self.observation.outputs}

    @property
    def odd_nans(self) -> int:
        """How many NaNs have other bits than the declared model gives; of exact results, every NaN is as good."""
        if not self.declared or self.name == "exact" or self.correct is None:
            return 0
        pairs = [(name, ~same(self.observation.outputs[name], right, False)) for name, right in self.correct.items()]
        masks = self.observation.defined
        return sum(int(np.count_nonzero(off if masks.get(n) is None else off & masks[n])) for n, off in pairs)

    @cached_property
    def limits(self) -> dict[str, Any]:
        """The limits of the outputs as they should be, all of them."""
        return self.observation.bound(self.state)

    @cached_property
    def suspects(self) -> np.ndarray:
        """Where the first output is wrong; needs what should come out."""
        return suspects(self.observation, self.correct, lambda: self.limits)

    @cached_property
    def part(self) -> Part | None:
        """The rows and columns that hypotheses are tried on; None for everything."""
        if self.correct is None:
            return choose_part(self.state, self.work, projected_places(self.state, self.observation))
        wrong = suspect_places(self.suspects)
        return choose_part(self.state, self.work, (wrong.any(axis=1), wrong.any(axis=0)))

    @cached_property
    def where(self) -> list[str]:
        """One sentence on where the outputs differ; of a sample, on how many of it do."""
        from dgref.compare.comparison import compare

        masks = self.observation.defined
        assumed = "" if self.declared else " (assumed: none is declared)"
        against = "exact" if self.name == "exact" else f"the arithmetic {self.name}{assumed}"
        if self.correct is None:
            found = self.baseline(False)
            sampled = f"{counted(found.total, 'output')} sampled of {self.elements:,}"
            return [f"{found.total - found.equal:,} of {sampled} differ from {against}"]
        compared = [
            compare(self.observation.outputs[n], array, mask=masks.get(n), against=against)
            for n, array in self.correct.items()
        ]
        return [f"{n}: {found.summary()}" for n, found in zip(self.correct, compared, strict=True)]

    @cached_property
    def relation(self) -> str:
        """One factor or addend that all differing outputs share, in words; empty where there is none."""
        if self.correct is None:
            return ""
        name = next(iter(self.correct))
        found = relation(self.observation.outputs[name], self.correct[name], self.suspects)
        return f"where outputs differ much, they are {found}" if found else ""

    @property
    def where_in_k(self) -> list[str]:
        """One sentence on the part of K that the error of a dense product comes from, where a few blocks explain it."""
        if self.state.case.op != "gemm" or self.state.case.params or self.correct is None or "c" in self.state.inputs:
            return []
        a, b = self.state.inputs["a"], self.state.inputs["b"]
        found = locate_k(self.observation.outputs["d"], a, b, _STAGE, suspect_places(self.suspects))
        return [f"what is wrong comes from K: {found.describe(a.shape[-1])}"] if found.found else []

    def gain(self) -> Gain | None:
        """Return the factor on the outputs that no right ones have, although each is within its bound; or None."""
        limits = self.observation.limits
        if limits is None:
            return None
        part = None if self.correct is not None else self.part
        observed, masks = self.observation.sample(part)
        smaller = cut(self.state, part)
        peers = (compute(replace(smaller, arithmetic=peer), None, observed) for peer in published_arithmetics(limits))
        exact = compute(replace(smaller, arithmetic="exact"), None, observed)
        return next(iter(unexplained(observed, exact, masks, peers).values()), None)

    def measure(self, misreading: Misreading, part: Part | None) -> Agreement:
        """Return how far one misreading explains the observed outputs."""
        self.tried += 1
        with np.errstate(all="ignore"):  # values are misread on purpose
            wrong = misreading.change(self.state)
        if part is None and self.correct is not None and misreading.after is not None and wrong is self.state:
            predicted = dict(misreading.after(self.correct, self.observation.outputs))
            found = agree(self.observation.outputs, predicted, self.observation.defined)
            if found.all or self.observation.limits is None:
                return found
        known = (lambda: self.limits) if wrong is self.state and part is None else None
        return self.observation.against(wrong, misreading.after, part, known)

    @cache  # noqa: B019 - a search lives as long as its diagnosis
    def baseline(self, whole: bool) -> Agreement:
        """Return how far the outputs agree where nothing is misread: all of them, or those of the sample."""
        return self.measure(Misreading("nothing"), None if whole else self.part)

    def left(self, found: Agreement, whole: bool) -> float:
        """Return the share of the error that is left, of the error of the outputs that were measured."""
        before = self.baseline(whole and self.correct is not None).error
        return found.error / before if before else float(not found.all)

    @property
    def divisible(self) -> bool:
        """Whether there is one output, whose rows and columns are those that its op can compute alone."""
        if self.correct is None or self.op.sampler is None or self.state.case.params.get("head_splits"):
            return False
        return [array.ndim for array in self.correct.values()] == [2]

    def divided(self, part: Part) -> tuple[Agreement, Agreement]:
        """Return how far a part of the one output, and everything else, is as it should be."""
        ((name, correct),) = self.correct.items()
        places = np.arange(correct.size).reshape(correct.shape)
        inside = np.zeros(correct.shape, bool)
        inside.reshape(-1)[self.op.pick(self.state.case, name, places, part)] = True
        defined = self.observation.defined.get(name)
        masks = (side if defined is None else side & defined for side in (inside, ~inside))
        first, second = (
            replace(self.observation, defined={name: mask}).against(self.state, None, None, lambda: self.limits)
            for mask in masks
        )
        return first, second
