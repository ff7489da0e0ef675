"""The bench as tables: for the terminal, for the README, and the generated page of the diagnosis."""

from __future__ import annotations

from collections.abc import Callable

from dgref.compare.hypotheses import HYPOTHESES
from dgref.faults.bench import OTHERS, Bench, Outcome
from dgref.faults.catalogue import CATALOGUE, FAMILIES, family_of

HEADER = ("faults", "instances", "caught", "named first", "in the first three", "same bits as the first")


def rows(result: Bench, key: Callable[[str], str] = family_of) -> list[tuple[str, ...]]:
    """Return one row of counts for each group of faults, and the total last."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in result.outcomes:
        groups.setdefault(key(outcome.fault), []).append(outcome)
    order = [name for name in FAMILIES if name in groups] or sorted(groups)
    table = [_row(name, groups[name]) for name in order]
    return [*table, _row("all", result.outcomes)]


def _row(name: str, outcomes: list[Outcome]) -> tuple[str, ...]:
    counts = (
        len(outcomes),
        sum(outcome.caught for outcome in outcomes),
        sum(outcome.first for outcome in outcomes),
        sum(outcome.third for outcome in outcomes),
        sum(outcome.same_bits and not outcome.first for outcome in outcomes),
        *(sum(outcome.passed[rule] for outcome in outcomes) for rule in OTHERS),
    )
    return (name, *map(str, counts))


def header() -> tuple[str, ...]:
    """Return the titles of the columns."""
    return (*HEADER, *(f"passed by {rule}" for rule in OTHERS))


def markdown(result: Bench) -> str:
    """Return the table of the README and the sentence under it."""
    lines = ["| " + " | ".join(header()) + " |", "|" + "---|" * len(header())]
    lines += ["| " + " | ".join(row) + " |" for row in rows(result)]
    return "\n".join([*lines, "", summary(result)])


def summary(result: Bench) -> str:
    """Return what the bench found in a few sentences."""
    first, third = result.rate(lambda o: o.first), result.rate(lambda o: o.third)
    beyond = result.rate(lambda o: o.beyond_bound)
    slowest = max((outcome.seconds for outcome in result.outcomes), default=0.0)
    return (
        f"{len(result.outcomes)} injected faults (seed {result.seed}): {result.rate(lambda o: o.caught):.1%} caught, "
        f"{beyond:.1%} even where no arithmetic is declared; the fault's own name first in {first:.1%}, among the "
        f"first three in {third:.1%}; where another name came first, "
        f"{sum(o.same_bits and not o.first for o in result.outcomes)} times it gave the very same output bits. "
        f"{result.silent} further injections changed no output bit. {result.correct} correct results by other valid "
        f"arithmetics: {len(result.alarms)} called wrong; of the {result.orders} diagnosed against another declared "
        f"order, {len(result.unnamed_orders)} were not called right. Slowest diagnosis {slowest:.1f} s."
    )


def page() -> str:
    """Return docs/diagnosis.md: every row of the catalogue and how it is named, then every hypothesis."""
    lines = [_INTRODUCTION, "| row | fault | met in | how it is named |", "|---|---|---|---|"]
    for family in FAMILIES:
        lines.append(f"| | **{family}** | | |")
        lines += [
            f"| {row.number} | {row.title} | {row.met} | {row.how} |" for row in CATALOGUE if row.family == family
        ]
    lines += ["", "## Hypotheses", "", "| hypothesis | rows | what went wrong |", "|---|---|---|"]
    for name, row in HYPOTHESES.items():
        numbers = ", ".join(map(str, row.rows))
        lines.append(f"| `{name}` | {numbers} | {row.summary}{' (benign)' if row.benign else ''} |")
    return "\n".join(lines) + "\n"


_INTRODUCTION = """# Diagnosis

`dgref.diagnose(case, inputs, outputs)`, `dgref diagnose DUMP`, and every failed case of `dgref run` answer with one
sentence, the evidence for it and a fix:

> the scale bytes of b were packed big-endian; re-reading them little-endian makes all 1,048,576 output bits equal

A hypothesis is one function that says how a kernel may have misread its operands. It is *confirmed* only when
recomputing the outputs that way makes the observed bits agree with the declared arithmetic (or, where none is
declared, puts every output within the derived bound). Hypotheses are tried on a sample of rows and columns, most of
them where something differs, likeliest first; what agrees there is then confirmed on everything, as far as the budget
goes, and the sentence says on how many outputs. If no single one explains all, pairs are tried. What explains more
than half of the error is a *suspicion*; less is *none*. Where several explain every output equally well, the sentence
names them together, and names inputs that would tell them apart where such were found (`separate` in the JSON is the
case to run). Where nothing is declared and every element is within its bound, a factor on the whole output is still
wrong (docs/bound.md, 6): it is named `output_gain` if all parts of the output share it.

Races, uninitialised memory, stale caches and silent fallbacks leave nothing to recompute. They are named from what a
run shows: outputs that change between launches over two poison patterns and repeats, overwritten guard bytes, and
pairs of provenance entries that must agree (`requested_kernel` and `kernel`, `architecture` and `built_for`,
`problem_key` and `tuned_key`, `source_hash` and `artefact_hash`). Rows 38, 39 and 40 look alike from outside: all are
named `race`.

`dgref faults` injects every one of these into correct results and counts what is caught and named. This page is
generated: `python -m dgref.faults.table > docs/diagnosis.md`.

## The catalogue
"""

if __name__ == "__main__":
    print(page(), end="")
