"""The facts about one weight: a registry that the modules beside it fill, each fact a small function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dgref.checkpoint.findings import Finding, Level
from dgref.checkpoint.statistics import Statistics
from dgref.checkpoint.weights import Weight
from dgref.registry import Registry


@dataclass(frozen=True)
class Measured:
    """A weight, what was measured of it, and what the configuration claims."""

    weight: Weight
    statistics: Statistics
    claims: frozenset[str]


Found = Iterator[tuple[Level, str, str]]  # level, message, fix


@dataclass(frozen=True)
class Fact:
    """One check of one weight."""

    name: str
    description: str
    check: Callable[[Measured], Found]

    def findings(self, measured: Measured) -> Iterator[Finding]:
        """Yield what is wrong under this fact's name."""
        for level, message, fix in self.check(measured):
            yield Finding(level, self.name, measured.weight.name, message, fix)


FACTS: Registry[Fact] = Registry("checkpoint fact")


def fact(check: Callable[[Measured], Found]) -> Callable[[Measured], Found]:
    """Register a check under its function's name, described by its docstring."""
    FACTS.add(Fact(check.__name__, (check.__doc__ or "").splitlines()[0], check))
    return check
