"""A table of named rows: what FORMATS, LAYOUTS, RECIPES, OPS, TENSOR_CORES, ARITHMETICS and ARCHITECTURES are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, TypeVar

from dgref.errors import unknown_name


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


class Registry(Mapping[str, Row]):
    """A read-mostly mapping from names to rows; an unknown name is an error that suggests the nearest."""

    def __init__(self, kind: str, rows: Iterable[Row] = (), aliases: Mapping[str, str] | None = None):
        self.kind = kind
        self._rows: dict[str, Row] = {}
        self.aliases: dict[str, str] = dict(aliases or {})
        for row in rows:
            self.add(row)

    def add(self, row: Row, *aliases: str) -> Row:
        """Add a row under its own name, and under aliases that resolve to it; returns the row."""
        if row.name in self._rows or row.name in self.aliases:
            raise ValueError(f"{self.kind} {row.name!r}: registered twice")
        self._rows[row.name] = row
        self.aliases.update(dict.fromkeys(aliases, row.name))
        return row

    def __getitem__(self, name: str) -> Row:
        try:
            return self._rows[self.aliases.get(name, name)]
        except (KeyError, TypeError):
            raise unknown_name(self.kind, name, [*self._rows, *self.aliases]) from None

    def __contains__(self, name: object) -> bool:
        return name in self._rows or name in self.aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
