"""What a kernel reads, in words and as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dgref.errors import counted, every


@dataclass(frozen=True)
class Finding:
    """What was read of one operand's payload or scales: a rule where one gives all of it, and a few examples."""

    operand: str
    part: str  # "payload" or "scales"
    asked: int
    decoded: int
    misplaced: int
    rule: str | None = None
    silent: str = ""  # where the first and the last lie that show no address
    examples: tuple[str, ...] = ()

    @property
    def in_place(self) -> bool:
        """Whether everything that was asked for was read where it belongs."""
        return self.asked == self.decoded and not self.misplaced

    def sentence(self) -> str:
        """Return the finding in words."""
        what, blind = f"{self.operand}'s {self.part}", self.asked - self.decoded
        if not self.decoded:
            return f"{what}: no output shows an address of them"
        silent = f"; {blind:,} show no address, {self.silent}" if blind else ""
        if not self.misplaced:
            return f"{what}: all {self.decoded:,} read where they belong{silent}"
        counts = f"{self.misplaced:,} of {self.decoded:,} read elsewhere"
        return f"{what}: {counts}{silent}; {self.rule or 'no simple rule gives them all'}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**vars(self), "examples": list(self.examples), "in_place": self.in_place}


@dataclass(frozen=True)
class Addresses:
    """What a kernel reads, and on how many further outputs that was found true."""

    findings: tuple[Finding, ...]
    launches: int
    kind: str  # of the inputs that gave the further outputs
    agreed: int
    total: int  # of the outputs that depend on known addresses alone
    unknown: int  # of the others
    alternatives: tuple[Finding, ...] = ()  # explain every output as well as the misplaced payload among `findings`
    unasked: tuple[str, ...] = ()  # operands that were zero in every launch

    @property
    def confirmed(self) -> bool:
        """Whether reading so gives every one of the further outputs."""
        return self.agreed == self.total > 0

    @property
    def in_place(self) -> bool:
        """Whether everything is read where it belongs, and nothing else is wrong with the further outputs."""
        return self.confirmed and all(found.in_place for found in self.findings)

    def lines(self) -> list[str]:
        """Return the answer as lines of text."""
        lines = []
        for lead, rows in (("", self.findings), ("or, as no output can tell which: ", self.alternatives)):
            for row in rows:
                lines += [lead + row.sentence(), *(f"  {example}" for example in row.examples)]
        lines += [f"{name}: not asked, as it was zero in every launch" for name in self.unasked]
        return [*lines, self._confirmation()]

    def _confirmation(self) -> str:
        where = f"on inputs of kind {self.kind}"
        if self.confirmed:
            rest = f"; {self.unknown:,} more depend on what shows no address" if self.unknown else ""
            launches = counted(self.launches, "launch")
            return f"confirmed {where}: reading so gives {every(self.total, 'output')}{rest} ({launches})"
        if not self.total:
            return (
                f"not confirmed {where}: none of the {counted(self.unknown, 'output')} depends on known addresses alone"
            )
        return (
            f"not confirmed {where}: reading so gives {self.agreed:,} of {counted(self.total, 'output')}; "
            "designed operands showed these addresses, and something else is wrong as well"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "in_place": self.in_place,
            "confirmed": self.confirmed,
            "findings": [row.to_dict() for row in self.findings],
            "alternatives": [row.to_dict() for row in self.alternatives],
            "unasked": list(self.unasked),
            "launches": self.launches,
            "kind": self.kind,
            "agreed": self.agreed,
            "total": self.total,
            "unknown": self.unknown,
        }
