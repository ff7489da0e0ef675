"""The row class of the op table: from one row come shapes, validation, inputs, outputs, cost and the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgref.errors import FormatError, InputError, ShapeError, expected, instance, shown, unknown_name
from dgref.formats import FORMATS, RECIPES
from dgref.ops.part import Part, Sampler
from dgref.ops.problem import CaseLike, Constraint, Inputs, Operand, Param, Problem, in_brackets
from dgref.reference.dispatch import using
from dgref.reference.operands import bind

_BY_NAME = "a mapping of operands by name"


@dataclass(frozen=True)
class Op:
    """One operation: the only place that knows its shapes, its operands, what it leaves undefined and what it costs."""

    name: str
    summary: str
    equation: str
    axes: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    reference: Callable[..., Any]
    multiply_adds: Callable[[Problem, Inputs], int]
    params: tuple[Param, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    derived: Mapping[str, Callable[[Problem], int]] = field(default_factory=dict)
    out_formats: tuple[str, ...] = ()  # what a case's `out` may be; empty: the outputs have formats of their own
    undefined: Callable[[Problem, Inputs], dict[str, np.ndarray]] | None = None
    takes_arithmetic: bool = True
    extents_as_options: tuple[str, ...] = ()  # axes whose extent the reference takes as a keyword
    sampler: Sampler | None = None  # how some rows and columns are computed alone; None: only everything is
    told: Mapping[str, Callable[[Problem, Inputs], int]] = field(default_factory=dict)  # axes that no operand has
    joins_rows: Callable[[Problem, tuple[int, ...]], bool] | None = None  # whether further axes may count as rows
    notes: str = ""

    def problem(self, case: CaseLike, inputs: Inputs | None = None) -> Problem:
        """Return the case's extents and parameters, defaults filled in; an unknown or missing name is an error."""
        if not all(hasattr(case, name) for name in ("id", "shape", "operands", "params")):
            raise InputError(expected("case", shown(case), "a Case"))
        extents = self._extents(case.shape, case.id)
        params = self.check_params(case.params, case.id)
        for name, derive in self.derived.items():
            extents[name] = derive(Problem(extents, params, case=case, inputs=inputs))
        return Problem(extents, params, case.out if self.out_formats else None, case, inputs)

    def check_params(self, params: Mapping[str, Any], context: str) -> dict[str, Any]:
        """Return every parameter, defaults filled in; an unknown name or a value of another kind is an error."""
        known = {param.name: param for param in self.params}
        for name in params:
            if name not in known:
                raise InputError(f"{self.name}: {unknown_name('param', name, known)}" + in_brackets(context))
        return {name: param.check(params.get(name, param.default), self.name, context) for name, param in known.items()}

    def _extents(self, shape: Mapping[str, int], context: str) -> dict[str, int]:
        axes = self.axes.split()
        for name in shape:
            if name not in axes:
                raise ShapeError(f"{self.name}: {unknown_name('axis', name, axes)}" + in_brackets(context))
        missing = [axis for axis in axes if axis not in shape]
        if missing:
            got = f"no extent for {', '.join(missing)}"
            raise ShapeError(expected(f"{self.name} shape", got, f"every one of {', '.join(axes)}", context))
        return dict(shape)

    def extents_of(self, operands: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, int]:
        """Return the extents that the shapes of operands tell under these parameters, one axis the same everywhere.

        Axes that follow from others may be among them.
        """
        problem = Problem({}, params)
        return bind({row.name: (row.axes_of(problem), operands.get(row.name)) for row in self.inputs})

    def validate(self, case: CaseLike) -> None:
        """Raise, in a sentence that names field, value, need and case, unless the case can be computed."""
        problem = self.problem(case)
        self._check_problem(problem)
        self._validate_operands(problem)

    def accept(self, case: CaseLike, inputs: Inputs) -> None:
        """Raise unless the case of inputs that someone holds can be computed, whatever scales they have."""
        problem = self.problem(case, inputs)
        self._check_problem(problem)
        self._check_inputs(problem, inputs)
        for operand in self.present(problem):
            if operand.kind != "index" and inputs[operand.name].format not in operand.formats:
                need = " or ".join(operand.formats)
                raise FormatError(expected(f"operand {operand.name} of {self.name}", inputs[operand.name].format, need))

    def _check_problem(self, problem: Problem) -> None:
        case = problem.case
        for rule in self.constraints:
            if not rule.holds(problem):
                raise ShapeError(
                    expected(f"{self.name} {rule.subject}", _shown(problem, rule.subject), rule.need, case.id)
                )
        if self.out_formats and case.out not in self.out_formats:
            raise FormatError(expected(f"{self.name} out", case.out, " or ".join(self.out_formats), case.id))

    def _validate_operands(self, problem: Problem) -> None:
        present = {operand.name: operand for operand in self.present(problem)}
        for name in problem.case.operands:
            if name not in present:
                raise InputError(
                    f"{self.name}: {unknown_name('operand', name, present)}" + in_brackets(problem.case.id)
                )
        for operand in present.values():
            if operand.kind == "index":
                continue
            recipe, subject = operand.recipe(problem), f"{self.name} {operand.name}"
            if not recipe:
                raise InputError(expected(subject, "no recipe", "one, such as { recipe = 'mxfp8' }", problem.case.id))
            if RECIPES[recipe].format not in operand.formats:
                need = "a recipe of " + " or ".join(operand.formats)
                raise FormatError(expected(subject, f"{recipe} ({RECIPES[recipe].format})", need, problem.case.id))

    def present(self, problem: Problem) -> Iterator[Operand]:
        """Yield the inputs that this problem has."""
        return (operand for operand in self.inputs if operand.when(problem))

    def recipes(self, case: CaseLike) -> dict[str, str]:
        """Return the recipe of every tensor operand that the case has, defaults filled in."""
        problem = self.problem(case)
        return {row.name: row.recipe(problem) for row in self.present(problem) if row.kind != "index"}

    def make_inputs(self, case: CaseLike) -> dict[str, Any]:
        """Return the case's logical inputs by operand name: a ScaledTensor, or integers for an index operand."""
        problem = self.problem(case)
        inputs: dict[str, Any] = {}
        for operand in sorted(self.present(problem), key=lambda operand: operand.kind != "index"):
            if operand.make is not None:
                inputs[operand.name] = operand.make(problem, inputs)
            elif operand.fill is not None:
                inputs[operand.name] = operand.fill(problem, operand.recipe(problem), inputs)
            else:
                shape, recipe = operand.shape(problem), operand.recipe(problem)
                inputs[operand.name] = problem.generate(operand.name, shape, recipe)
        return inputs

    def compute(self, case: CaseLike, inputs: Inputs, arithmetic: Any = "exact") -> dict[str, Any]:
        """Return the reference's outputs by name, under an arithmetic or exactly."""
        instance(f"inputs of {self.name}", inputs, Mapping, _BY_NAME)
        problem = self.problem(case, inputs)
        self._check_inputs(problem, inputs)
        options = {param.name: problem[param.name] for param in self.params if not param.shapes_inputs_only}
        options |= {axis: problem[axis] for axis in self.extents_as_options}
        if self.takes_arithmetic:
            options["arithmetic"] = arithmetic
        if self.out_formats:
            options["out"] = case.out
        result = self.reference(**inputs, **options)
        names = [operand.name for operand in self.outputs if operand.when(problem)]
        if isinstance(result, dict):
            return {name: result[name] for name in names}
        return dict(zip(names, result if isinstance(result, tuple) else (result,), strict=True))

    def _check_inputs(self, problem: Problem, inputs: Inputs) -> None:
        """Raise where an operand is missing."""
        missing = [operand.name for operand in self.present(problem) if operand.name not in inputs]
        if missing:
            raise InputError(expected(f"inputs of {self.name}", f"no {' and no '.join(missing)}", _BY_NAME))

    def bound(self, case: CaseLike, inputs: Inputs, arithmetic: Any) -> dict[str, np.ndarray]:
        """Return, for every output, how far from exact any order of adding on the arithmetic's accumulator may be.

        Empty for an op that takes no arithmetic: it has one right answer.
        """
        if not self.takes_arithmetic:
            return {}
        with using("bound"):
            return self.compute(case, inputs, arithmetic)

    def output_shapes(self, case: CaseLike) -> dict[str, tuple[int, ...]]:
        """Return the shape of every output."""
        problem = self.problem(case)
        return {operand.name: operand.shape(problem) for operand in self.outputs if operand.when(problem)}

    def allocate(self, case: CaseLike, fill: int = 0xFF, inputs: Inputs | None = None) -> dict[str, np.ndarray]:
        """Return an output array for every output, every byte set to `fill`, so that what is not written shows."""
        problem = self.problem(case, inputs)
        outputs = {}
        for operand in self.outputs:
            if operand.when(problem):
                dtype = _stored_dtype(operand, problem)
                size = int(np.prod(operand.shape(problem), dtype=np.int64)) * dtype.itemsize
                outputs[operand.name] = np.full(size, fill, np.uint8).view(dtype).reshape(operand.shape(problem))
        return outputs

    def defined(self, case: CaseLike, inputs: Inputs) -> dict[str, np.ndarray | None]:
        """Return, for every output, which elements the op defines: a mask, or None where it defines them all."""
        problem = self.problem(case, inputs)
        undefined = self.undefined(problem, inputs) if self.undefined else {}
        names = [operand.name for operand in self.outputs if operand.when(problem)]
        return {name: ~undefined[name] if name in undefined else None for name in names}

    def rows_and_columns(self, case: CaseLike) -> tuple[int, int]:
        """Return how many rows and columns there are to choose from; for ops with a sampler."""
        problem, (rows, columns) = self.problem(case), self.sampler.axes
        return problem[rows], problem[columns] if columns else 1

    def cut(self, case: CaseLike, inputs: Inputs, part: Part) -> tuple[Any, dict[str, Any]]:
        """Return the case and the inputs whose outputs are a part of the outputs; for ops with a sampler."""
        smaller = {**inputs, **self.sampler.cut(self.problem(case), inputs, part)}
        return replace(case, params={**case.params, **dict(self.sampler.params)}), smaller

    def pick(self, case: CaseLike, name: str, array: np.ndarray, part: Part) -> np.ndarray:
        """Return a part of an output, or of anything that has an output's shape; for ops with a sampler."""
        return self.sampler.pick(self.problem(case), name, array, part)

    def flops(self, case: CaseLike, inputs: Inputs | None = None) -> int:
        """Return the multiplications and additions of the definition; index inputs make it exact for ragged ops."""
        problem = self.problem(case)
        return 2 * self.multiply_adds(problem, self._indices(problem, inputs))

    def bytes(self, case: CaseLike, inputs: Inputs | None = None) -> int:
        """Return the bytes that any implementation must move: every operand read once, every output written once."""
        problem = self.problem(case)
        indices = self._indices(problem, inputs)
        operands = [*self.present(problem), *(operand for operand in self.outputs if operand.when(problem))]
        return sum(_bytes(operand, problem, indices) for operand in operands)

    def _indices(self, problem: Problem, inputs: Inputs | None) -> dict[str, Any]:
        indices: dict[str, Any] = {}
        for operand in self.present(problem):
            if operand.kind == "index":
                known = inputs is not None and operand.name in inputs
                indices[operand.name] = inputs[operand.name] if known else operand.make(problem, indices)
        return indices


