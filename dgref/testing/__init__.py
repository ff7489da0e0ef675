"""Conformance inside a test of your own: three lines for one output, one line for a whole suite."""

from __future__ import annotations

from collections.abc import Iterable
from inspect import Parameter, signature
from typing import Any

import numpy as np

from dgref.errors import ConformanceError, InputError, choice, expected, unknown_name

__all__ = ["assert_backend_conforms", "assert_conforms"]


def assert_conforms(
    actual: Any, op: str, *operands: Any, arithmetic: Any = None, expect: str = "model", **params: Any
) -> str:
    """Raise ConformanceError unless `actual` is what `op` computes from the operands; return the level that held.

    With `arithmetic` every bit must follow it, or be exact (or, with `expect="bounded"`, stay within the derived
    bound); without, the output is held to the bound of a published narrow accumulator, which is wide: declare the
    arithmetic, or find it with `dgref.infer_arithmetic`. `expect="exact"` asks for the infinitely precise result. The
    format is that of `actual`; operands are ScaledTensors, NumPy arrays or torch tensors of a native dtype.
    """
    from dgref.compare.verdict import judge
    from dgref.formats.native import as_codes, on_cpu, to_numpy
    from dgref.ops import OPS
    from dgref.reference.dispatch import resolve
    from dgref.suite import LEVELS

    choice("expect", expect, LEVELS[:3])
    row = OPS[op]
    inputs = _inputs(row, operands, params)
    found = to_numpy(on_cpu(actual, "actual"), "actual")
    output = row.outputs[0].name
    resolve(arithmetic)  # an unknown one is an error before anything is computed
    options = _options(row, found, params)
    if row.outputs[0].kind == "codes":
        found = as_codes(found)
    claim = arithmetic if row.takes_arithmetic else "exact"
    limits = _limit_arithmetic(row, inputs, arithmetic) if row.takes_arithmetic and arithmetic != "exact" else None
    verdict = judge(
        {output: found},
        exact=lambda: {output: _first(row, inputs, options, "exact")},
        model=None if claim in (None, "exact") else lambda: {output: _first(row, inputs, options, claim)},
        bound=(lambda: {output: _limits(row, inputs, options, limits)}) if limits is not None else None,
        defined={output: _defined(row, inputs, params)},
    )
    required = _required(claim, expect)
    if not verdict.reaches(required):
        cause = _cause(row, inputs, {**params, **options}, {output: found}, arithmetic)
        raise ConformanceError(f"{_message(row, found, verdict, required, options)}\n  cause: {cause}")
    return verdict.level


def _required(claim: Any, expect: str) -> str:
    if "exact" in (claim, expect):
        return "exact"
    return "bounded" if claim is None else expect


def _inputs(row: Any, operands: tuple[Any, ...], params: dict[str, Any]) -> dict[str, Any]:
    """Return operands by name; those given by keyword are taken out of the parameters."""
    names = [operand.name for operand in row.inputs]
    if len(operands) > len(names):
        raise InputError(
            expected(f"operands of {row.name}", len(operands), f"at most {len(names)}: {', '.join(names)}")
        )
    inputs = dict(zip(names, operands, strict=False))
    for name in names:
        if name in params and name in inputs:
            raise InputError(expected(f"operand {name} of {row.name}", "two values", "one, by place or by name"))
        if name in params:
            inputs[name] = params.pop(name)
    inputs = {name: value for name, value in inputs.items() if value is not None}
    _check_operands(row, inputs)
    known = {param.name for param in row.params} | set(row.extents_as_options)
    for name in params:
        if name not in known:
            raise unknown_name(f"parameter of {row.name}", name, known | set(names))
    for name in _needed(row) & known - set(params) - {"out"}:  # the format is that of what is asserted
        raise InputError(expected(f"parameter {name} of {row.name}", "nothing", "a value"))
    return inputs


def _needed(row: Any) -> set[str]:
    """Return the operands and parameters that the op's reference has no default for."""
    parameters = signature(row.reference).parameters.values()
    return {parameter.name for parameter in parameters if parameter.default is Parameter.empty}


def _check_operands(row: Any, inputs: dict[str, Any]) -> None:
    """Refuse an operand that is missing, or whose format the op does not take; torch tensors become NumPy arrays."""
    from dgref.formats.native import is_torch, on_cpu, to_numpy
    from dgref.reference.operands import scaled

    needed = _needed(row)
    for operand in row.inputs:
        name = operand.name
        if name not in inputs:
            if name in needed:
                raise InputError(expected(f"operand {name} of {row.name}", "nothing", "a tensor"))
            continue
        if is_torch(inputs[name]):
            inputs[name] = to_numpy(on_cpu(inputs[name], name), name)
        if operand.kind in ("scaled", "plain") and operand.formats:
            format = scaled(inputs[name], name).format
            if format not in operand.formats:
                raise InputError(expected(f"operand {name} of {row.name}", format, " or ".join(operand.formats)))


