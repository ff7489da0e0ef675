"""What a run alone can show: outputs that change between launches, and provenance that contradicts itself.

No recomputation sees a race or a stale cache. The runner launches over two poison patterns, between guard bytes,
and repeats; a backend says in its provenance what was asked for and what ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """A fault that the evidence of a run shows by itself."""

    hypothesis: str
    rows: tuple[int, ...]
    sentence: str
    fix: str


@dataclass(frozen=True)
class Pair:
    """Two entries of a provenance that must be equal."""

    hypothesis: str
    rows: tuple[int, ...]
    asked: str
    ran: str
    words: str
    fix: str


PAIRS = (
    Pair("silent_fallback", (34,), "requested_kernel", "kernel", "another kernel ran: {ran}, not {asked}",
         "make the library refuse instead of falling back, or drop the unsupported option"),
    Pair("wrong_architecture", (35,), "architecture", "built_for", "the kernel was built for {ran}; this is {asked}",
         "compile for this architecture; features such as wgmma need the a suffix (sm_90a)"),
    Pair("autotune_key_mismatch", (36,), "problem_key", "tuned_key", "tuned for {ran}, called with {asked}",
         "key the tuning cache on every argument that changes the kernel, then clear it"),
    Pair("stale_artefact", (37,), "source_hash", "artefact_hash", "the cached binary is of source {ran}, not {asked}",
         "key the cache on source, flags and compiler, rename into place atomically; clear it now"),
)  # fmt: skip
RACE = Finding(
    "race",
    (38, 39, 40),
    "the same launch gave different bits when repeated: a race",
    "look for a descriptor edited in flight, shared memory reused too early, or missing dependent-launch waits; "
    "compute-sanitizer --tool racecheck narrows it down",
)
UNINITIALISED = Finding(
    "uninitialised_memory",
    (25, 27),
    "the outputs depend on what memory held before: padding, scales or a workspace are read uninitialised",
    "zero the workspace and the padding before the launch, or mask the reads",
)
UNWRITTEN = Finding(
    "output_unwritten",
    (26,),
    "part of the output was never written",
    "check the grid and the tile bounds: the last tile along M or N is what is forgotten most",
)


def findings(evidence: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what the evidence of a run shows; nothing where it shows nothing."""
    differing = [str(line) for line in evidence.get("differing") or ()]
    if any("repeated" in line for line in differing):
        yield RACE
    elif differing:
        yield UNWRITTEN if len(evidence.get("unwritten") or ()) == len(differing) else UNINITIALISED
    if evidence.get("guards"):
        where = "; ".join(map(str, evidence["guards"]))
        fix = "mask the stores of the last tile; compute-sanitizer --tool memcheck names the instruction"
        yield Finding("out_of_bounds_write", (28,), f"guard bytes were overwritten: {where}", fix)
    provenance = evidence.get("provenance") or {}
    for pair in PAIRS:
        asked, ran = provenance.get(pair.asked), provenance.get(pair.ran)
        if asked is not None and ran is not None and asked != ran:
            yield Finding(pair.hypothesis, pair.rows, pair.words.format(asked=asked, ran=ran), pair.fix)


def poisoned(evidence: Mapping[str, Any]) -> bool:
    """Say whether the run filled the outputs with other bytes than zeros, so that zeros were written."""
    return len(evidence.get("poisons") or ()) > 1


def lines(evidence: Mapping[str, Any]) -> list[str]:
    """Return the evidence as sentences of a diagnosis."""
    return [str(line) for line in evidence.get("differing") or ()][:4]
