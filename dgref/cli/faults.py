"""dgref faults: the fault bench."""

from __future__ import annotations

from typing import Any

import click

from dgref.cli._progress import Counted


@click.command("faults")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Picks every case and variant.")
@click.option("--instances", default=400, show_default=True, type=click.IntRange(1), help="Faults to inject.")
@click.option(
    "--correct",
    default=1000,
    show_default=True,
    type=click.IntRange(0),
    help="Correct problems, each in 4 orders.",
)
@click.option("--only", multiple=True, metavar="FAULT", help="Inject only this fault. Repeatable.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table of the README.")
@click.option("--each", is_flag=True, help="One row for each fault, not for each family.")
@click.option("--misses", is_flag=True, help="Also list every instance whose own name did not come first.")
def command(
    seed: int, instances: int, correct: int, only: tuple[str, ...], as_markdown: bool, each: bool, misses: bool
) -> int:
    """Inject catalogued faults into correct results: is each caught, and named? Exit code 1 if a bar is missed.

    \b
    dgref faults --instances 20 --correct 10
    dgref faults
    dgref faults --only scale_swizzle --instances 20 --correct 0 --misses
    """
    from dgref.errors import unknown_name
    from dgref.faults.bench import bench, injected_faults
    from dgref.faults.injectors import RUNNER_FAULTS
    from dgref.faults.table import markdown, summary

    known = [*injected_faults(), *RUNNER_FAULTS]
    for name in only:
        if name not in known:
            raise unknown_name("fault", name, known)
    with Counted(instances + correct, "faults") as progress:
        result = bench(seed, instances, correct, progress, only)
    click.echo(markdown(result) if as_markdown else _table(result, each) + "\n\n" + summary(result))
    absent = (f"{name}: no instance was found that changes an output bit" for name in dict.fromkeys(result.absent))
    for line in (*_misses(result, misses), *absent, *result.alarms, *result.unnamed_orders):
        click.echo(line)
    return 0 if result.ok else 1


def _misses(result: Any, wanted: bool) -> list[str]:
    chosen = [outcome for outcome in result.outcomes if wanted and not outcome.first]
    return [f"{row.fault} in {row.case}: named {', '.join(row.names[:3])}: {row.sentence}" for row in chosen]


def _table(result: Any, each: bool) -> str:
    from dgref.faults.catalogue import family_of
    from dgref.faults.table import header, rows

    lines = [header(), *rows(result, (lambda name: name) if each else family_of)]
    first = max(len(row[0]) for row in lines)
    titles = [f"{number}: {title}" for number, title in enumerate(header()[1:], 1)]
    body = [f"{row[0]:<{first}}" + "".join(f"{cell:>7}" for cell in row[1:]) for row in lines[1:]]
    numbers = " " * first + "".join(f"{number:>7}" for number in range(1, len(header())))
    return "\n".join([*titles, numbers, *body])