def _options(row: Any, found: np.ndarray, params: dict[str, Any]) -> dict[str, Any]:
    from dgref.formats import format_of

    inputs_only = {param.name for param in row.params if param.shapes_inputs_only}
    options = {name: value for name, value in params.items() if name not in inputs_only}
    return {**options, "out": format_of(found).name} if row.out_formats else options


def _defined(row: Any, inputs: dict[str, Any], params: dict[str, Any]) -> np.ndarray | None:
    """Return which elements of the first output the op defines: None for all."""
    from dgref.ops.problem import Problem

    if row.undefined is None:
        return None
    extents = row.extents_of(inputs)
    options = {param.name: params.get(param.name, param.default) for param in row.params}
    extents |= {name: value for name, value in params.items() if name in row.extents_as_options}
    for name, derive in row.derived.items():
        extents[name] = derive(Problem(extents, options))
    undefined = row.undefined(Problem(extents, options), inputs).get(row.outputs[0].name)
    return None if undefined is None else ~undefined


def _first(row: Any, inputs: dict[str, Any], options: dict[str, Any], arithmetic: Any) -> np.ndarray:
    how = {"arithmetic": arithmetic} if row.takes_arithmetic else {}
    made = row.reference(**inputs, **how, **options)
    return made[row.outputs[0].name] if isinstance(made, dict) else made[0] if isinstance(made, tuple) else made


def _limit_arithmetic(row: Any, inputs: dict[str, Any], arithmetic: Any) -> Any:
    """Return what bounds the output: the declared arithmetic, or one with a narrow accumulator."""
    from dgref.ops.typical import limit_arithmetic
    from dgref.reference.arithmetic import resolve
    from dgref.reference.operands import scaled

    if arithmetic is not None:
        return resolve(arithmetic)
    names = [operand.name for operand in row.inputs if operand.kind != "index" and operand.name in inputs]
    operands = [(tensor.format, tensor.scaling) for tensor in (scaled(inputs[name], name) for name in names)]
    return limit_arithmetic(row.name, operands, narrow=True)


def _limits(row: Any, inputs: dict[str, Any], options: dict[str, Any], arithmetic: Any) -> np.ndarray:
    from dgref.reference.dispatch import using

    with using("bound"):
        return _first(row, inputs, options, arithmetic)


def _message(row: Any, actual: np.ndarray, verdict: Any, required: str, options: dict[str, Any]) -> str:
    from dgref.compare.comparison import compare

    (name, right), *_ = verdict.expected.items()
    seen = {"mask": verdict.defined.get(name), "policy": verdict.policy, "against": verdict.against}
    format = options.get("out") if row.outputs[0].kind == "codes" else None
    summary = compare(actual, right, format, **seen).summary()
    return f"{row.name}: got {verdict.level}, need {required} [against {verdict.against}]: {summary}"


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


_SEARCH_SECONDS = 10.0


def _cause(row: Any, inputs: dict[str, Any], params: dict[str, Any], outputs: Any, arithmetic: Any) -> str:
    """Return what a diagnosis of the operands as a case finds; a search that fails changes no verdict."""
    from dgref.compare import diagnose
    from dgref.formats import RECIPES
    from dgref.reference.operands import scaled
    from dgref.suite import Case, OperandChoice

    try:
        known = {op.name: op for op in row.inputs if op.kind in ("scaled", "plain") and op.name in inputs}
        tensors = {name: scaled(inputs[name], name) for name in known}
        recipes = {(recipe.format, recipe.scaling): name for name, recipe in RECIPES.items()}
        unnamed = [name for name, tensor in tensors.items() if (tensor.format, tensor.scaling) not in recipes]
        if unnamed:
            return f"not searched for: no recipe describes {' and '.join(unnamed)}"
        choices = {name: OperandChoice(recipes[tensor.format, tensor.scaling]) for name, tensor in tensors.items()}
        shape = {axis: extent for axis, extent in row.extents_of(inputs).items() if axis in row.axes.split()}
        chosen = {name: value for name, value in params.items() if name != "out"}
        case = Case("asserted", "an assertion", row.name, shape, choices, chosen, params.get("out"))
        return diagnose(case, {**inputs, **tensors}, outputs, arithmetic, budget=_SEARCH_SECONDS).sentence
    except Exception as error:
        return f"the search for a cause failed: {type(error).__name__}: {error}"
