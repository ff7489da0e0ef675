"""What the nested fields of a results file hold: pages and tables read them without looking again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_LARGEST = 2**63  # of a number: what text and drawings can show, and far beyond any count


@dataclass(frozen=True)
class Kind:
    """What a value must be, in words and as a test."""

    need: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """An object whose every value, whatever its name, is of one kind."""

    kind: Any


@dataclass(frozen=True)
class Maybe:
    """A value that may also be null."""

    kind: Any


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _LARGEST


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


TEXT = Kind("text", lambda value: isinstance(value, str))
COUNT = Kind("a count", _is_count)
NUMBER = Kind("a number", lambda value: isinstance(value, int | float) and abs(value) < _LARGEST)
_TILE = Kind(
    "two counts above zero",
    lambda value: isinstance(value, list) and len(value) == 2 and all(_is_count(size) and size for size in value),
)
_MAP = {"cells": [TEXT], "shape": [COUNT], "tile": _TILE, "rows_per_group": Maybe(COUNT)}
_OUTPUT = {
    "differing": COUNT,
    "summary": TEXT,
    "histogram": Each(COUNT),
    "worst": [{"line": TEXT}],
    "map": _MAP,
}
_CAUSE = {name: Maybe(TEXT) for name in ("sentence", "fix", "ask", "hypothesis", "status")}

NOT_RECORDED = "not recorded"  # why outputs are in no recording, where --record asked for one
REMARKS = ("not bounded here", "gain", NOT_RECORDED)  # what a result that conforms may still say
_TEXTS = ("judged", "diagnosis", "traceback", "raised", *REMARKS)  # of the evidence
RESULT = {
    "outputs": Each(_OUTPUT),
    "recipes": Each(TEXT),
    "layouts": Each(TEXT),
    "shape": Each(COUNT),
    "seconds": Each(NUMBER),
    "throughput": Each(NUMBER),
    "diagnosis": Maybe({**_CAUSE, "agreed": Maybe(COUNT), "total": Maybe(COUNT)}),
    "evidence": {"runs": COUNT, "poisons": [TEXT], **dict.fromkeys(_TEXTS, TEXT)},
}
TEXTS = [TEXT]
_SHARD = Kind("two counts above zero, i and n", _TILE.holds)
FLAGS = {"suites": TEXTS, "backends": TEXTS, "shard": _SHARD, "shards": [_SHARD]}
FLAGS |= {
    "required": Each(TEXTS),
    "runs": COUNT,
    "differ": Kind("names", lambda value: bool(value) and _are_texts(value)),
}
MACHINE = {name: Maybe(TEXT) for name in ("processor", "architecture", "system", "commit")} | {
    "gpu": Maybe({"name": TEXT})
}


def misfits(value: Any, kind: Any, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield (field, what it holds, what it needs) for every part of another kind; what is not read may be anything."""
    if isinstance(kind, Maybe):
        if value is not None:
            yield from misfits(value, kind.kind, path)
    elif isinstance(kind, Kind):
        if not kind.holds(value):
            yield path, value, kind.need
    elif isinstance(kind, list):
        yield from _of_list(value, kind[0], path)
    else:
        yield from _of_object(value, kind, path)


def _of_list(value: Any, kind: Any, path: str) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(value, list):
        yield path, value, "a list"
        return
    for number, part in enumerate(value):
        yield from misfits(part, kind, f"{path}[{number}]")


def _of_object(value: Any, kind: Each | Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(value, Mapping):
        yield path, value, "an object"
        return
    if kind is _MAP and not {"shape", "tile"} <= value.keys():
        yield path, value, "shape, tile and cells"
    kinds = dict.fromkeys(value, kind.kind) if isinstance(kind, Each) else kind
    for name in value.keys() & kinds.keys():
        yield from misfits(value[name], kinds[name], f"{path}.{name}".lstrip("."))
