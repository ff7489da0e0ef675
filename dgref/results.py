"""What a run found: one Result a case and backend, and the versioned JSON file that holds them."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, get_origin, get_type_hints

import numpy as np

from dgref.errors import FileError, expected
from dgref.files import as_path, read_json, write_atomically
from dgref.nested import FLAGS, MACHINE, RESULT, TEXTS, misfits
from dgref.suite import LEVELS

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
# the headings under which reports count results; those of a level count what conforms at it
GROUPS = (*LEVELS, "missing", "unexpected pass", "waived", "not judged", "not run")
COMMON_GROUPS = (*LEVELS, "not run")  # have a column even where they are empty
CONFORMING = tuple(level for level in LEVELS if level != "wrong")
UNJUDGED = "timed, not judged"  # the reason of a pass that only a bench gives
DEEPEST = 32  # nested containers in a file of results
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
    def group(self) -> str:
        """The heading of GROUPS under which reports count it."""
        if self.status in ("missing", "unexpected_pass", "waived"):
            return self.status.replace("_", " ")
        if not self.ran:
            return "not run"
        return "wrong" if self.bad else self.level or "not judged"

    @property
    def wrong(self) -> bool:
        """Whether something wrong came out; of a missing output nobody knows, and what passes as waived is right."""
        return self.group == "wrong"

    @property
    def ran(self) -> bool:
        """Whether the backend computed anything, or should have."""
        return self.status not in NOT_RUN

    @property
    def judged(self) -> bool:
        """Whether anything says if it is right; of what was only timed nothing does."""
        return self.ran and self.group != "not judged"

    @property
    def conforms(self) -> bool:
        """Whether it passes at a level of agreement: what is waived, or was only timed, proves nothing."""
        return self.status == "pass" and self.level in CONFORMING

    @property
    def explanation(self) -> str:
        """One sentence on the cause: what the diagnosis found, or that the search for it failed."""
        return str((self.diagnosis or self.evidence).get("sentence" if self.diagnosis else "diagnosis", ""))

    @property
    def notes(self) -> list[tuple[str, str]]:
        """What a person needs to act on a bad result, each line under its word: at, cause, fix, ask, again."""
        found = {word: (self.diagnosis or {}).get(word) for word in ("fix", "ask")}
        lines = {"at": self.evidence.get("raised"), "cause": self.explanation, **found, "again": self.reproduce}
        return [(word, str(line)) for word, line in lines.items() if line]


@dataclass
class Results:
    """All results of a run, and the machine they come from."""

    results: list[Result] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    schema: str = SCHEMA
    warnings: list[str] = field(default_factory=list)  # what no result says: an idle waiver, a shard that is missing

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
        """0 all conform, 1 something is wrong, 3 nothing could run, or a backend that was required judged nothing."""
        if any(result.bad for result in self.results):
            return 1
        return 0 if any(result.ran for result in self.results) and not self.unmet else 3

    @property
    def unmet(self) -> list[str]:
        """A sentence for each backend that was required and judged nothing; a single shard of several decides none."""
        if "shard" in self.flags and not is_whole(self.flags):
            return []
        judged = {row.backend for row in self.results if row.ran and row.reason != UNJUDGED}
        lacking = {asked: names for asked, names in self.flags.get("required", {}).items() if judged.isdisjoint(names)}
        return [
            expected(f"required backend {asked}", self._nothing_of(names), "at least one")
            for asked, names in lacking.items()
        ]

    def _nothing_of(self, backends: list[str]) -> str:
        why = Counter(row.reason for row in self.results if row.backend in backends and row.reason).most_common(1)
        return "no judged result" + (f" ({why[0][0]})" if why else "")

    @property
    def makeup(self) -> str:
        """What a report says that was made of several runs; nothing of one run, or of its shards."""
        if not (runs := self.flags.get("runs")):
            return ""
        differ = " and ".join(filter(None, [", ".join(self.flags["differ"][:-1]), self.flags["differ"][-1]]))
        shown = "; the settings in results.json are those of the first" if "settings" in self.flags["differ"] else ""
        return f"Made of {runs} runs, which differ in {differ}{shown}"

    def frame(self) -> Any:
        """Return a pandas frame with one row a result; nested fields become dotted columns.

        The level of what has none is its group, such as "wrong" for an error: `groupby("level")` leaves no row out.
        """
        import pandas

        rows = [{**asdict(result), "level": result.level or result.group} for result in self.results]
        return pandas.json_normalize(rows, max_level=1)

    def to_json(self) -> str:
        """Return the versioned JSON text."""
        return json.dumps(plain(asdict(self)), indent=1, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON file whole or not at all."""
        return write_atomically(Path(path), self.to_json())


def plain(value: Any, around: tuple[int, ...] = ()) -> Any:
    """Return a value as what JSON holds: NumPy scalars as numbers, NaN and infinities and anything else as text.

    `around` are the containers that hold it: one that holds itself, or is nested too deep, becomes text as well.
    """
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if id(value) in around or len(around) >= DEEPEST:
            return f"a {type(value).__name__} that holds itself" if id(value) in around else "nested too deep"
        inside = (*around, id(value))
        if isinstance(value, Mapping):
            return {str(key): plain(part, inside) for key, part in value.items()}
        return [plain(part, inside) for part in value]
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
    warnings = data.get("warnings", [])
    nested = {"machine": MACHINE, "flags": FLAGS, "warnings": TEXTS}
    for name, value, need in misfits({**about, "warnings": warnings}, nested):
        raise FileError(expected(f"{subject} field {name!r}", reprlib.repr(value), need))
    about = {name: dict(value) for name, value in about.items()}
    return Results([_result(row, subject) for row in rows], **about, warnings=warnings)


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


def contradiction(row: Result) -> str | None:
    """Return what is impossible about a result: a judged pass whose level is none, or does not reach what it must."""
    if row.status != "pass" or (row.reason == UNJUDGED and row.level is None):
        return None
    required = row.required or CONFORMING[-1]
    if row.conforms and required in CONFORMING and CONFORMING.index(row.level) <= CONFORMING.index(required):
        return None
    got, need = f"a pass at level {row.level or 'none'}", f"{required}: the file was changed"
    return expected(f"{row.case} on {row.backend}", got, need)


def is_whole(flags: Mapping[str, Any]) -> bool:
    """Say whether flags are those of whole runs, not of one shard of several."""
    return all(count == 1 for _, count in shards_of(flags))


def shards_of(flags: Mapping[str, Any]) -> list[list[int]]:
    """Return the shards, each a number and of how many, that flags speak of."""
    return [list(shard) for shard in flags.get("shards", [flags["shard"]] if "shard" in flags else [])]
