"""dgref fingerprint: in which order and width an unknown implementation adds."""

from __future__ import annotations

import json

import click

from dgref.cli._types import Finite


@click.command("fingerprint")
@click.argument("suite")
@click.option("--case", "id", required=True, metavar="ID", help="The case to run and explain.")
@click.option("-b", "--backend", "name", required=True, help="The backend to explain; recordings count too.")
@click.option("--budget", default=30.0, show_default=True, type=Finite(0.1), help="Seconds to search.")
@click.option("--json", "as_json", is_flag=True, help="Print the arithmetic as data that a backend can declare.")
def command(suite: str, id: str, name: str, budget: float, as_json: bool) -> int:
    """Search the arithmetics until one gives every bit of a backend's output on a case of SUITE.

    \b
    dgref fingerprint gemm --case fp8-kk-float32-wide --backend torch/cuda
    """
    from dgref import machine
    from dgref.backends import select
    from dgref.compare import infer_arithmetic
    from dgref.errors import UnsupportedError, unknown_name
    from dgref.observation import on_host
    from dgref.suite import load

    cases = {case.id: case for case in load(suite).cases}
    if id not in cases:
        raise unknown_name("case", id, cases)
    case, (backend, *_) = cases[id], select([name])
    reason = backend.unavailable() or backend.unsupported(case, machine.architecture())
    if reason:
        raise UnsupportedError(f"{backend.name}: {reason}")
    inputs = case.make_inputs()
    kernel = backend.prepare(case, inputs)
    kernel()
    outputs = {key: on_host(array) for key, array in kernel.outputs().items()}
    found = infer_arithmetic(case, inputs, outputs, budget=budget)
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else found.summary())
    for line in () if as_json else found.evidence:
        click.echo(f"  {line}")
    return 0 if found.arithmetic is not None else 1
