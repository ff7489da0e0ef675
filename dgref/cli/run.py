"""dgref run: suites on backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("run")
@click.argument("suites", nargs=-1)
@click.option("--default", "use_default", is_flag=True, help="Run the default suites on every backend that works here.")
@click.option(
    "-b", "--backend", "backends", multiple=True, help="A backend's name, or a family such as `recorded`. Repeatable."
)
@click.option("--case", "ids", multiple=True, metavar="ID", help="Run only this case. Repeatable.")
@click.option(
    "-k",
    "keyword",
    default="",
    metavar="WORDS",
    help="Run only pairs whose case, op, backend or reason hold all words.",
)
@click.option("--shard", default="1/1", metavar="I/N", help="Run every N-th pair, beginning with the I-th.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder for results.json, junit.xml and index.html."
)
@click.option("--resume", is_flag=True, help="Go on from the results of an interrupted run in --output.")
@click.option("--fail-fast", is_flag=True, help="Stop after the first wrong result.")
@click.option(
    "--repeats", default=2, show_default=True, type=click.IntRange(0), help="Launches beyond the two over poison."
)
@click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    type=click.FloatRange(0.1),
    help="Seconds before a case counts as hung.",
)
@click.option("--no-isolation", is_flag=True, help="Run in this process (for debuggers).")
@click.option("--no-diagnosis", is_flag=True, help="Report wrong results without searching for their cause.")
@click.option("--github", is_flag=True, help="Also print GitHub annotations.")
@click.option(
    "--record", type=click.Path(path_type=Path), help="Also save the outputs, to be replayed by the backend `recorded`."
)
def command(suites: tuple[str, ...], use_default: bool, output: Path | None, github: bool, **options: Any) -> int:
    """Run conformance SUITES (names or TOML files) on backends and judge every bit.

    \b
    dgref run smoke
    dgref run gemm edges --backend torch -o reports/local
    dgref run smoke --case k-tail --backend reference
    """
    from dgref import runner
    from dgref.report import terminal, write_bundle

    if not suites and not use_default:
        raise click.UsageError("name at least one suite, or pass --default; `dgref list suites` shows them")
    if options["resume"] and output is None:
        raise click.UsageError("--resume needs --output, the folder of the interrupted run")
    chosen = list(suites) or runner.default_suites()
    with terminal.Progress() as progress:
        results = runner.run(
            chosen,
            list(options["backends"]) or None,
            selection=runner.Selection(options["ids"], options["keyword"], runner.parse_shard(options["shard"])),
            settings=runner.Settings(
                options["timeout"], options["repeats"], not options["no_diagnosis"], record=options["record"]
            ),
            fail_fast=options["fail_fast"],
            isolate=not options["no_isolation"],
            journal=output / "journal.jsonl" if output else None,
            resume=options["resume"],
            progress=progress,
        )
    terminal.summary(results)
    if github:
        terminal.github_annotations(results)
    if output:
        click.echo(f"report: {write_bundle(results, output)}")
    return results.exit_code
