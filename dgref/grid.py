"""A `[[grid]]` of a suite: a case whose list values are choices, expanded to one case for every combination."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from dgref.errors import SuiteError, expected

MOST_CASES = 100_000  # of one grid: more is a mistake that would fill memory


def expand(grid: dict[str, Any], context: str = "grid") -> Iterator[dict[str, Any]]:
    """Yield one case for every combination of the grid's list values; `{a.b}` in its id stands for the chosen value.

    A choice may be a table that holds lists itself: they are choices in turn.
    """
    choices = dict(_choices(grid))
    for path, values in choices.items():
        if not values:
            raise SuiteError(expected(f"{context} field {'.'.join(path)!r}", "an empty list", "at least one choice"))
    if prod(map(len, choices.values())) > MOST_CASES:
        raise SuiteError(expected(context, "too many combinations", f"at most {MOST_CASES} cases"))
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

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no {name} among {', '.join(vars(self))}")

    def __format__(self, spec: str) -> str:
        return "-".join(format(value) for value in vars(self).values())


class _Name(str):
    recipe = property(str)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self!s} is a plain name, without a {name}")


def _chosen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _Chosen(value)
    return _Name(value) if isinstance(value, str) else value


def _fill(template: str, row: Mapping[str, Any], context: str) -> str:
    try:
        return template.format(**vars(_Chosen({**row, **row.get("operands", {})})))
    except (KeyError, AttributeError, IndexError, ValueError, TypeError) as error:
        need = f"a template of the grid's own fields ({error})"
        raise SuiteError(expected(f"{context} field 'id'", template, need)) from None
