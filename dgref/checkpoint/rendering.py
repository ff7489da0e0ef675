"""An inspection on a terminal."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from dgref.checkpoint.findings import LEVELS, Finding
from dgref.checkpoint.inspection import Inspection
from dgref.errors import counted

_STYLES = {"contradiction": "bold red", "suspicion": "yellow", "note": "dim"}
_SHOWN = 3  # findings of one kind that are written out


def render(inspection: Inspection):
    """Return a rich renderable: what it is, what is wrong, who can take it."""
    from rich.console import Group

    parts = [_summary(inspection), *_findings(inspection)]
    if inspection.targets:
        parts.append(_targets(inspection))
    return Group(*parts)


def _amount(count: int) -> str:
    """Return a number of bytes in the unit that leaves it at least one."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"


def _summary(inspection: Inspection):
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    size = f"{_amount(inspection.bytes)} in {counted(inspection.files, 'file')}, {_amount(inspection.bytes_read)} read"
    kinds = ", ".join(f"{count} {name}" for name, count in inspection.conventions.items()) or "no quantised weight"
    plain = ", ".join(f"{count} {dtype}" for dtype, count in inspection.plain.items()) or "none"
    rows = (
        ("checkpoint", inspection.path),
        ("convention", inspection.convention),
        ("weights", kinds),
        ("other tensors", plain),
        ("configuration claims", ", ".join(inspection.claims) or "nothing about quantisation"),
        ("size", size),
        ("verdict", _verdict(inspection)),
    )
    from rich.text import Text

    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _verdict(inspection: Inspection) -> str:
    counts = [counted(count, level) for level, count in inspection.levels.items() if count]
    return ", ".join(counts) if counts else "nothing wrong found"


def _findings(inspection: Inspection):
    """Yield each kind of finding once, with its first few cases."""
    from rich.text import Text

    kinds: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in inspection.findings:
        kinds[finding.level, finding.fact].append(finding)
    for (level, fact), found in sorted(kinds.items(), key=lambda item: LEVELS.index(item[0][0])):
        text = Text(f"\n{level}: {fact}", style=_STYLES[level])
        for finding in found[:_SHOWN]:
            text.append(f"\n  {finding.subject}: {finding.message}", style="default")
            if finding.fix:
                text.append(f"\n    {finding.fix}", style="italic")
        if len(found) > _SHOWN:
            text.append(f"\n  and {len(found) - _SHOWN} more", style="dim")
        yield text


def _targets(inspection: Inspection):
    from rich.console import Group
    from rich.text import Text

    from dgref.tables import Fitted

    return Group(Text("\nWho can take it", style="bold"), Fitted([_target(row) for row in inspection.targets]))


def _target(row: dict[str, Any]) -> dict[str, Any]:
    note = f"not without loss: {row['blocked_by']}" if row["blocked_by"] else row["note"]
    names = ("backend", "architectures", "weights", "payload", "scales")
    return {**{name: row[name] for name in names}, "architectures": " ".join(row["architectures"]), "note": note}
