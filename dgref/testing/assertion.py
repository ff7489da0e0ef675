"""One output, or all that an op has, held to what the op computes from operands that someone holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dgref.compare.comparison import compare
from dgref.compare.verdict import Verdict, judge
from dgref.errors import ConformanceError, FormatError, InputError, expected, unknown_name
from dgref.formats import format_of
from dgref.formats.native import as_codes, on_cpu, to_numpy
from dgref.given import Given, as_matrix, given, output_format
from dgref.ops.op import Op, Operand
from dgref.ops.typical import bound_of, limit_arithmetic, may_be_narrow
from dgref.reference import dispatch
from dgref.reference.arithmetic import resolve

_SEARCH_SECONDS = 10.0


@dataclass(frozen=True)
class Assertion:
    """What is asserted; everything about the op comes from its row."""

    op: str
    operands: tuple[Any, ...]
    actual: Any
    arithmetic: Any
    architecture: str | None
    params: Mapping[str, Any]

    @cached_property
    def row(self) -> Op:
        """The row of the op."""
        from dgref.ops import OPS

        return OPS[self.op]

    @cached_property
    def given(self) -> Given:
        """The operands as a case that the op accepts."""
        params = dict(self.params)
        asks_whose = "architecture" in {param.name for param in self.row.params}
        if asks_whose and self.architecture is not None:
            params["architecture"] = self.architecture
        out = params.pop("out", None) or output_format(self.op, self.actual)
        found = given(self.op, {**params, **_by_place(self.row, self.operands, params)}, out, "asserted")
        found.op.accept(found.case, found.inputs)
        return found

    @cached_property
    def _named(self) -> dict[str, Any]:
        """What was handed over, by the names of outputs."""
        problem = self.row.problem(self.given.case, self.given.inputs)
        names = [operand.name for operand in self.row.outputs if operand.when(problem)]
        if isinstance(self.actual, Mapping | tuple) and not self.actual:
            raise InputError(expected(f"outputs of {self.op}", "none", " or ".join(names)))
        if isinstance(self.actual, Mapping):
            for name in self.actual:
                if name not in names:
                    raise unknown_name(f"output of {self.op}", name, names)
            return dict(self.actual)
        several = self.actual if isinstance(self.actual, tuple) else (self.actual,)
        if len(several) > len(names):
            raise InputError(expected(f"outputs of {self.op}", len(several), f"at most {len(names)}"))
        return dict(zip(names, several, strict=False))

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """What was handed over as arrays like those that the op makes; what has no such format or shape is wrong."""
        case, op = self.given.case, self.row
        problem = op.problem(case, self.given.inputs)
        wanted = op.allocate(case, inputs=self.given.inputs)
        rows = {operand.name: operand for operand in op.outputs}
        found = {}
        for name, array in self._named.items():
            array = to_numpy(on_cpu(array, name), name)
            found[name] = _like(array, wanted[name], rows[name], rows[name].format(problem), self.given.joined)
        return found

    @cached_property
    def claim(self) -> Any:
        """What the output is asserted to be; None where that is anything within the bound."""
        return self.arithmetic if self.row.takes_arithmetic else "exact"

    @cached_property
    def limits(self) -> Any:
        """The arithmetic that bounds the output: the declared one, or the narrowest of the architecture."""
        narrow = may_be_narrow(self.architecture)
        if self.claim == "exact":
            return None
        return resolve(self.claim) if self.claim else limit_arithmetic(self.op, self.given.operands, narrow)

    def judged(self) -> Verdict:
        """Return what holds of the outputs that were handed over."""
        dispatch.resolve(self.arithmetic)  # an unknown one is an error before anything is computed
        op, case, inputs, outputs = self.row, self.given.case, self.given.inputs, self.outputs
        limits = self.limits

        def part(arrays: Mapping[str, Any]) -> dict[str, Any]:
            return {name: arrays[name] for name in outputs}

        return judge(
            outputs,
            exact=lambda: part(op.compute(case, inputs)),
            model=None if self.claim in (None, "exact") else lambda: part(op.compute(case, inputs, self.claim)),
            bound=None if limits is None else lambda: part(op.bound(case, inputs, limits)),
            defined=part(op.defined(case, inputs)),
        )

    def required(self, expect: str) -> str:
        """Return the level that the outputs are held to."""
        if "exact" in (self.claim, expect):
            return "exact"
        return "bounded" if self.claim is None else expect

    def message(self, verdict: Verdict, required: str) -> str:
        """Return what is wrong, output by output."""
        names = [name for name, count in verdict.differing.items() if count]
        lines = [self._line(name, verdict, named=len(verdict.expected) > 1) for name in names]
        return f"{self.op}: got {verdict.level}, need {required} [against {verdict.against}]: {'; '.join(lines)}"

    def _line(self, name: str, verdict: Verdict, named: bool) -> str:
        row = next(operand for operand in self.row.outputs if operand.name == name)
        right = verdict.expected[name]
        codes = row.kind == "codes" and right.dtype.kind == "u"
        format = row.format(self.row.problem(self.given.case, self.given.inputs)) if codes else None
        seen = {"mask": verdict.defined.get(name), "policy": verdict.policy, "against": verdict.against}
        summary = compare(self.outputs[name], right, format, **seen).summary()
        beyond = verdict.beyond_bound.get(name)
        summary += f"; {beyond:,} beyond {bound_of(self.limits)}" if beyond and self.limits is not None else ""
        return f"{name}: {summary}" if named else summary

    def cause(self) -> str:
        """Return what a diagnosis finds; a search that fails changes no verdict."""
        from dgref.compare import diagnose

        if self.given.undescribed:
            return f"not searched for: no recipe describes {' and '.join(self.given.undescribed)}"
        held = {"limits": None if self.claim else self.limits, "budget": _SEARCH_SECONDS}
        try:
            return diagnose(self.given.case, self.given.inputs, self.outputs, self.arithmetic, **held).sentence
        except Exception as error:
            return f"the search for a cause failed: {type(error).__name__}: {error}"


def _by_place(row: Op, operands: tuple[Any, ...], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return every operand by name."""
    names = [operand.name for operand in row.inputs]
    if len(operands) > len(names):
        got, need = len(operands), f"at most {len(names)}: {', '.join(names)}"
        raise InputError(expected(f"operands of {row.name}", got, need))
    placed = dict(zip(names, operands, strict=False))
    for name in names:
        if name in params and name in placed:
            raise InputError(expected(f"operand {name} of {row.name}", "two values", "one, by place or by name"))
    return {**{name: params[name] for name in names if name in params}, **placed}


def _like(array: np.ndarray, like: np.ndarray, row: Operand, format: str, joined: tuple[int, ...] | None) -> np.ndarray:
    """Return an output in the shape and dtype that the op gives it; bits without a format are taken for its own."""
    need = f"{like.shape if joined is None else 'the axes of the operand'} of {format}"
    misfit = ConformanceError(expected(f"output {row.name}", f"{array.shape} of {array.dtype}", need))
    if joined is not None and array.ndim == len(joined) and array.shape[:-2] == joined[:-2]:
        array = as_matrix(array)
    if array.shape != like.shape:
        raise misfit
    if array.dtype == like.dtype:
        return array
    if row.kind == "codes" and _names(array, format):
        return as_codes(array)
    bits = "iu" if row.kind == "index" else "u"
    if array.dtype.kind not in bits or array.dtype.itemsize != like.dtype.itemsize:
        raise misfit
    return np.ascontiguousarray(array).view(like.dtype)


def _names(array: np.ndarray, format: str) -> bool:
    try:
        return format_of(array).name == format
    except FormatError:
        return False
