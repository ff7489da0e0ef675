"""Cases: what is computed on which inputs, as pure data; and the TOML files that hold them.

A case never names a backend or an architecture. A `[[grid]]` stands for many cases; see grid.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from dgref.errors import SuiteError, UnknownNameError, expected, unknown_name, whole_number
from dgref.files import as_path, parse_toml, read_bytes
from dgref.formats import FORMATS, LAYOUTS, RECIPES
from dgref.grid import expand

LEVELS = ("exact", "model", "bounded", "wrong")  # strongest first
MAJORS = ("k", "mn")
DEVICES = ("any", "gpu")
MOST_ELEMENTS = 1 << 36  # of an axis, and of the two largest together: beyond any memory that a case is computed in
LARGEST_SEED = (1 << 63) - 1
_ID = re.compile(r"[^\s/\\'\"`$.-][^\s/\\'\"`$]*")  # goes into file names and shell commands as it is


@dataclass(frozen=True)
class OperandChoice:
    """How one operand of a case is represented: its recipe, the layout of its scales, its memory order."""

    recipe: str
    layout: str | None = None
    major: str = "k"


@dataclass(frozen=True)
class InputChoice:
    """Which generator fills the operands, and from which seed."""

    kind: str = "normal"
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """One op, shapes, recipes, layouts, an input generator and its seed."""

    id: str
    why: str
    op: str
    shape: Mapping[str, int]
    operands: Mapping[str, OperandChoice] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    out: str | None = "bfloat16"
    inputs: InputChoice = InputChoice()
    expect: str = "model"
    suite: str = ""
    home: str = ""  # the suite's file, where it is not one that ships with dgref

    @property
    def source(self) -> str:
        """What `dgref run` calls the case's suite."""
        return self.home or self.suite or "SUITE"

    @property
    def name(self) -> str:
        """The case's full name: `suite/id`."""
        return f"{self.suite}/{self.id}" if self.suite else self.id

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Case:
        """Return the case of a dictionary made by `to_dict`, validated."""
        if not isinstance(data, Mapping):
            raise SuiteError(expected("case", repr(data), "a table of a case's fields"))
        row = {key: value for key, value in data.items() if key not in ("suite", "home")}
        case = _case(row, str(data.get("suite", "")), f"case {data.get('id', '?')!r}")
        return replace(case, home=str(data.get("home", "")))

    def make_inputs(self) -> dict[str, Any]:
        """Return the case's logical inputs: a ScaledTensor for each tensor operand, integers for each index operand."""
        from dgref.ops import OPS

        return OPS[self.op].make_inputs(self)


@dataclass(frozen=True)
class Suite:
    """A named list of cases and what it is for."""

    name: str
    description: str
    cases: tuple[Case, ...]
    default: bool = False  # part of `dgref run --default`
    device: str = "any"  # "gpu" for shapes that only a GPU computes in reasonable time

    def __len__(self) -> int:
        return len(self.cases)


def folder() -> Path:
    """Return the folder of the suites that ship with dgref."""
    beside = Path(__file__).resolve().parent.parent / "suites"
    return beside if beside.is_dir() else Path(__file__).resolve().parent / "_suites"


def names() -> list[str]:
    """Return the names of the suites that ship with dgref."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def load(name_or_path: str | Path) -> Suite:
    """Return a shipped suite by its name, or the suite in a TOML file."""
    text = str(name_or_path)
    if text.endswith(".toml") or "/" in text:
        return load_file(as_path("suite", text))
    if text not in names():
        near = get_close_matches(text.lower(), names(), n=3)
        need = " or ".join(near) or f"one of {', '.join(names())}, or a path to a .toml file"
        raise UnknownNameError(expected("suite", repr(text), need))
    return load_file(folder() / f"{text}.toml")


def load_file(path: Path) -> Suite:
    """Return the suite in a TOML file, as the file is now; an error names file, case and field."""
    return _parsed(path, path.absolute(), read_bytes(path, "a readable suite file"))


@lru_cache(maxsize=64)
def _parsed(path: Path, place: Path, data: bytes) -> Suite:
    """Return the suite that a file holds; `path` is its name as it was given, `place` where that was."""
    return _suite(parse_toml(data, path.name), path, "" if place.parent == folder() else str(path))


def chosen(cases: Sequence[Case], ids: Collection[str]) -> list[Case]:
    """Return the cases of these ids or full names, every case where none is given; an unknown id is an error."""
    known, full = {case.id for case in cases}, {case.name for case in cases}
    for id in ids:
        if id not in known | full:
            raise unknown_name("case", id, full if "/" in id else known)
    return [case for case in cases if not ids or case.id in ids or case.name in ids]


_SUITE_KEYS = {"description", "default", "device", "case", "grid"}


def _suite(data: dict[str, Any], path: Path, home: str) -> Suite:
    where = path.name
    _known_keys(data, _SUITE_KEYS, where)
    cases = [_case(row, path.stem, context) for row, context in _rows(data, "case", where)]
    for grid, context in _rows(data, "grid", where):
        cases += [_case(row, path.stem, context) for row in expand(grid, context)]
    _unique([case.id for case in cases], where)
    if not cases:
        raise SuiteError(expected(where, "no case", "at least one [[case]] or [[grid]]"))
    return Suite(
        path.stem,
        _text(data.get("description", ""), f"{where} field 'description'"),
        tuple(replace(case, home=home) for case in cases),
        _one_of(data.get("default", False), (False, True), f"{where} field 'default'"),
        _one_of(data.get("device", "any"), DEVICES, f"{where} field 'device'"),
    )


def _rows(data: Mapping[str, Any], kind: str, where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every table of `[[case]]` or `[[grid]]` with the words that name it in an error."""
    rows = data.get(kind, [])
    if not isinstance(rows, list):
        raise SuiteError(expected(f"{where} field {kind!r}", repr(rows), f"tables under [[{kind}]]"))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise SuiteError(expected(f"{where} {kind} #{number}", repr(row), f"a table under [[{kind}]]"))
        yield dict(row), f"{where} {kind} {row.get('id', f'#{number}')!r}"


