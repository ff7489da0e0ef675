"""Print the tables of docs/checkpoints.md: `python -m dgref.checkpoint`."""

from collections.abc import Iterable

from dgref.checkpoint import CONVENTIONS, FACTS
from dgref.checkpoint.checkpoint_facts import SURVEY_FACTS
from dgref.checkpoint.targets import TARGETS


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * columns]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def conventions_table() -> str:
    """Return one row for each convention."""
    rows = []
    for row in CONVENTIONS.values():
        payload = " or ".join(f"`*{suffix}`" for suffix in row.payload) + f" {'/'.join(row.payload_dtypes)}"
        scale = " or ".join(f"`*{suffix}`" for suffix in row.scale) + f" {'/'.join(row.scale_dtypes)}"
        extra = f"`*{row.global_scale}`, {row.global_rule}" if row.global_scale else ""
        rows.append((f"`{row.name}`", row.description, payload, scale, extra, row.source))
    return _table("convention | what it is | payload | scales | global scale | source", rows)


def facts_table() -> str:
    """Return one row for each fact."""
    facts = [("a weight", fact) for fact in FACTS.values()] + [("all", fact) for fact in SURVEY_FACTS.values()]
    return _table("fact | of | what it says", ((f"`{fact.name}`", of, fact.description) for of, fact in facts))


def targets_table() -> str:
    """Return one row for each way to run a convention."""
    rows = (
        (", ".join(t.conventions), t.backend, " ".join(t.architectures), t.payload, t.scales, t.note) for t in TARGETS
    )
    return _table("conventions | backend | architectures | payload | scales | note", rows)


if __name__ == "__main__":
    print(conventions_table(), facts_table(), targets_table(), sep="\n\n")
