"""Inspecting a checkpoint: find the weights, measure each, state the facts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dgref.checkpoint import shape_facts, value_facts  # noqa: F401  (they fill FACTS)
from dgref.checkpoint.checkpoint_facts import SURVEY_FACTS, Survey
from dgref.checkpoint.conventions import PLAIN, signatures
from dgref.checkpoint.decode import float_values
from dgref.checkpoint.facts import FACTS, Measured
from dgref.checkpoint.findings import LEVELS, Finding
from dgref.checkpoint.reading import Amount, Reader, amount_of
from dgref.checkpoint.source import Source, open_source
from dgref.checkpoint.statistics import PROFILE, Statistics, channel_signature, measure, multiplier
from dgref.checkpoint.targets import targets_of
from dgref.checkpoint.weights import Weight, find_weights

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, the tensor at hand

_REFERENCE_ROWS = 128


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint is, what is wrong with it, and who can take it."""

    path: str
    convention: str  # the commonest of its quantised weights; `plain` where none is quantised
    conventions: dict[str, int]
    claims: tuple[str, ...]
    files: int
    bytes: int
    bytes_read: int  # of the tensors; a sample reads a part
    tensors: tuple[dict[str, Any], ...]  # one row for each quantised weight
    plain: dict[str, int]  # tensors of each dtype that belong to no quantised weight
    findings: tuple[Finding, ...]
    targets: tuple[dict[str, Any], ...] = field(default=())

    @cached_property
    def levels(self) -> dict[str, int]:
        """How many findings there are of each level."""
        counts = Counter(finding.level for finding in self.findings)
        return {level: counts[level] for level in LEVELS}

    @property
    def exit_code(self) -> int:
        """1 where claims contradict each other or the bytes, else 0."""
        return int(self.levels["contradiction"] > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        rows = {name: getattr(self, name) for name in self.__dataclass_fields__}
        rows.update(findings=[finding.to_dict() for finding in self.findings], exit_code=self.exit_code)
        return {**rows, "levels": self.levels, "tensors": list(self.tensors), "targets": list(self.targets)}

    def to_json(self) -> str:
        """Return strict JSON; NaN and infinity, which JSON lacks, become null."""
        return json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False)


def inspect(path: str | Path, progress: Progress | None = None, *, payload: str = "all") -> Inspection:
    """Inspect a safetensors file, a folder of shards, or an index file.

    Every byte of quantised weights is read. With `payload="sample"` a bounded part of each weight is, payload and
    scales, from its first byte to its last: that finds wrong types and layouts but not every NaN. FileError says what
    is wrong with a file that cannot be read at all.
    """
    amount, source = amount_of(payload), open_source(path)
    claims = frozenset(signatures(source.config, source.quantization))
    weights, orphans = find_weights(source, set(claims))
    with Reader() as reader:
        measured, findings = _measure_all(weights, claims, progress or _silent, reader, amount)
        survey = Survey(source, claims, measured, orphans, _references(source, weights, reader))
    findings += [finding for fact in SURVEY_FACTS.values() for finding in fact.check(survey)]
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    counts = Counter(weight.convention.name for weight in weights)
    return Inspection(
        path=str(path),
        convention=counts.most_common(1)[0][0] if counts else PLAIN,
        conventions=dict(counts.most_common()),
        claims=tuple(sorted(claims)),
        files=len(source.headers),
        bytes=source.size,
        bytes_read=reader.bytes_read,
        tensors=tuple(_row(m) for m in measured),
        plain=_plain(source, weights),
        findings=tuple(findings),
        targets=tuple(targets_of(measured)),
    )


def _measure_all(
    weights: list[Weight], claims: frozenset[str], progress: Progress, reader: Reader, amount: Amount
) -> tuple[list[Measured], list[Finding]]:
    """Measure every weight in the order of its bytes; keep only what later facts need."""
    measured, findings = [], []
    total, done = sum(_bytes(weight) for weight in weights), 0
    for weight in weights:
        progress(done, total, weight.name)
        m = Measured(weight, measure(weight, reader, amount), claims)
        findings += [finding for fact in FACTS.values() for finding in fact.findings(m)]
        m.statistics.release()
        measured.append(m)
        done += _bytes(weight)
    progress(total, total, "")
    return measured, findings


def _silent(done: int, total: int, name: str) -> None:
    """Report nothing."""


def _bytes(weight: Weight) -> int:
    return weight.payload.size + (weight.scale.size if weight.scale else 0)


def _references(source: Source, weights: list[Weight], reader: Reader) -> dict[str, np.ndarray]:
    """Return the channel signatures of unquantised matrices, where packed weights can be held against them."""
    if not any(weight.convention.packing > 1 for weight in weights):
        return {}
    result = {}
    for name, entry in source.tensors.items():
        if entry.dtype in ("BF16", "F16", "F32") and len(entry.shape) == 2 and min(entry.shape) >= 64:
            rows, columns = min(entry.shape[0], _REFERENCE_ROWS), min(entry.shape[1], PROFILE)
            stride = entry.size // entry.shape[0]
            raw = reader.rows(entry, 0, rows, stride, stride // entry.shape[1] * columns)
            values = float_values(raw.reshape(-1), entry.dtype).reshape(rows, columns)
            with np.errstate(invalid="ignore", over="ignore"):
                result[name.removesuffix(".weight")] = channel_signature(np.abs(values))
    return result


def _row(m: Measured) -> dict[str, Any]:
    """Return what a reader wants to know of one weight."""
    weight, statistics = m.weight, m.statistics
    return {
        "name": weight.name,
        "convention": weight.convention.name,
        "shape": list(weight.shape),
        "dtype": weight.payload.dtype,
        "block": list(weight.block) if weight.block else None,
        "scale_dtype": weight.scale.dtype if weight.scale else None,
        "scale_smallest": statistics.scale.smallest,
        "scale_median": statistics.scale.median,
        "scale_largest": statistics.scale.largest,
        "scales_powers_of_two": bool(statistics.scale.count)
        and statistics.scale.count == statistics.scale.powers_of_two,
        "global_scale": statistics.global_scale,
        "multiplier": multiplier(weight, statistics),
        "root_mean_square": _root(statistics),
        "file": weight.payload.file.name,
    }


def _root(statistics: Statistics) -> float:
    return float(np.sqrt(statistics.mean_square))


def _plain(source: Source, weights: list[Weight]) -> dict[str, int]:
    """Count the tensors that belong to no quantised weight, by dtype."""
    parts = {part.name for weight in weights for part in weight.parts}
    return dict(Counter(entry.dtype for name, entry in source.tensors.items() if name not in parts).most_common())


def _finite(value: Any) -> Any:
    """Return the value with numbers that JSON has: NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