def _stored_dtype(operand: Operand, problem: Problem) -> np.dtype:
    name = operand.format(problem)
    if operand.kind == "index":
        return np.dtype(name)
    row = FORMATS[name]
    return row.code_dtype if operand.kind == "codes" and name != "float32" else row.native_dtype


def _bytes(operand: Operand, problem: Problem, indices: Inputs) -> int:
    shape = operand.shape(problem)
    elements = int(np.prod(shape, dtype=np.int64))
    touched = operand.touched(problem, indices) if operand.touched else elements
    if operand.kind == "index":
        return 4 * touched
    bits = elements * element_bits(operand.format(problem))
    scaling = RECIPES[operand.recipe(problem)].scaling if operand.recipe(problem) else None
    if scaling is not None:
        bits += int(np.prod(scaling.grid(shape), dtype=np.int64)) * element_bits(scaling.scale_format)
    return -(-bits * touched // max(8 * elements, 1))


def element_bits(format: str) -> int:
    """Return the bits that one element takes in memory: sub-byte formats packed, TF32 in a whole word."""
    row = FORMATS[format]
    return row.bits if row.bits <= 8 else row.storage_bits


def _shown(problem: Problem, subject: str) -> Any:
    parts = [problem[name] for name in subject.split(", ")]
    return parts[0] if len(parts) == 1 else tuple(parts)
