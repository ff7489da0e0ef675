"""Which arithmetic made these bits: `infer_arithmetic` for recordings, and for backends that can be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dgref.compare.fingerprint_ops import contiguous, einsum, expert_layer, k_grouped, masked, paged_logits, prenorm
from dgref.compare.fingerprint_problems import Logits, Product, native, plain_values
from dgref.compare.fingerprint_search import search
from dgref.compare.inference import Inference
from dgref.errors import InputError, UnsupportedError, expected, instance, seconds
from dgref.formats import format_of
from dgref.given import given
from dgref.reference.engine_operand import as_scaled

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

    `case` is a case, or the name of its op where `inputs` hold its parameters too; `output` is its array, or a mapping
    of its outputs. With `backend`, a function of (a, b) that returns the product of two ScaledTensors, designed
    operands find the instruction's width, promotion and splits first, and `output` may be left out. `budget` is in
    seconds.
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
    found = given(
        op, {**getattr(case, "params", {}), **_whole(op, inputs, arrays)}, format_of(next(iter(arrays.values()))).name
    )
    return _OPS[op]({**found.case.params, **found.inputs}, arrays, architecture, budget)


def _whole(op: str, inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
    """Return the operands of logits with what a recording leaves out: ranges of all keys, and its own width."""
    if op == "paged_mqa_logits":
        return {"max_context_len": next(iter(arrays.values())).shape[-1], **inputs}
    if op != "mqa_logits" or any(inputs.get(name) is None for name in ("q", "kv")):
        return inputs
    rows, keys = (as_scaled(inputs[name]).shape[0] for name in ("q", "kv"))
    whole = {"starts": np.zeros(rows, np.int32), "ends": np.full(rows, keys, np.int32)}
    return {**whole, **{name: value for name, value in inputs.items() if value is not None}}


def _gemm(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    c = None if inputs.get("c") is None else plain_values(inputs["c"])
    return search(Product(inputs["a"], inputs["b"], next(iter(arrays.values())), c, architecture), budget)


def _logits(
    inputs: Mapping[str, Any], arrays: Mapping[str, np.ndarray], architecture: str | None, budget: float
) -> Inference:
    return search(Logits(inputs, next(iter(arrays.values())), architecture), budget)


_OPS = {
    "gemm": _gemm,
    "gemm_grouped_contiguous": contiguous,
    "gemm_grouped_masked": masked,
    "mqa_logits": _logits,
    "paged_mqa_logits": paged_logits,
    "hc_prenorm": prenorm,
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
