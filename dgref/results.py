"""What a run found: one Result a case and backend, and the versioned JSON file that holds them."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_origin, get_type_hints

import numpy as np

from dgref.errors import FileError, expected
from dgref.files import as_path, read_json, write_atomically
from dgref.nested import MACHINE, RESULT, misfits

SCHEMA = "dgref.results/1"

# status -> what it means; the first group counts as good, the second as neither, the third turns a gate red
STATUSES = {
    "pass": "the required level of agreement holds",
    "waived": "wrong, as a waiver that has not expired says",
    "unsupported": "the backend says it cannot do this case",
    "unavailable": "the backend cannot be used on this machine",
    "skipped": "not run: deselected, or after a failure with --fail-fast",
    "fail": "the bits are wrong, or weaker than required",
    "nondeterministic": "repeats, or runs over two poison patterns, differ",
    "unexpected_pass": "a waiver says this fails, and it passes",
    "expired_waiver": "wrong, and its waiver has expired",
    "error": "the backend raised an error",
    "crash": "the worker process died",
    "timeout": "no result within the time limit",
    "out_of_memory": "memory ran out",
    "missing": "the program under test wrote no output for this case",
}
UNJUDGED = "timed, not judged"  # the reason of a pass that only a bench gives
NOT_RUN = frozenset({"unsupported", "unavailable", "skipped"})
GOOD = frozenset({"pass", "waived"})
BAD = frozenset(STATUSES) - GOOD - NOT_RUN


@dataclass
class Result:
    """The outcome of one case on one backend; every field is JSON."""

    case: str  # suite/id
    backend: str
    status: str
    reason: str = ""
    level: str | None = None  # the strongest level that holds
    required: str | None = None
    arithmetic: str | None = None
    op: str = ""
    shape: dict[str, int] = field(default_factory=dict)
    recipes: dict[str, str] = field(default_factory=dict)
    layouts: dict[str, str] = field(default_factory=dict)
    out: str | None = None
    why: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)  # output name -> comparison
    evidence: dict[str, Any] = field(default_factory=dict)  # poison, repeats, coverage
    seconds: dict[str, float] = field(default_factory=dict)
    throughput: dict[str, float] = field(default_factory=dict)
    diagnosis: dict | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    reproduce: str = ""

    @property
    def bad(self) -> bool:
        """Whether this result must turn a gate red."""
        return self.status in BAD

    @property
    def wrong(self) -> bool:
        """Whether something wrong came out; of a missing output nobody knows."""
        return self.bad and self.status != "missing"

    @property
    def ran(self) -> bool:
        """Whether the backend computed anything, or should have."""
        return self.status not in NOT_RUN

    @property
    def explanation(self) -> str:
        """One sentence on the cause: what the diagnosis found, or that the search for it failed."""
        return str((self.diagnosis or self.evidence).get("sentence" if self.diagnosis else "diagnosis", ""))


@dataclass
class Results:
    """All results of a run, and the machine they come from."""

    results: list[Result] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @property
    def counts(self) -> Counter[str]:
        """How many results have each status."""
        return Counter(result.status for result in self.results)

    @property
    def exit_code(self) -> int:
        """0 all conform, 1 something is wrong, 3 nothing could run."""
        if any(result.bad for result in self.results):
            return 1
        return 0 if any(result.ran for result in self.results) else 3

    def frame(self) -> Any:
        """Return a pandas frame with one row a result; nested fields become dotted columns."""
        import pandas

        return pandas.json_normalize([asdict(result) for result in self.results], max_level=1)

    def to_json(self) -> str:
        """Return the versioned JSON text."""
        return json.dumps(plain(asdict(self)), indent=1, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON file whole or not at all."""
        return write_atomically(Path(path), self.to_json())


