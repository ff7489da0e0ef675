"""Designed operands: one huge, one opposite and one tiny product at chosen positions of K tell what was cut off where.

A tiny product survives beside a huge one and its opposite only where the three never share an alignment or a sum too
narrow for them. Moving them along K shows the width of the alignment, the reach of one instruction, where a chain is
promoted, and where K is split. Probe i is row i of A with row i of B, so that one call runs many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from dgref.compare import fingerprint_space as space
from dgref.errors import InputError, expected
from dgref.formats.element import FORMATS, Format
from dgref.formats.native import like, to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import Arithmetic
from dgref.reference.engine_operand import as_scaled

Term = tuple[int, int, int]  # position along K, sign, exponent
_SUM_BITS = 30  # beyond the 24 bits of an fp32 sum


class Prober:
    """Runs probes through a backend, in the shapes and formats of a pair of operands."""

    def __init__(self, a: ScaledTensor, b: ScaledTensor, backend: Callable):
        self.a, self.b, self.backend, self.k = a, b, backend, a.shape[-1]
        formats = [FORMATS[t.format] for t in (a, b)]
        self.largest = sum(f.emax for f in formats)
        self.smallest = sum(_lowest(f) for f in formats)
        self.top = min(self.largest, max(self.smallest + 60, 0))

    def survive(self, probes: list[list[Term]]) -> np.ndarray:
        """Return, for each probe, whether its output is not zero."""
        batch = min(self.a.shape[0], self.b.shape[0])
        found = [self._run(probes[start : start + batch]) for start in range(0, len(probes), batch)]
        return np.concatenate(found) if found else np.zeros(0, bool)

    def _run(self, probes: list[list[Term]]) -> np.ndarray:
        a, b = np.zeros(self.a.shape, np.float32), np.zeros(self.b.shape, np.float32)
        for row, terms in enumerate(probes):
            for position, sign, exponent in terms:
                low = _lowest(FORMATS[self.a.format])
                left = int(np.clip(exponent, low, FORMATS[self.a.format].emax))
                left = int(np.clip(left, exponent - FORMATS[self.b.format].emax, None))
                a[row, position], b[row, position] = sign * 2.0**left, 2.0 ** (exponent - left)
        d = to_numpy(self.backend(_like(self.a, a), _like(self.b, b)), "output")
        return np.diagonal(d.astype(np.float32))[: len(probes)] != 0

    def trio(self, huge: int, opposite: int, tiny: int, depth: int) -> list[Term]:
        """Return a huge product, its opposite, and one `depth` octaves below."""
        return [(huge, 1, self.top), (opposite, -1, self.top), (tiny, 1, self.top - depth)]


def _lowest(format: Format) -> int:
    """The exponent of the smallest power of two that the format holds."""
    return int(np.log2(format.min_subnormal))


def _like(template: ScaledTensor, values: np.ndarray) -> ScaledTensor:
    """Return values as a tensor of the template's format and kind of array, every scale 1."""
    codes = like(FORMATS[template.format].encode(values), template.data)
    if template.scale is None:
        return ScaledTensor(codes, template.format)
    grid = np.ones(tuple(template.scale.shape), np.float32)
    name = template.scaling.scale_format
    ones = grid if name == "float32" else FORMATS[name].encode(grid)
    return replace(template, data=codes, scale=like(ones, template.scale))


def probe(a: Any, b: Any, backend: Callable, architecture: str | None) -> tuple[tuple[str, ...], list[Arithmetic]]:
    """Return what designed operands show, as sentences, and the arithmetics that agree with it."""
    tensors = (tensor if isinstance(tensor, ScaledTensor) else as_scaled(tensor) for tensor in (a, b))
    prober = Prober(*tensors, backend)
    if prober.k < 4:
        raise InputError(expected("K", prober.k, "at least 4: probes need room"))
    bits = _fraction_bits(prober)
    if bits is None:
        return ("the operands' range is too narrow to show the width of the alignment",), []
    step = _step(prober, bits)
    segments = _segments(prober, bits, step)
    splits = _splits(prober, segments)
    findings = (
        f"terms more than {bits} bits below the largest are cut off",
        f"{step} products are aligned at once",
        f"chains of K start at {_short(segments)}",
        f"sums of chains start at {_short(splits)}",
    )
    return findings, _guesses(prober, architecture, bits, step, segments, splits)


def _short(starts: list[int]) -> str:
    shown = ", ".join(map(str, starts[:6]))
    return f"{shown}, … ({len(starts)} in all)" if len(starts) > 6 else shown


def _fraction_bits(prober: Prober) -> int | None:
    """Return the deepest product that survives beside a huge pair in the same instruction; None: all that fit do."""
    depths = range(1, min(prober.top - prober.smallest, 50) + 1)
    kept = prober.survive([prober.trio(0, 1, 2, depth) for depth in depths])
    lost = np.flatnonzero(~kept)
    return int(lost[0]) if lost.size else None


def _step(prober: Prober, bits: int) -> int:
    """Return how many products share one alignment: the first later position where a tiny one survives."""
    positions = range(2, min(prober.k, 513))
    kept = prober.survive([prober.trio(0, 1, position, bits + 1) for position in positions])
    return int(positions[int(np.argmax(kept))]) if kept.any() else prober.k


def _segments(prober: Prober, bits: int, step: int) -> list[int]:
    """Return where chains start: a tiny first product survives a huge pair only in another chain."""
    return _starts(prober, list(range(0, prober.k - 1, step)), lambda tiny, at: prober.trio(at, at + 1, tiny, bits + 1))


def _splits(prober: Prober, segments: list[int]) -> list[int]:
    """Return where fp32 sums start: a huge pair in two chains meets before the tiny product only in another sum."""
    if prober.top - prober.smallest < _SUM_BITS or len(segments) < 3:
        return segments[:1]
    after = dict(pairwise(segments))
    return _starts(prober, segments[:-1], lambda tiny, at: prober.trio(at, after[at], tiny, _SUM_BITS))


def _starts(prober: Prober, positions: list[int], terms: Callable[[int, int], list[Term]]) -> list[int]:
    """Return the first position, and every next one where a tiny product at the last start begins to survive."""
    starts = positions[:1]
    while True:
        later = [at for at in positions if at > starts[-1]]
        kept = prober.survive([terms(starts[-1], at) for at in later])
        if not kept.any():
            return starts
        starts.append(later[int(np.argmax(kept))])


def _boundaries(splits: list[int], segments: list[int]) -> list[tuple[int, ...]]:
    """Return the split boundaries seen, then with one more: a split of a single chain leaves no trace at scale 1."""
    seen = tuple(splits[1:])
    return [seen, *(tuple(sorted({*seen, extra})) for extra in segments[:0:-1] if extra not in seen)]


def _guesses(
    prober: Prober, architecture: str | None, bits: int, step: int, segments: list[int], splits: list[int]
) -> list[Arithmetic]:
    """Return the plans of the space that show the same width, reach, chains and splits."""
    plans = space.plans(prober.a, prober.b, architecture)
    plans = [p for p in plans if (p.tensor_core.fraction_bits, p.tensor_core.step) == (bits, step)]
    spaces = {high - low for low, high in pairwise(segments)}
    guesses = [
        plan.but(boundaries=found)
        for found in _boundaries(splits, segments)
        for plan in plans
        if {plan.interval} == spaces
    ]
    guesses += [plan.but(boundaries=tuple(segments[1:])) for plan in plans if plan.interval == 0]
    return guesses + [plan for plan in plans if plan.tensor_core.c == "added" and spaces == {step}]
