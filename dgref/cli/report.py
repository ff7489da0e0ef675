"""dgref report: what to do with results once there are some."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dgref.cli._types import Finite, Output
from dgref.errors import counted

_PATH = click.Path(path_type=Path)


@click.group("report")
def command() -> None:
    """Render, compare, merge and check results."""


@command.command("render")
@click.argument("results", type=_PATH)
@click.option("-o", "--output", required=True, type=Output(), help="Folder for the bundle.")
def render(results: Path, output: Path) -> int:
    """Write the bundle (JSON, JUnit, HTML, hashes) of RESULTS, a results.json or its folder.

    Of a run that was cut off RESULTS is its journal.jsonl, or its folder where no results.json lies in it.
    """
    from dgref.files import claimed
    from dgref.report import write_bundle

    with claimed(output):
        click.echo(f"report: {write_bundle(_found(results), output)}")
    return 0


def _found(path: Path) -> Any:
    from dgref.cli.run import JOURNAL
    from dgref.journal import load_journal
    from dgref.results import load_results

    journal = path / JOURNAL if path.is_dir() and not (path / "results.json").exists() else path
    return load_journal(journal) if journal.name == JOURNAL and journal.exists() else load_results(path)


@command.command("compare")
@click.argument("before", type=_PATH)
@click.argument("after", type=_PATH)
@click.option(
    "--tolerance",
    type=Finite(0),
    default=0.05,
    show_default=True,
    help="Slowdown that is not a regression, as a fraction.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the changes as data.")
def compare(before: Path, after: Path, tolerance: float, as_json: bool) -> int:
    """Say what changed from BEFORE to AFTER; exit code 1 where anything became wrong, weaker, slower or absent."""
    from dgref.report.compare import compare as compared
    from dgref.results import load_results

    changes = compared(load_results(before), load_results(after), tolerance)
    worse = sum(change.regression for change in changes)
    if as_json:
        click.echo(json.dumps([asdict(change) for change in changes], indent=1))
    else:
        for change in changes:
            click.echo(f"{change.kind:7} {change.case} on {change.backend}: {change.before} -> {change.after}")
        click.echo(f"{counted(len(changes), 'change')}, {counted(worse, 'regression')} among them")
    return 1 if worse else 0


@command.command("merge")
@click.argument("shards", nargs=-1, required=True, type=_PATH)
@click.option("-o", "--output", required=True, type=Output(), help="Folder for the bundle of all.")
def merge(shards: tuple[Path, ...], output: Path) -> int:
    """Join the results of SHARDS of one run into one bundle."""
    from dgref.files import claimed
    from dgref.merging import merge as merged
    from dgref.report import terminal, write_bundle
    from dgref.results import load_results

    results = merged(load_results(path) for path in shards)
    terminal.summary(results)
    with claimed(output):
        click.echo(f"report: {write_bundle(results, output)}")
    return results.exit_code


@command.command("check")
@click.argument("bundle", type=_PATH)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    help="Suite whose every case must conform; default: of the must-pass ones it claims, what its backends serve.",
)
@click.option("--waivers", "waiver_file", type=_PATH, help="Waivers of the run; default: the shipped.")
def check(bundle: Path, suites: tuple[str, ...], waiver_file: Path | None) -> int:
    """Check a BUNDLE: hashes, no wrong result, no waiver missing or expired, must-pass cases that its backends serve.

    Suites that were not judged whole get a line each, and are no problem; name them with --suite to require them. So do
    waived results and those that were only timed. Exit code 3 where nothing ran.
    """
    from dgref.report.bundle import check as checked
    from dgref.report.bundle import not_judged, remarks
    from dgref.results import load_results

    problems = checked(bundle, list(suites) or None, waiver_file)
    results = load_results(bundle)
    for line in [*problems, *remarks(results, waiver_file), *([] if suites else not_judged(results))]:
        click.echo(line)
    click.echo(f"{bundle}: {counted(len(problems), 'problem')}" if problems else f"{bundle}: complete and unchanged")
    return results.exit_code or 1 if problems else 0
