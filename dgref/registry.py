"""A table of named rows: what FORMATS, LAYOUTS, RECIPES, OPS, TENSOR_CORES, ARITHMETICS and ARCHITECTURES are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from dgref.errors import InputError, expected, unknown_name


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


class Registry(Mapping[str, Row]):
    """A read-mostly mapping from names to rows; an unknown name is an error that suggests the nearest."""

    def __init__(self, kind: str, rows: Iterable[Row] = (), aliases: Mapping[str, str] | None = None, listed: str = ""):
        self.kind = kind
        self.listed = listed  # what `dgref list` calls the table
        self._rows: dict[str, Row] = {}
        self.aliases: dict[str, str] = {}
        for row in rows:
            self.add(row)
        for alias, name in (aliases or {}).items():
            self._claim(alias)
            self.aliases[alias] = self[name].name

    def add(self, row: Row, *aliases: str) -> Row:
        """Add a row under its own name, and under aliases that resolve to it; returns the row."""
        for name in (row.name, *aliases):
            self._claim(name)
        self._rows[row.name] = row
        self.aliases.update(dict.fromkeys(aliases, row.name))
        return row

    def _claim(self, name: str) -> None:
        if name in self:
            raise InputError(expected(f"{self.kind} {name!r}", "registered twice", "a name that is not taken"))

    def __getitem__(self, name: str) -> Row:
        try:
            return self._rows[self.aliases.get(name, name)]
        except (KeyError, TypeError):
            all_of_them = f"`dgref list {self.listed}` shows all" if self.listed else ""
            raise unknown_name(self.kind, name, [*self._rows, *self.aliases], context=all_of_them) from None

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self.aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
