"""What a search for an arithmetic found, and when two arithmetics are the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dgref.errors import counted
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic


@dataclass(frozen=True)
class Inference:
    """The arithmetic that reproduces an output, or the nearest one found.

    `agreement` is the fraction of compared elements whose bits are equal. `open` lists, for each field of the
    arithmetic, other values that reproduce every compared bit too: what this output cannot tell apart.
    """

    arithmetic: Arithmetic | None
    nearest: Arithmetic
    agreement: float
    compared: int
    tried: int
    seconds: float
    evidence: tuple[str, ...] = ()
    open: Mapping[str, tuple] = field(default_factory=dict)

    def summary(self) -> str:
        """Return one sentence."""
        row = self.nearest
        tried = f"{counted(self.tried, 'arithmetic')} tried"
        share = int(self.agreement * 1e4) / 1e4  # 100% is said of all only
        bits = f"{share:.2%} of {counted(self.compared, 'element')} equal in every bit, {tried}"
        if self.arithmetic is None:
            return f"no arithmetic found; nearest {describe(row)}: {bits}"
        return f"{describe(row)}: {bits}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that a backend can declare and JSON can hold."""
        return {
            "found": self.arithmetic is not None,
            "arithmetic": self.nearest.to_dict(),
            "agreement": self.agreement,
            "compared": self.compared,
            "tried": self.tried,
            "seconds": round(self.seconds, 3),
            "evidence": list(self.evidence),
            "open": {name: list(values) for name, values in self.open.items()},
        }


def describe(arithmetic: Arithmetic) -> str:
    """Return the parts of an arithmetic that decide its bits, as a phrase."""
    parts = [arithmetic.core]
    if arithmetic.interval:
        scaled = arithmetic.scales in ("product", "each")
        how = f"{arithmetic.promotion} of {arithmetic.scales} scales" if scaled else arithmetic.promotion
        parts.append(f"promoted every {arithmetic.interval} by {how}")
    else:
        parts.append("one chain" if arithmetic.splits == 1 and not arithmetic.boundaries else "one chain a split")
    if arithmetic.splits > 1 or arithmetic.boundaries:
        where = arithmetic.boundaries or f"{arithmetic.splits} of whole {arithmetic.split_unit}s"
        parts.append(f"splits {where} added {arithmetic.reduction}")
    parts += [
        f"{side} rounded to {name}" for side, name in (("a", arithmetic.round_a), ("b", arithmetic.round_b)) if name
    ]
    if arithmetic.fold_b:
        parts.append(f"scales of b folded into {arithmetic.fold_b}")
    if arithmetic.lanes:
        parts.append(f"{arithmetic.lanes.lanes} lanes, {arithmetic.lanes.step} from {arithmetic.lanes.start}")
    return ", ".join(parts)


_NAMELESS = {"name": "inferred", "status": "inferred", "source": "search over recorded outputs"}


def plain(arithmetic: Arithmetic) -> Arithmetic:
    """Return an arithmetic without its name, and without fields that change nothing: equal sums are then equal data."""
    row = arithmetic.but(**_NAMELESS)
    if row.splits == 1 and not row.boundaries:
        row = row.but(split_unit=1, reduction="ascending")
    return row if row.scales in ("product", "each") else row.but(promotion="add")


def named(arithmetic: Arithmetic) -> Arithmetic:
    """Return the registered arithmetic that computes the same, or the nameless one."""
    known = (row for row in ARITHMETICS.values() if plain(row) == plain(arithmetic))
    return next(known, arithmetic)
