"""dgref bench: how fast dgref's own parts are, and how fast kernels are on a suite."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from dgref.cli._tables import print_rows
from dgref.cli._types import Output

PARTS = {
    "codecs": "conversions between formats, against torch and ml_dtypes",
    "quantize": "quantisers, in elements per second",
    "layouts": "packing of scale layouts, against a memory copy",
    "reference": "the tensor-core engine, in multiply-accumulates per second",
    "exact": "the exact oracle and the tightness of the derived bound",
    "compare": "comparison of large outputs",
    "checkpoint": "inspection by sample of checkpoints as large as real ones",
}


@click.command("bench")
@click.argument("subject")
@click.option("-b", "--backend", "backends", multiple=True, help="With a suite: backends to time. Repeatable.")
@click.option(
    "--launches",
    default=20,
    show_default=True,
    type=click.IntRange(3, 10_000),
    help="With a suite: timed launches of a case.",
)
@click.option("-k", "keyword", default="", metavar="WORDS", help="With a suite: time only cases that hold all words.")
@click.option("-o", "--output", type=Output(), help="With a suite: folder for the report.")
@click.option("--json", "as_json", is_flag=True, help="Print rows as data.")
@click.pass_context
def command(context: click.Context, subject: str, as_json: bool, **options: Any) -> int:
    """Measure SUBJECT: codecs, quantize, layouts, reference, exact, compare, checkpoint, or a suite's
    name (on a GPU).

    \b
    dgref bench codecs
    dgref bench deepseek --backend cuda --backend torch -o reports/local/bench
    """
    if subject in PARTS:
        _refuse_options_of_suites(context, subject, options)
        _print(list(import_module(f"dgref.bench.{subject}").rows()), as_json)
        return 0
    return _bench_suite(subject, as_json, **options)


def _refuse_options_of_suites(context: click.Context, subject: str, options: Mapping[str, Any]) -> None:
    given = [name for name in options if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    names = [parameter.opts[-1] for parameter in context.command.params if parameter.name in given]
    if names:
        raise click.UsageError(f"{' and '.join(names)}: got {subject}, a part of dgref itself, need a suite's name")


def _print(rows: list[Mapping[str, Any]], as_json: bool) -> None:
    """Print measurements, on a terminal with the four digits that mean something."""
    short = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    print_rows(rows if as_json else short, as_json)


def _bench_suite(
    subject: str, as_json: bool, backends: tuple[str, ...], launches: int, keyword: str, output: Path | None
) -> int:
    from dgref import machine, runner
    from dgref.errors import UnavailableError
    from dgref.files import claimed
    from dgref.report import terminal, write_bundle
    from dgref.trial import Settings

    if machine.gpu() is None:
        raise UnavailableError(f"bench {subject}: got no CUDA device, need one; `dgref bench codecs` runs on a CPU")
    settings = Settings(timeout=300, repeats=0, judge=False, timed_launches=launches)
    with claimed(output), terminal.Progress(quiet=as_json) as progress:
        selection = runner.Selection(keyword=keyword)
        results = runner.run(
            [subject], list(backends) or None, selection=selection, settings=settings, progress=progress
        )
        page = write_bundle(results, output) if output else None
    _print([{"case": row.case, "backend": row.backend, **row.throughput} for row in results if row.throughput], as_json)
    if page:
        click.echo(f"report: {page}", err=as_json)
    return results.exit_code
