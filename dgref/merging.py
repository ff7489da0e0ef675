"""One report of several: shards of a run put together again, or runs that are shown side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from dgref.errors import FileError, expected
from dgref.results import Result, Results, is_whole, plain, shards_of

_COMMON = ("suites", "backends", "settings")  # flags that all shards of a run share


def merge(parts: Iterable[Results]) -> Results:
    """Return the union of shards of one run; two different results of one case, or two machines, are an error.

    Its warnings say which shards are missing or came twice, and in what parts differ that shards have in common.
    """
    given = list(parts)
    merged, differ, runs = Results(), [], 0
    seen: dict[tuple[str, str], Result] = {}
    for number, part in enumerate(given, 1):
        _same_origin(merged.machine, part.machine)
        if len(part) and all((row.case, row.backend) in seen for row in part):
            merged.warnings.append(expected(f"part {number}", "no result that the parts before it lack", "each once"))
        merged.machine = merged.machine or part.machine
        unlike = _unlike(merged, part)
        if is_whole(merged.flags) and is_whole(part.flags):  # runs that were put together on purpose
            differ += [*part.flags.get("differ", ()), *unlike]
            unlike = []
        merged.warnings += [line for line in (*part.warnings, *map(_doubtful, unlike)) if line not in merged.warnings]
        merged.flags = _joined(merged.flags, part.flags)
        runs += part.flags.get("runs", 1)
        for result in part:
            known = seen.setdefault((result.case, result.backend), result)
            if (known.status, known.level) != (result.status, result.level):
                subject = f"{result.case} on {result.backend}"
                raise FileError(expected(subject, "two different results", "shards that do not overlap"))
    merged.results = list(seen.values())
    stale = {line for part in given for line in missing_shards(part)}  # of parts that were merged before
    merged.warnings = [line for line in merged.warnings if line not in stale] + list(missing_shards(merged))
    if differ:
        merged.flags |= {"runs": runs, "differ": [name for name in _COMMON if name in differ]}
    return merged


def _unlike(merged: Results, part: Results) -> list[str]:
    """Return the flags that all shards of a run share, and that differ in these two parts."""
    pairs = {name: (merged.flags.get(name), part.flags.get(name)) for name in _COMMON}
    return [name for name, pair in pairs.items() if None not in pair and plain(pair[0]) != plain(pair[1])]


def _doubtful(name: str) -> str:
    return expected(f"merged results' {name}", "other ones in another part", "shards of one run")


def _joined(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags of both: what is listed is joined, and every shard is counted."""
    joined = {**theirs, **mine}
    if required := {**theirs.get("required", {}), **mine.get("required", {})}:
        joined["required"] = required
    for name in ("suites", "backends"):
        if rows := dict.fromkeys([*mine.get(name, ()), *theirs.get(name, ())]):
            joined[name] = list(rows)
    shards = [shard for flags in (mine, theirs) for shard in shards_of(flags)]
    joined.pop("shard", None)
    return joined | ({"shards": shards} if shards else {})


def missing_shards(results: Results) -> Iterator[str]:
    """Yield a sentence for each division of a run into shards of which these results lack some."""
    held = {tuple(shard) for shard in shards_of(results.flags)}
    for count in sorted({count for _, count in held}):
        missing = (f"{index}/{count}" for index in range(1, count + 1) if (index, count) not in held)
        first, total = list(islice(missing, 3)), count - sum(of == count for _, of in held)
        if first:
            more = f" and {total - len(first)} more" if total > len(first) else ""
            yield expected("shards", f"none of {', '.join(first)}{more}", f"all {count}")


def _same_origin(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise where shards are of different GPUs or commits: one report must not mix them."""
    for key in ("gpu", "architecture", "dgref", "commit"):
        mine, theirs = (plain(part.get(key) or {}) for part in (one, other))
        if one and other and mine != theirs:
            raise FileError(expected(f"shards' {key}", f"{mine} and {theirs}", "shards of one machine and one commit"))
