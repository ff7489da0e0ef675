"""Facts about a whole checkpoint: claims against tensors, and tensors against each other."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgref.checkpoint.conventions import CONVENTIONS, quantization_of, subtable, unknown_claims
from dgref.checkpoint.facts import Measured
from dgref.checkpoint.findings import Finding
from dgref.checkpoint.source import Source
from dgref.errors import expected
from dgref.registry import Registry

_LAYER = re.compile(r"^(.*?\b(?:layers|blocks|block|h)\.\d+)\.")  # our own pattern, never one from a file
_NUMBER = re.compile(r"\d+")
_FUSED = (("gate_proj", "up_proj"), ("w1", "w3"), ("q_proj", "k_proj", "v_proj"))
_PAYLOADS = (".weight", ".weight_packed", "_blocks", ".blocks")
_SWAP_CORRELATION, _SWAP_SIGMA = -0.2, 6.0


@dataclass(frozen=True)
class Survey:
    """Everything known about a checkpoint once every weight is measured."""

    source: Source
    claims: frozenset[str]
    weights: Sequence[Measured]
    orphans: Sequence[str]
    references: dict[str, np.ndarray]  # channel signatures of unquantised matrices


@dataclass(frozen=True)
class SurveyFact:
    """One check of a whole checkpoint."""

    name: str
    description: str
    check: Callable[[Survey], Iterator[Finding]]


SURVEY_FACTS: Registry[SurveyFact] = Registry("checkpoint fact")


def _fact(check: Callable[[Survey], Iterator[Finding]]) -> Callable[[Survey], Iterator[Finding]]:
    SURVEY_FACTS.add(SurveyFact(check.__name__, (check.__doc__ or "").splitlines()[0], check))
    return check


@_fact
def files(s: Survey) -> Iterator[Finding]:
    """Shards, index and configuration files that are corrupt, missing or disagree."""
    for problem in s.source.problems:
        yield Finding("contradiction", "files", s.source.path.name, problem)


@_fact
def orphan_scales(s: Survey) -> Iterator[Finding]:
    """Scales without a payload."""
    suffixes = sorted({suffix for row in CONVENTIONS.values() for suffix in (*row.scale, row.global_scale)})
    for name in s.orphans:
        stem = next(name.removesuffix(suffix) for suffix in reversed(suffixes) if suffix and name.endswith(suffix))
        payload = next((stem + end for end in _PAYLOADS if stem + end in s.source.tensors), None)
        if payload is None:
            yield Finding("contradiction", "orphan_scales", name, expected(name, "no payload beside it", "a weight"))
        else:
            got = f"{payload} of {s.source.tensors[payload].dtype} beside it"
            need = "a payload that a convention here stores"
            yield Finding("note", "orphan_scales", name, expected(name, got, need), "the weight was not inspected")


@_fact
def unread(s: Survey) -> Iterator[Finding]:
    """Tensors of 8 bits or fewer in a floating-point dtype, which belong to no convention here."""
    used = {part.name for m in s.weights for part in m.weight.parts}
    found: dict[str, list[str]] = defaultdict(list)
    for name, entry in s.source.tensors.items():
        if entry.dtype.startswith(("F4", "F6", "F8")) and name not in used and name not in s.orphans:
            found[entry.dtype].append(name)
    for dtype, names in found.items():
        message = expected(names[0], f"{dtype}, as {len(names)} such are", "a payload that a convention here stores")
        yield Finding("note", "unread", names[0], message, "they were not inspected")


@_fact
def unknown_claim(s: Survey) -> Iterator[Finding]:
    """The configuration claims a quantisation that no convention here holds."""
    known = sorted({signature for row in CONVENTIONS.values() for signature in row.signatures})
    methods = sorted({claim.partition("/")[0] for claim in known})
    for claim in unknown_claims(s.claims):
        variants = [other for other in known if other.startswith(claim.partition("/")[0] + "/")]
        message = expected("config.json", f"a claim of {claim[:80]}", f"one of {', '.join(variants or methods)}")
        yield Finding("note", "unknown_claim", "config.json", message, "what it means was not held against the tensors")


@_fact
def claimed_convention(s: Survey) -> Iterator[Finding]:
    """The configuration claims one quantisation, and the tensors hold another."""
    found = Counter(m.weight.convention.name for m in s.weights)
    subject, unknown = "config.json", unknown_claims(s.claims)
    if s.claims and not found and not unknown:
        message = expected(subject, f"a claim of {', '.join(sorted(s.claims))}", "quantised tensors")
        yield Finding("contradiction", "claimed_convention", subject, message)
    if found and (s.source.config or s.source.quantization) and not s.claims:
        message = expected(subject, f"no quantisation, beside {sum(found.values())} quantised weights", "a claim")
        yield Finding("contradiction", "claimed_convention", subject, message)
    for name, count in found.items():
        if s.claims and not unknown and not s.claims & set(CONVENTIONS[name].signatures):
            message = expected(subject, f"a claim of {', '.join(sorted(s.claims))}", f"{name}, as {count} weights are")
            yield Finding("contradiction", "claimed_convention", subject, message)


@_fact
def claimed_block(s: Survey) -> Iterator[Finding]:
    """The configuration's block or group size is not that of the tensors."""
    table = quantization_of(s.source.config)
    claimed = _claimed_block(table)
    group = _group_size(s.source, table)
    for m in s.weights:
        block = m.weight.block
        if block is None or (m.weight.convention.format == "float4_e2m1fn" and claimed):
            continue
        wrong = (claimed and block != claimed) or (group and block[1] not in (group, 0))
        if wrong:
            message = expected(m.weight.name, f"blocks of {block}", f"{claimed or group}, as the configuration says")
            yield Finding("contradiction", "claimed_block", m.weight.name, message)


