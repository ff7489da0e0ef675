"""Conformance inside a test of your own: three lines for one output, one line for a whole suite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from dgref.errors import ConformanceError, InputError, expected

__all__ = ["assert_backend_conforms", "assert_conforms"]


def assert_conforms(
    actual: Any, op: str, *operands: Any, arithmetic: Any = None, expect: str = "model", **params: Any
) -> str:
    """Raise ConformanceError unless `actual` is what `op` computes from the operands; return the level that held.

    With `arithmetic` every bit must follow it (or, with `expect="bounded"`, stay within the derived bound); without,
    the output is held to the bound. The format is that of `actual`; operands are ScaledTensors or native arrays.
    """
    from dgref.compare.verdict import judge
    from dgref.formats import format_of
    from dgref.formats.native import is_torch, to_numpy
    from dgref.ops import OPS

    row = OPS[op]
    names = [operand.name for operand in row.inputs]
    if len(operands) > len(names):
        raise InputError(expected(f"operands of {op}", len(operands), f"at most {len(names)}: {', '.join(names)}"))
    inputs = {**dict(zip(names, operands, strict=False)), **{k: params.pop(k) for k in names if k in params}}
    found = to_numpy(actual.detach().cpu() if is_torch(actual) else actual, "actual")
    out = format_of(found).name
    output = row.outputs[0].name
    verdict = judge(
        {output: found},
        exact=lambda: {output: _first(row, inputs, {**params, "out": out}, "exact")},
        model=None if arithmetic is None else lambda: {output: _first(row, inputs, {**params, "out": out}, arithmetic)},
        bound=lambda: {output: _limits(row, inputs, {**params, "out": out}, arithmetic)},
    )
    required = expect if arithmetic is not None else "bounded"
    if not verdict.reaches(required):
        raise ConformanceError(_message(op, found, verdict, required))
    return verdict.level


def _first(row: Any, inputs: dict[str, Any], options: dict[str, Any], arithmetic: Any) -> np.ndarray:
    made = row.reference(**inputs, arithmetic=arithmetic, **options)
    return made[row.outputs[0].name] if isinstance(made, dict) else made[0] if isinstance(made, tuple) else made


def _limits(row: Any, inputs: dict[str, Any], options: dict[str, Any], arithmetic: Any) -> np.ndarray:
    """Return how far from exact the output may be: on the declared arithmetic's accumulator, or a narrow one."""
    from dgref.ops.typical import limit_arithmetic
    from dgref.reference.dispatch import using
    from dgref.reference.operands import scaled

    names = [operand.name for operand in row.inputs if operand.kind != "index" and operand.name in inputs]
    operands = [(tensor.format, tensor.scaling) for tensor in (scaled(inputs[name], name) for name in names)]
    with using("bound"):
        return _first(row, inputs, options, arithmetic or limit_arithmetic(row.name, operands, narrow=True))


def _message(op: str, actual: np.ndarray, verdict: Any, required: str) -> str:
    from dgref.compare.comparison import compare

    summary = compare(actual, next(iter(verdict.expected.values()))).summary()
    return f"{op}: got {verdict.level}, need {required} [against {verdict.against}]: {summary}"


def assert_backend_conforms(backend: Any, suites: str | Iterable[str], **settings: Any) -> None:
    """Raise ConformanceError unless a backend conforms on every case of the suites that it supports."""
    from dgref.runner import load_suites
    from dgref.trial import Settings, trial

    rows = load_suites([suites] if isinstance(suites, str) else suites)
    results = [trial(case, backend, Settings(**settings)) for row in rows for case in row.cases]
    bad = [result for result in results if result.bad]
    if bad:
        lines = [f"{result.case}: {result.status}: {result.reason}" for result in bad]
        raise ConformanceError(f"{backend.name}: got {len(bad)} wrong of {len(results)}, need 0\n" + "\n".join(lines))
    if not any(result.ran for result in results):
        raise ConformanceError(f"{backend.name}: got no case that could run, need at least one: {results[0].reason}")
