"""dgref run: suites on backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dgref.cli._types import Finite, Output

JOURNAL = "journal.jsonl"


@click.command("run")
@click.argument("suites", nargs=-1)
@click.option("--default", "use_default", is_flag=True, help="Run the default suites on every backend that works here.")
@click.option(
    "-b",
    "--backend",
    "backends",
    multiple=True,
    help="A backend's name, a family such as `recorded`, or a Python file that holds BACKENDS. Repeatable.",
)
@click.option(
    "--require",
    "required",
    multiple=True,
    metavar="BACKEND",
    help="Run this backend too, and fail (exit code 3) where it judges nothing. Repeatable.",
)
@click.option("--case", "ids", multiple=True, metavar="ID", help="Run only this case. Repeatable.")
@click.option(
    "-k",
    "keyword",
    default="",
    metavar="WORDS",
    help="Run only pairs whose case, op, backend or reason hold all words.",
)
@click.option("--shard", default="1/1", metavar="I/N", help="Run every N-th case, beginning with the I-th.")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 256),
    help="Worker processes; by default one a core, one with a GPU. Those that time kernels take turns.",
)
@click.option("-o", "--output", type=Output(), help="Folder for results.json, junit.xml and index.html.")
@click.option("--resume", is_flag=True, help="Go on from the results of an interrupted run in --output.")
@click.option("--fail-fast", is_flag=True, help="Stop after the first wrong result.")
@click.option(
    "--repeats", default=2, show_default=True, type=click.IntRange(0, 1000), help="Launches beyond those over poison."
)
@click.option(
    "--timeout",
    default=120.0,
    show_default=True,
    type=Finite(0.1),
    help="Seconds before a case counts as hung.",
)
@click.option("--waivers", "waiver_file", type=click.Path(path_type=Path), help="Known failures; default: the shipped.")
@click.option("--no-isolation", is_flag=True, help="Run in this process (for debuggers).")
@click.option("--no-diagnosis", is_flag=True, help="Report wrong results without searching for their cause.")
@click.option("--github", is_flag=True, help="Also print GitHub annotations.")
@click.option(
    "--time",
    "timed_launches",
    type=click.IntRange(0, 10_000),
    is_flag=False,
    flag_value=20,
    default=0,
    metavar="[LAUNCHES]",
    help="On a GPU, time each kernel too: the median of this many launches, 20 by default.",
)
@click.option("--record", type=Output(), help="Also save the outputs, to be replayed by the backend `recorded`.")
def command(suites: tuple[str, ...], use_default: bool, output: Path | None, github: bool, **options: Any) -> int:
    """Run conformance SUITES (names or TOML files) on backends and judge every bit.

    \b
    dgref run smoke
    dgref run gemm edges --backend torch -o reports/local
    dgref run smoke --case k-tail --backend reference
    """
    from dgref.files import claimed
    from dgref.report import terminal, write_bundle
    from dgref.runner import pack

    if not suites and not use_default:
        raise click.UsageError("name at least one suite, or pass --default; `dgref list suites` shows them")
    if options["resume"] and output is None:
        raise click.UsageError("--resume needs --output, the folder of the interrupted run")
    with claimed(output, options["record"]):
        results = _run(suites, output, **options)
        terminal.summary(results)
        if github:
            terminal.github_annotations(results)
        if output:
            replaced = _replaced(output, results)
            click.echo(f"report: {write_bundle(results, output)}{replaced}")
        if options["record"]:
            pack(options["record"], results)
    return results.exit_code


def _replaced(output: Path, results: Any) -> str:
    """Return what is said of an earlier report in a folder, where it holds results that the new one lacks."""
    from dgref.errors import DgrefError, counted
    from dgref.results import load_results

    if not (output / "results.json").exists():
        return ""
    try:
        earlier = {(row.case, row.backend) for row in load_results(output)}
    except DgrefError:
        return ", in place of a report that could not be read"
    lost = earlier - {(row.case, row.backend) for row in results}
    return f", in place of an earlier report: {counted(len(lost), 'other result')} in it are gone" if lost else ""


def _run(suites: tuple[str, ...], output: Path | None, backends: tuple[str, ...], **options: Any) -> Any:
    from dgref import runner
    from dgref.report import terminal

    with terminal.Progress() as progress:
        try:
            return runner.run(
                list(suites) or runner.default_suites(),
                list(backends) or None,
                journal=output / JOURNAL if output else None,
                progress=progress,
                **_arguments(**options),
            )
        except KeyboardInterrupt:
            progress.interrupted("add --resume to the same command to go on" if output else "")
            raise


def _arguments(
    ids: tuple[str, ...],
    keyword: str,
    shard: str,
    timeout: float,
    repeats: int,
    timed_launches: int,
    no_diagnosis: bool,
    no_isolation: bool,
    record: Path | None,
    **options: Any,
) -> dict[str, Any]:
    """Return the options as `runner.run` takes them."""
    from dgref.runner import Selection, Settings, parse_shard

    target = str(record) if record else None
    return {
        "selection": Selection(ids, keyword, parse_shard(shard)),
        "settings": Settings(timeout, repeats, not no_diagnosis, target, timed_launches),
        "isolate": not no_isolation,
        **options,
    }
