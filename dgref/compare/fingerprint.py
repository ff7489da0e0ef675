"""Which arithmetic made these bits: `infer_arithmetic` for recordings, and for backends that can be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dgref.compare.fingerprint_ops import einsum, expert_layer, k_grouped
from dgref.compare.fingerprint_problems import Logits, Product, Squares, native
from dgref.compare.fingerprint_search import search
from dgref.compare.inference import Inference, named
from dgref.errors import InputError, UnsupportedError, expected, instance, seconds
from dgref.ops import OPS
from dgref.reference.engine_operand import as_scaled
from dgref.reference.operands import take, take_rows

__all__ = ["Inference", "infer_arithmetic"]


def infer_arithmetic(
    case: Any,
    inputs: Mapping[str, Any],
    output: Any = None,
    *,
    architecture: str | None = None,
    backend: Callable | None = None,
    budget: float = 30.0,
) -> Inference:
    """Return the arithmetic under which a recorded output comes out bit for bit, or the nearest one.

    `case` is a case or the name of its op; `output` is its array, or a mapping of its
    outputs. With `backend`, a function of (a, b) that returns the product of two ScaledTensors, designed operands find
    the instruction's width, promotion and splits first, and `output` may be left out. `budget` is in seconds.
    """
    if not isinstance(case, str) and not hasattr(case, "op"):
        raise InputError(expected("case", repr(case), "a case, or the name of its op"))
    instance("inputs", inputs, Mapping, "a mapping of operands by name")
    instance("backend", backend, Callable | None, "a function of (a, b), or None")
    instance("architecture", architecture, str | None, "an architecture's name, or None")
    seconds("budget", budget)
    op = case if isinstance(case, str) else case.op
    if backend is not None:
        return _probed(inputs, output, backend, architecture, budget)
    outputs = output if isinstance(output, Mapping) else {"": output}
    out = None if isinstance(case, str) else case.out
    arrays = {name: native(array, out) for name, array in outputs.items() if array is not None}
    if not arrays:
        raise InputError(expected("output", "none", "an array, a mapping of arrays, or a backend to call"))
    if op not in _OPS:
        raise UnsupportedError(expected("op", repr(op), " or ".join(_OPS), "its product can be given as a gemm"))
    _check_complete(op, inputs)
    params = _parameters(case) if hasattr(case, "shape") else {}
    return _OPS[op]({**params, **inputs}, arrays, architecture, budget)


def _check_complete(op: str, inputs: Mapping[str, Any]) -> None:
    needed = [operand.name for operand in OPS[op].inputs if operand.required and operand.name not in _ASSUMED]
    missing = [name for name in needed if name not in inputs]
    if missing:
        raise InputError(expected("inputs", ", ".join(map(str, inputs)) or "nothing", " and ".join(missing)))


def _parameters(case: Any) -> dict[str, Any]:
    """Return the parameters of a case's op that its reference takes."""
    row = OPS[case.op]
    problem = row.problem(case)
    return {param.name: problem[param.name] for param in row.params if not param.shapes_inputs_only}


def _gemm(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    problem = Product(inputs["a"], inputs["b"], next(iter(arrays.values())), inputs.get("c"), architecture)
    return search(problem, budget)


def _logits(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    return search(Logits(inputs, next(iter(arrays.values())), architecture), budget)


def _prenorm(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer the product first, then the order of the squares; one arithmetic holds both."""
    d = arrays.get("d", next(iter(arrays.values())))
    found = search(Product(inputs["a"], inputs["b"], d, None, architecture), budget)
    if "sqr_sum" not in arrays:
        return found
    squares = search(Squares(inputs["a"], arrays["sqr_sum"], found.nearest.core), budget)
    both = named(found.nearest.but(lanes=squares.nearest.lanes))
    complete = found.arithmetic is not None and squares.arithmetic is not None
    compared = found.compared + squares.compared
    equal = found.agreement * found.compared + squares.agreement * squares.compared
    return replace(
        found,
        arithmetic=both if complete else None,
        nearest=both,
        agreement=equal / compared,
        compared=compared,
        tried=found.tried + squares.tried,
        seconds=found.seconds + squares.seconds,
        evidence=(*found.evidence, *(f"squares: {line}" for line in squares.evidence)),
    )


def _contiguous(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer from the group that has most rows; with prefix sums, from the first."""
    a, layout = as_scaled(inputs["a"]), np.asarray(inputs["grouped_layout"])
    labelled = layout.size == a.shape[0]
    counts = np.bincount(layout[layout >= 0], minlength=1) if labelled else layout[:1]
    group = int(np.argmax(counts))
    rows = np.flatnonzero(layout == group) if labelled else np.arange(counts[0])
    return _group(inputs, arrays, group, rows, (architecture, budget))


def _masked(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    """Infer from the group that has most rows."""
    counts = np.asarray(inputs["masked_m"])
    group = int(np.argmax(counts))
    inner = {**inputs, "a": take(as_scaled(inputs["a"]), group)}
    outputs = {name: array[group] for name, array in arrays.items()}
    return _group(inner, outputs, group, np.arange(counts[group]), (architecture, budget))


def _group(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], group: int, rows: np.ndarray, how: tuple
) -> Inference:
    if rows.size == 0:
        raise InputError(expected("groups", "no rows in any", "one group with rows"))
    span = slice(int(rows[0]), int(rows[-1]) + 1)
    a, b = take_rows(as_scaled(inputs["a"]), span), take(as_scaled(inputs["b"]), group)
    found = _gemm({"a": a, "b": b}, {name: array[span] for name, array in arrays.items()}, *how)
    return replace(found, evidence=(f"group {group}, rows {span.start}..{span.stop - 1}", *found.evidence))


_ASSUMED = ("starts", "ends")  # logits without ranges are recorded where every row sees every key

_OPS = {
    "gemm": _gemm,
    "gemm_grouped_contiguous": _contiguous,
    "gemm_grouped_masked": _masked,
    "mqa_logits": _logits,
    "hc_prenorm": _prenorm,
    "gemm_grouped_k": k_grouped,
    "einsum": einsum,
    "mega_moe": expert_layer,
}


def _probed(
    inputs: Mapping[str, Any], output: Any, backend: Callable, architecture: str | None, budget: float
) -> Inference:
    """Call the backend on designed operands, then confirm what they showed on the given ones."""
    from dgref.compare.fingerprint_probe import probe

    findings, guesses = probe(inputs["a"], inputs["b"], backend, architecture)
    observed = native(backend(inputs["a"], inputs["b"]) if output is None else output, None)
    found = search(Product(inputs["a"], inputs["b"], observed, None, architecture), budget, guesses)
    return replace(found, evidence=(*findings, *found.evidence))
