"""What an inspection says: findings, each of them one fact."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["contradiction", "suspicion", "note"]
LEVELS: tuple[Level, ...] = ("contradiction", "suspicion", "note")


@dataclass(frozen=True)
class Finding:
    """One fact about a checkpoint.

    A contradiction is two claims that cannot both hold, or bytes that cannot mean what is claimed. A suspicion rests
    on statistics. A note is worth knowing and wrong only for some kernels.
    """

    level: Level
    fact: str
    subject: str
    message: str
    fix: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)