def plain(value: Any) -> Any:
    """Return a value as what JSON holds: NumPy scalars as numbers, NaN and infinities and anything else as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is None or isinstance(value, bool | int | str):
        return value
    return plain(value.item()) if isinstance(value, np.generic) else str(value)


def load_results(path: str | os.PathLike[str]) -> Results:
    """Return the results in a JSON file, or in `results.json` of a folder."""
    path = as_path("results", path)
    path = path / "results.json" if path.is_dir() else path
    return parse_results(read_json(path, "a results file, whole"), str(path))


def parse_results(data: Any, subject: str) -> Results:
    """Return the results in parsed JSON; anything that is not a results file of this schema is an error."""
    if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
        found = data.get("schema", "no schema") if isinstance(data, Mapping) else type(data).__name__
        raise FileError(expected(subject, found, f"a file of schema {SCHEMA}"))
    rows = data.get("results")
    if not isinstance(rows, list):
        raise FileError(expected(f"{subject} field 'results'", type(rows).__name__, "a list"))
    about = {name: data.get(name) or {} for name in ("machine", "flags")}
    for name, value in about.items():
        if not isinstance(value, Mapping):
            raise FileError(expected(f"{subject} field {name!r}", repr(value), "an object"))
    for name, value, need in misfits(about["machine"], MACHINE):
        raise FileError(expected(f"{subject} field 'machine.{name}'", reprlib.repr(value), need))
    return Results([_result(row, subject) for row in rows], **{name: dict(value) for name, value in about.items()})


_FIELDS = {  # what isinstance takes: `dict` for dict[str, int], and unions as they are
    name: kind if isinstance(kind, UnionType) else get_origin(kind) or kind
    for name, kind in get_type_hints(Result).items()
}


def _result(row: Any, subject: str) -> Result:
    if not isinstance(row, Mapping) or not {"case", "backend", "status"} <= row.keys():
        raise FileError(expected(f"{subject} result", repr(row), "an object with case, backend and status"))
    for name, kind in _FIELDS.items():
        if name in row and not isinstance(row[name], kind):
            need = getattr(kind, "__name__", str(kind))
            raise FileError(expected(f"{subject} field {name!r} of {row['case']}", repr(row[name]), need))
    if row["status"] not in STATUSES:
        raise FileError(expected(f"{subject} status of {row['case']}", row["status"], f"one of {', '.join(STATUSES)}"))
    _check_nested(row, subject)
    return Result(**{key: value for key, value in row.items() if key in _FIELDS})


def _check_nested(row: Mapping[str, Any], subject: str) -> None:
    for name, value, need in misfits(row, RESULT):
        raise FileError(expected(f"{subject} field {name!r} of {row['case']}", reprlib.repr(value), need))
    if row.get("throughput") and "microseconds" not in row["throughput"]:
        raise FileError(expected(f"{subject} throughput of {row['case']}", "no microseconds", "microseconds"))


def merge(parts: Iterable[Results]) -> Results:
    """Return the union of shards of one run; two different results of one case, or two machines, are an error."""
    merged = Results()
    seen: dict[tuple[str, str], Result] = {}
    for part in parts:
        _same_origin(merged.machine, part.machine)
        merged.machine = merged.machine or part.machine
        suites = dict.fromkeys([*merged.flags.get("suites", ()), *part.flags.get("suites", ())])
        merged.flags = {**part.flags, **merged.flags} | ({"suites": list(suites)} if suites else {})
        for result in part:
            known = seen.setdefault((result.case, result.backend), result)
            if (known.status, known.level) != (result.status, result.level):
                subject = f"{result.case} on {result.backend}"
                raise FileError(expected(subject, "two different results", "shards that do not overlap"))
    merged.results = list(seen.values())
    return merged


def _same_origin(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise where shards are of different GPUs or commits: one report must not mix them."""
    for key in ("gpu", "architecture", "dgref", "commit"):
        mine, theirs = (plain(part.get(key) or {}) for part in (one, other))
        if one and other and mine != theirs:
            raise FileError(expected(f"shards' {key}", f"{mine} and {theirs}", "shards of one machine and one commit"))