def _unique(ids: list[str], where: str) -> None:
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise SuiteError(expected(f"{where} case {id!r} field 'id'", "the same id twice", "one id a case"))
        seen.add(id)


def _known_keys(data: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise SuiteError(f"{where}: {unknown_name('field', key, known)}")


_CASE_FIELDS = {f.name for f in fields(Case)} - {"suite", "home"}


def _case(data: dict[str, Any], suite: str, context: str) -> Case:
    from dgref.ops import OPS

    op = _lookup(OPS, data.get("op"), f"{context} field 'op'")
    operand_names = {operand.name for operand in op.inputs}
    _known_keys(data, _CASE_FIELDS | operand_names, context)
    for key in ("id", "why"):
        _text(data.get(key) or None, f"{context} field {key!r}")
    if not _ID.fullmatch(data["id"]):
        raise SuiteError(
            expected(f"{context} field 'id'", repr(data["id"]), "a name without spaces, slashes or quotes")
        )
    operands = {
        **_table(data.get("operands", {}), f"{context} field 'operands'"),
        **{name: data[name] for name in operand_names - _CASE_FIELDS if name in data},
    }
    case = Case(
        id=data["id"],
        why=data["why"],
        op=op.name,
        shape=checked_shape(data.get("shape"), context),
        operands={name: _operand(value, f"{context} field {name!r}") for name, value in operands.items()},
        params=_table(data.get("params", {}), f"{context} field 'params'"),
        out=_format(data.get("out", "bfloat16"), f"{context} field 'out'"),
        inputs=_inputs(data.get("inputs", {}), f"{context} field 'inputs'"),
        expect=_one_of(data.get("expect", "model"), LEVELS[:3], f"{context} field 'expect'"),
        suite=suite,
    )
    _in_context(context, op.validate, case)
    return case


def _in_context(context: str, check: Any, *arguments: Any) -> Any:
    try:
        return check(*arguments)
    except SuiteError:
        raise
    except ValueError as error:
        raise SuiteError(f"{context}: {error}") from error


def _lookup(registry: Any, name: Any, subject: str) -> Any:
    try:
        return registry[name]
    except UnknownNameError as error:
        raise SuiteError(f"{subject}: {error}") from None


def _one_of(value: Any, allowed: tuple[Any, ...], subject: str) -> Any:
    if value not in allowed or isinstance(value, bool) is not isinstance(allowed[0], bool):
        raise SuiteError(f"{subject}: {unknown_name('value', value, map(str, allowed))}")
    return value


def _format(name: Any, subject: str) -> str | None:
    return None if name in (None, "") else _lookup(FORMATS, name, subject).name


def _text(value: Any, subject: str) -> str:
    if not isinstance(value, str):
        raise SuiteError(expected(subject, "nothing" if value is None else repr(value), "a text"))
    return value


def _table(value: Any, subject: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SuiteError(expected(subject, repr(value), "a table"))
    return dict(value)


def checked_shape(shape: Any, context: str) -> dict[str, int]:
    """Return extents by axis; what is no table of them, or larger than any memory, is an error."""
    if not isinstance(shape, Mapping):
        raise SuiteError(
            expected(f"{context} field 'shape'", repr(shape), "a table of extents such as { m = 1, n = 2, k = 3 }")
        )
    extents = {
        axis: whole_number(f"{context} field 'shape.{axis}'", extent, 0, MOST_ELEMENTS, SuiteError)
        for axis, extent in shape.items()
    }
    largest = prod(sorted(extents.values())[-2:])
    if largest > MOST_ELEMENTS:
        need = f"at most {MOST_ELEMENTS:,} elements in a matrix"
        raise SuiteError(expected(f"{context} field 'shape'", f"{largest:,} elements", need))
    return extents


def _operand(value: Any, subject: str) -> OperandChoice:
    value = {"recipe": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        raise SuiteError(expected(subject, repr(value), "a recipe's name or a table { recipe, layout, major }"))
    _known_keys(value, {"recipe", "layout", "major"}, subject)
    _lookup(RECIPES, value.get("recipe"), f"{subject} field 'recipe'")
    if value.get("layout") is not None:
        _lookup(LAYOUTS, value["layout"], f"{subject} field 'layout'")
    _one_of(value.get("major", "k"), MAJORS, f"{subject} field 'major'")
    return OperandChoice(**value)


def _inputs(value: Any, subject: str) -> InputChoice:
    from dgref.inputs import GENERATORS

    if not isinstance(value, Mapping):
        raise SuiteError(expected(subject, repr(value), "a table { kind, seed }"))
    _known_keys(value, {"kind", "seed"}, subject)
    _lookup(GENERATORS, value.get("kind", "normal"), f"{subject} field 'kind'")
    seed = whole_number(f"{subject} field 'seed'", value.get("seed", 0), 0, LARGEST_SEED, SuiteError)
    return InputChoice(**{**value, "seed": seed})
