"""dgref diagnose: why a dumped output is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dgref.cli._types import Finite


@click.command("diagnose")
@click.argument("dump", type=click.Path(path_type=Path))
@click.option("--op", default="gemm", show_default=True, help="The operation; `dgref list ops` shows them.")
@click.option("--a", "a", metavar="RECIPE[:LAYOUT[:MAJOR]]", help="What operand a is; short for --recipe a=...")
@click.option("--b", "b", metavar="RECIPE[:LAYOUT[:MAJOR]]", help="What operand b is.")
@click.option("--recipe", "recipes", multiple=True, metavar="NAME=RECIPE[:LAYOUT[:MAJOR]]", help="Of any operand.")
@click.option("--out", help="The output's format, where its dtype does not say it.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the op, as JSON.")
@click.option("--shape", "extents", multiple=True, metavar="AXIS=EXTENT", help="An extent that no array shows.")
@click.option("--arithmetic", help="What the implementation claims to compute; without it, the derived bound decides.")
@click.option("--budget", default=30.0, show_default=True, type=Finite(0.1), help="Seconds to search.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(dump: Path, op: str, a: str | None, b: str | None, as_json: bool, **options: Any) -> int:
    """Say what is wrong with the outputs in DUMP, a safetensors, npz or pt file.

    Arrays have the op's own names: a, a.scale, a.global_scale, b, ..., and the output (d). Exit code 1: wrong.

    \b
    dgref diagnose dump.safetensors --a deepseek_fp8:mn_major_tma --b deepseek_fp8_weight
    dgref diagnose dump.npz --a mxfp4:swizzle_128x4 --b mxfp4:swizzle_128x4 --out bfloat16
    """
    from dgref.compare.diagnosis import diagnose
    from dgref.compare.dump import as_case, choice_of, read_arrays

    recipes = {**({"a": a} if a else {}), **({"b": b} if b else {}), **_pairs(options["recipes"], "--recipe")}
    found = as_case(
        read_arrays(dump),
        op,
        {name: choice_of(text, name) for name, text in recipes.items()},
        {name: _json(text) for name, text in _pairs(options["params"], "--param").items()},
        {name: _extent(text) for name, text in _pairs(options["extents"], "--shape").items()},
        options["out"],
        dump.stem,
    )
    answer = diagnose(found.case, found.inputs, found.outputs, _arithmetic(options), budget=options["budget"])
    click.echo(json.dumps(answer.to_dict(), indent=1) if as_json else _text(answer))
    return 0 if answer.benign else 1


def _arithmetic(options: dict[str, Any]) -> Any:
    from dgref.reference.arithmetic import ARITHMETICS

    name = options["arithmetic"]
    return name if name in (None, "exact") else ARITHMETICS[name]


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise click.BadParameter(f"{option}: got {text!r}, need NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _extent(text: str) -> int:
    if not text.isdigit():
        raise click.BadParameter(f"--shape: got {text!r}, need a whole number")
    return int(text)


def _text(answer: Any) -> str:
    lines = [f"{answer.status}: {answer.sentence}" if answer.status == "confirmed" else answer.sentence]
    lines += [f"fix: {answer.fix}"] if answer.fix else []
    lines += [f"  {line}" for line in answer.evidence]
    return "\n".join(lines)
