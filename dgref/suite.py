"""Cases: what is computed on which inputs, as pure data; and the TOML files that hold them.

A case never names a backend or an architecture. A `[[grid]]` is a case whose list values are choices: it expands to
one case for every combination, under an id made from its template.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from dgref.errors import SuiteError, UnknownNameError, expected, unknown_name
from dgref.formats import FORMATS, LAYOUTS, RECIPES

LEVELS = ("exact", "model", "bounded", "wrong")  # strongest first
MAJORS = ("k", "mn")


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
        return _case(dict(data), data.get("suite", ""), f"case {data.get('id', '?')!r}")

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
        return load_file(Path(text))
    if text not in names():
        raise unknown_name("suite", text, names())
    return load_file(folder() / f"{text}.toml")


@cache
def load_file(path: Path) -> Suite:
    """Return the suite in a TOML file; an error names file, case and field."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SuiteError(expected(str(path), error.strerror, "a readable suite file")) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SuiteError(expected(path.name, error, "valid TOML in UTF-8")) from error
    return _suite(data, path)


_SUITE_KEYS = {"description", "default", "device", "case", "grid"}


def _suite(data: dict[str, Any], path: Path) -> Suite:
    where = path.name
    _known_keys(data, _SUITE_KEYS, where)
    cases = [
        _case(dict(row), path.stem, f"{where} case {row.get('id', f'#{i + 1}')!r}")
        for i, row in enumerate(data.get("case", []))
    ]
    for i, grid in enumerate(data.get("grid", [])):
        context = f"{where} grid {grid.get('id', f'#{i + 1}')!r}"
        cases += [_case(row, path.stem, context) for row in expand(dict(grid), context)]
    _unique([case.id for case in cases], where)
    if not cases:
        raise SuiteError(expected(where, "no case", "at least one [[case]] or [[grid]]"))
    return Suite(
        path.stem, data.get("description", ""), tuple(cases), data.get("default", False), data.get("device", "any")
    )


def _unique(ids: list[str], where: str) -> None:
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise SuiteError(expected(f"{where} case {id!r} field 'id'", "the same id twice", "one id a case"))
        seen.add(id)


def expand(grid: dict[str, Any], context: str = "grid") -> Iterator[dict[str, Any]]:
    """Yield one case for every combination of the grid's list values; `{a.b}` in its id stands for the chosen value.

    A choice may be a table that holds lists itself: they are choices in turn.
    """
    choices = dict(_choices(grid))
    if not choices:
        yield {**grid, "id": _fill(str(grid.get("id", "")), grid, context)}
        return
    for picks in product(*choices.values()):
        row: dict[str, Any] = {}
        for path, value in _leaves(grid):
            _put(row, path, value)
        for path, value in zip(choices, picks, strict=True):
            _put(row, path, value)
        yield from expand(row, context)


def _leaves(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _choices(grid: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    return ((path, value) for path, value in _leaves(grid) if isinstance(value, list))


def _put(row: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        row = row.setdefault(key, {})
    row[path[-1]] = value


class _Chosen:
    """A table whose entries a template reaches with dots; an operand given by its recipe's name has `.recipe` too."""

    def __init__(self, table: Mapping[str, Any]):
        self.__dict__.update({key: _chosen(value) for key, value in table.items()})

    def __format__(self, spec: str) -> str:
        return "-".join(format(value) for value in vars(self).values())


class _Name(str):
    recipe = property(str)


def _chosen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _Chosen(value)
    return _Name(value) if isinstance(value, str) else value


def _fill(template: str, row: Mapping[str, Any], context: str) -> str:
    try:
        return template.format(**vars(_Chosen({**row, **row.get("operands", {})})))
    except (KeyError, AttributeError, IndexError, ValueError) as error:
        need = f"a template of the grid's own fields ({error})"
        raise SuiteError(expected(f"{context} field 'id'", template, need)) from None


def _known_keys(data: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise SuiteError(f"{where}: {unknown_name('field', key, known)}")


_CASE_FIELDS = {f.name for f in fields(Case)}


def _case(data: dict[str, Any], suite: str, context: str) -> Case:
    from dgref.ops import OPS

    op = _lookup(OPS, data.get("op"), f"{context} field 'op'")
    operand_names = {operand.name for operand in op.inputs}
    operands = {
        **data.pop("operands", {}),
        **{key: data.pop(key) for key in operand_names - _CASE_FIELDS if key in data},
    }
    _known_keys(data, _CASE_FIELDS | operand_names, context)
    for key in ("id", "why", "shape"):
        if not data.get(key) and data.get(key) != {}:
            raise SuiteError(expected(f"{context} field {key!r}", "nothing", "a value"))
    case = Case(
        id=data["id"],
        why=data["why"],
        op=op.name,
        shape=_shape(op, data["shape"], context),
        operands={name: _operand(value, f"{context} field {name!r}") for name, value in operands.items()},
        params=dict(data.get("params", {})),
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


def _one_of(value: Any, allowed: tuple[str, ...], subject: str) -> Any:
    if value not in allowed:
        raise SuiteError(f"{subject}: {unknown_name('value', value, allowed)}")
    return value


def _format(name: Any, subject: str) -> str | None:
    return None if name in (None, "") else _lookup(FORMATS, name, subject).name


def _shape(op: Any, shape: Any, context: str) -> dict[str, int]:
    if not isinstance(shape, Mapping):
        raise SuiteError(
            expected(f"{context} field 'shape'", shape, "a table of extents such as { m = 1, n = 2, k = 3 }")
        )
    for axis, extent in shape.items():
        if not isinstance(extent, int) or isinstance(extent, bool) or extent < 0:
            raise SuiteError(expected(f"{context} field 'shape.{axis}'", repr(extent), "a whole number of at least 0"))
    return dict(shape)


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
    seed = value.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise SuiteError(expected(f"{subject} field 'seed'", repr(seed), "a whole number of at least 0"))
    return InputChoice(**value)
