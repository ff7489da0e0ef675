"""dgref fingerprint: in which order and width an unknown implementation adds, and which addresses it reads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import click

from dgref.cli._types import Finite


@click.command("fingerprint")
@click.argument("suite")
@click.option("--case", "id", required=True, metavar="ID", help="The case to run and explain.")
@click.option("-b", "--backend", "name", required=True, help="The backend to explain; recordings count too.")
@click.option("--budget", default=30.0, show_default=True, type=Finite(0.1), help="Seconds to search the arithmetics.")
@click.option("--addresses", is_flag=True, help="Ask which payload and scales it reads, instead of how it adds.")
@click.option("--json", "as_json", is_flag=True, help="Print data: an arithmetic as a backend can declare it.")
def command(suite: str, id: str, name: str, budget: float, addresses: bool, as_json: bool) -> int:
    """Search the arithmetics until one gives every bit of a backend's output on a case of SUITE.

    With --addresses, launch the backend on operands of which every element names itself, in the case's shapes, formats
    and layouts, and say which scale and which element it reads for each output. Exit code 0: those it should.

    \b
    dgref fingerprint gemm --case fp8-kk-float32-wide --backend torch/cuda
    dgref fingerprint fingerprint --case mxfp8-mxfp8 --backend ./my_backend.py --addresses
    """
    case, backend = _chosen(suite, id, name)
    if addresses:
        return _addresses(case, backend, as_json)
    again = f"dgref fingerprint {suite} --case {shlex.quote(id)} --backend {name} --addresses"
    return _arithmetic(case, backend, budget, as_json, again)


def _chosen(suite: str, id: str, name: str) -> tuple[Any, Any]:
    from dgref import machine
    from dgref.backends import select
    from dgref.errors import UnsupportedError
    from dgref.raised import blamed_on
    from dgref.suite import chosen, load

    (case,), (backend, *_) = chosen(load(suite).cases, [id]), select([name])
    with blamed_on(backend):
        reason = backend.unavailable() or backend.unsupported(case, machine.architecture())
    if reason:
        raise UnsupportedError(f"{backend.name}: {reason}")
    return case, backend


def _prepared(case: Any, backend: Any, inputs: Mapping[str, Any]) -> Any:
    from dgref.raised import blamed_on

    with blamed_on(backend):
        return backend.prepare(case, inputs)


def _launched(case: Any, backend: Any, kernel: Any) -> dict[str, Any]:
    """Return the outputs of one launch; what it leaves unwritten is NaN."""
    from dgref.errors import BackendError
    from dgref.observation import misfit_of, on_host
    from dgref.raised import blamed_on

    with blamed_on(backend):
        kernel.poison(0xFF)
        kernel()
        outputs = {key: on_host(array) for key, array in kernel.outputs().items()}
    if misfit := misfit_of(case, outputs):
        raise BackendError(f"{backend.name}: {misfit}")
    return outputs


def _addresses(case: Any, backend: Any, as_json: bool) -> int:
    from dgref.compare.addresses import read_addresses
    from dgref.errors import UnsupportedError, expected

    if not getattr(_prepared(case, backend, case.make_inputs()), "repeatable", True):
        raise UnsupportedError(expected(f"addresses of {backend.name}", "stored outputs", "a kernel to be launched"))
    found = read_addresses(case, lambda inputs: _launched(case, backend, _prepared(case, backend, inputs)))
    click.echo(json.dumps(found.to_dict(), indent=1) if as_json else "\n".join(found.lines()))
    return 0 if found.in_place else 1


def _arithmetic(case: Any, backend: Any, budget: float, as_json: bool, again: str) -> int:
    from dgref.compare import infer_arithmetic
    from dgref.compare.address_parts import refusal

    inputs = case.make_inputs()
    kernel = _prepared(case, backend, inputs)
    found = infer_arithmetic(case, inputs, _launched(case, backend, kernel), budget=budget)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
        return 0 if found.arithmetic is not None else 1
    lines = [found.summary(), *(f"  {line}" for line in found.evidence)]
    if found.arithmetic is None and refusal(case) is None and getattr(kernel, "repeatable", True):
        lines.append(f"to learn whether it reads other payload or scales than it should: {again}")
    click.echo("\n".join(lines))
    return 0 if found.arithmetic is not None else 1
