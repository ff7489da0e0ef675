"""Conformance inside a test of your own: three lines for one output, one line for a whole suite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dgref.errors import ConformanceError, choice

__all__ = ["assert_backend_conforms", "assert_conforms"]


def assert_conforms(
    actual: Any,
    op: str,
    *operands: Any,
    arithmetic: Any = None,
    expect: str = "model",
    architecture: str | None = None,
    **params: Any,
) -> str:
    """Raise ConformanceError unless `actual` is what `op` computes from the operands; return the level that held.

    With `arithmetic` every bit must follow it, or be exact (or, with `expect="bounded"`, stay within its bound);
    without, the output is held to the bound of the narrowest accumulator of the `architecture` that computed it: "cpu"
    or a GPU's, such as "sm100". Where that is not said it may be Hopper, whose bound for FP8 is wide: say it, declare
    the arithmetic, or find that with `dgref.infer_arithmetic`. `expect="exact"` asks for the infinitely precise result.

    `actual` is the op's first output, or several as a tuple or a mapping; its dtype says the format, or `out` that of
    bits. Operands are ScaledTensors, NumPy arrays or torch tensors of a native dtype.
    """
    from dgref.suite import LEVELS
    from dgref.testing.assertion import Assertion

    choice("expect", expect, LEVELS[:3])
    assertion = Assertion(op, operands, actual, arithmetic, architecture, params)
    verdict = assertion.judged()
    required = assertion.required(expect)
    if not verdict.reaches(required):
        raise ConformanceError(f"{assertion.message(verdict, required)}\n  cause: {assertion.cause()}")
    return verdict.level


def assert_backend_conforms(backend: Any, suites: str | Iterable[str], **settings: Any) -> None:
    """Raise ConformanceError unless a backend conforms on every case of the suites that it supports.

    The message names, for every wrong result, the diagnosed cause and the command that shows it again.
    """
    from dgref.runner import load_suites
    from dgref.trial import Settings, trial

    rows = load_suites([suites] if isinstance(suites, str) else suites)
    results = [trial(case, backend, Settings(**settings)) for row in rows for case in row.cases]
    bad = [result for result in results if result.bad]
    if bad:
        lines = [line for result in bad for line in _lines(result)]
        raise ConformanceError(f"{backend.name}: got {len(bad)} wrong of {len(results)}, need 0\n" + "\n".join(lines))
    if not any(result.ran for result in results):
        raise ConformanceError(f"{backend.name}: got no case that could run, need at least one: {results[0].reason}")


def _lines(result: Any) -> list[str]:
    notes = [f"  {word}: {line}" for word, line in result.notes]
    return [f"{result.case}: {result.status}: {result.reason}", *notes]