@_fact
def excluded_modules(s: Survey) -> Iterator[Finding]:
    """A module that the configuration leaves unquantised is quantised."""
    table, nested = quantization_of(s.source.config), subtable(s.source.quantization, "quantization")
    lists = [table.get("modules_to_not_convert"), table.get("ignore"), table.get("exclude_modules")]
    lists.append(nested.get("exclude_modules"))
    names = [name for names in lists if isinstance(names, list) for name in names if isinstance(name, str)]
    exact = {name for name in names if not name.startswith("re:") and "*" not in name}
    prefixes = tuple(name[:-1] for name in names if name.endswith("*") and name.count("*") == 1 and len(name) > 1)
    for m in s.weights:
        if m.weight.name in exact or (prefixes and m.weight.name.startswith(prefixes)):
            message = expected(m.weight.name, m.weight.convention.name, "unquantised, as the configuration says")
            yield Finding("contradiction", "excluded_modules", m.weight.name, message)


@_fact
def fused_global_scales(s: Survey) -> Iterator[Finding]:
    """Gate and up (or q, k and v) have different global scales, and a fused kernel takes only one."""
    scales = {m.weight.name: m.statistics.global_scale for m in s.weights if m.statistics.global_scale is not None}
    for name, value in scales.items():
        stem, _, last = name.rpartition(".")
        for family in _FUSED:
            if last != family[0]:
                continue
            values = {other: scales.get(f"{stem}.{other}") for other in family[1:]}
            wrong = {other: scale for other, scale in values.items() if scale is not None and scale != value}
            if wrong:
                got = ", ".join(f"{other} {scale:.9g}" for other, scale in {last: value, **wrong}.items())
                fix = "fuse them only after rescaling the block scales to one global scale, or pass one for each part"
                yield Finding("suspicion", "fused_global_scales", stem, expected("global scales", got, "equal"), fix)


@_fact
def nibble_order(s: Survey) -> Iterator[Finding]:
    """Even and odd input channels are swapped against other weights that read the same input."""
    groups: dict[tuple[str, int], dict[str, np.ndarray]] = defaultdict(dict)
    packed = {m.weight.name for m in s.weights if m.weight.convention.packing > 1}
    own = {m.weight.name: m.statistics.signature for m in s.weights if m.statistics.signature is not None}
    for name, signature in {**s.references, **own}.items():
        groups[_layer(name), signature.size][name] = signature.astype(np.float32)
    for members in groups.values():
        whole = np.sum(list(members.values()), axis=0)
        for name in sorted(packed & set(members)):
            rest = whole - members[name]
            sigma, correlation = _correlation(members[name], rest)
            if correlation < _SWAP_CORRELATION and sigma < -_SWAP_SIGMA:
                got = (
                    f"correlation {correlation:.2f} ({sigma:.0f} sigma) of even minus odd channels with its neighbours"
                )
                fix = "nibbles are swapped: unpack high nibble first, or swap them; the minority is the likely culprit"
                yield Finding("suspicion", "nibble_order", name, expected("nibbles", got, "a positive one"), fix)


@_fact
def magnitude(s: Survey) -> Iterator[Finding]:
    """A weight is a factor of four or more off the same weight of the other layers."""
    roles: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for m in s.weights:
        square = m.statistics.mean_square
        if np.isfinite(square) and square > 0:
            roles[_NUMBER.sub("#", m.weight.name)].append((m.weight.name, 0.5 * float(np.log2(square))))
    for members in roles.values():
        middle = float(np.median([level for _, level in members]))
        spread = float(np.median([abs(level - middle) for _, level in members]))
        for name, level in members if len(members) >= 4 else ():
            if abs(level - middle) > max(1.75, 8 * spread):
                got = f"{level - middle:+.1f} binades against {len(members)} like it"
                fix = "an exponent offset or a missing global scale looks like this"
                yield Finding("suspicion", "magnitude", name, expected("magnitude", got, "about the same"), fix)


def _claimed_block(table: dict[str, Any]) -> tuple[int, ...] | None:
    """Return the block that the configuration claims for all weights: its own, or that of every group."""
    claimed = [table["weight_block_size"]] if "weight_block_size" in table else []
    claimed = claimed or [weights.get("block_structure") for weights in _groups(table)]
    found = {_pair(value) for value in claimed}
    return found.pop() if len(found) == 1 else None


def _pair(value: Any) -> tuple[int, ...] | None:
    good = isinstance(value, list) and len(value) == 2 and all(type(extent) is int for extent in value)
    return tuple(value) if good else None


def _groups(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what compressed-tensors says of the weights of each group."""
    groups = [group for group in subtable(table, "config_groups").values() if isinstance(group, dict)]
    return [group["weights"] for group in groups if isinstance(group.get("weights"), dict)]


def _group_size(source: Source, table: dict[str, Any]) -> int | None:
    """Return the group size that ModelOpt or compressed-tensors claim, where there is one."""
    found = [subtable(source.quantization, "quantization").get("group_size")]
    found += [weights.get("group_size") for weights in _groups(table)]
    sizes = {size for size in found if type(size) is int and size > 0}
    return sizes.pop() if len(sizes) == 1 else None


def _layer(name: str) -> str:
    match = _LAYER.match(name)
    return match.group(1) if match else name.rpartition(".")[0]


def _correlation(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return how many standard errors a correlation is from zero, and the correlation."""
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    correlation = float(a @ b) / scale if scale > 0 else 0.0
    return correlation * float(np.sqrt(a.size)), correlation
