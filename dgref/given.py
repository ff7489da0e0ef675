"""Operands and parameters as someone holds them, as a case and its inputs: what the op's row says of both is checked.

`assert_conforms`, `diagnose` and `infer_arithmetic` take an op's name with operands; all of them come through here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from itertools import product
from math import prod
from typing import Any

import numpy as np

from dgref.errors import InputError, ShapeError, counted, expected, shown, unknown_name
from dgref.formats import RECIPES, format_of
from dgref.formats.tensor import ScaledTensor, in_numpy
from dgref.ops import OPS, Op, Operand
from dgref.ops.problem import Problem
from dgref.reference.operands import integers, scaled
from dgref.suite import Case, OperandChoice, checked_shape


@dataclass(frozen=True)
class Given:
    """A case, its inputs, and the names of operands whose scales no recipe describes.

    `joined` is the shape of operands whose axes were joined into rows, for an op that computes row by row.
    """

    case: Case
    inputs: dict[str, Any]
    undescribed: tuple[str, ...] = ()
    joined: tuple[int, ...] | None = None

    @property
    def op(self) -> Op:
        """The row of the op."""
        return OPS[self.case.op]

    @property
    def operands(self) -> list[tuple[str, Any]]:
        """The formats and scalings of the tensors among the inputs."""
        tensors = (self.inputs[operand.name] for operand in self.op.inputs if operand.name in self.inputs)
        return [(tensor.format, tensor.scaling) for tensor in tensors if isinstance(tensor, ScaledTensor)]


def given(op: str, values: Mapping[str, Any], out: str | None = None, id: str = "given") -> Given:
    """Return operands and parameters by name as a case; None stands for an operand that is left out.

    Parameters that only shape inputs (`accumulate`, `per_token`, ...) are those that the operands show.
    """
    row = OPS[op]
    operands, options = _apart(row, values)
    extents = {name: options.pop(name) for name in row.axes.split() if name in options}
    _require(row, options)
    params = row.check_params({name: _plain(value) for name, value in options.items()}, id)
    params |= _shown(row, operands, params, options)
    problem = Problem({}, params)
    operands = {name: _ordered(row, name, tensor, values[name], problem) for name, tensor in operands.items()}
    joined = _joinable(row, operands, problem)
    if joined is not None:
        operands = {name: replace(tensor, data=as_matrix(tensor.data)) for name, tensor in operands.items()}
    bound = _bound(row, operands, problem)
    extents = {
        **{axis: bound[axis] for axis in row.axes.split() if axis in bound},
        **dict(_numbers(extents, bound, row)),
    }
    extents |= {axis: tell(problem, operands) for axis, tell in row.told.items() if axis not in extents}
    _complete(row, extents)
    recipes = {name: _recipe(operand) for name, operand in operands.items() if isinstance(operand, ScaledTensor)}
    choices = {name: OperandChoice(recipe) for name, recipe in recipes.items() if recipe}
    case = Case(id, "operands as they were given", row.name, checked_shape(extents, id), choices, params, out)
    problem = row.problem(case, operands)
    for operand in row.present(problem):
        if operand.name not in operands and operand.absent is not None:
            operands[operand.name] = operand.absent(problem)
    return Given(case, operands, tuple(name for name, recipe in recipes.items() if recipe is None), joined)


def described(case: Any, inputs: Mapping[str, Any], out: str | None) -> Given:
    """Return a case with its inputs, or the case of an op's name with operands and parameters in one mapping."""
    if isinstance(case, str):
        return given(case, inputs, out)
    known = [operand.name for operand in OPS[case.op].inputs]
    for name in inputs:
        if name not in known:
            raise unknown_name(f"operand of {case.op}", name, known)
    return Given(case, {name: in_numpy(value, name) for name, value in inputs.items() if value is not None})


def output_format(op: str, outputs: Any) -> str | None:
    """Return what a case's `out` is, as its first output's dtype says; None where the op has formats of its own."""
    row = OPS[op]
    if not row.out_formats:
        return None
    name = row.outputs[0].name
    if isinstance(outputs, Mapping | tuple) and not outputs:
        raise InputError(expected(f"outputs of {op}", "none", " or ".join(operand.name for operand in row.outputs)))
    first = outputs.get(name) if isinstance(outputs, Mapping) else outputs[0] if isinstance(outputs, tuple) else outputs
    return format_of(first, name).name


def _apart(row: Op, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return operands, made uniform, and everything else."""
    names = {operand.name: operand for operand in row.inputs}
    known = {*names, *(param.name for param in row.params), *row.axes.split()}
    for name in values:
        if name not in known:
            raise unknown_name(f"parameter of {row.name}", name, known)
    operands = {name: _uniform(names[name], values[name]) for name in names if values.get(name) is not None}
    return operands, {name: value for name, value in values.items() if name not in names}


def _uniform(operand: Operand, value: Any) -> Any:
    value = in_numpy(value, operand.name)
    if operand.kind != "index":
        return scaled(value, operand.name)
    integers(value, operand.name)
    array = np.asarray(value)
    return array if array.size else array.astype(np.int32)


def _require(row: Op, options: Mapping[str, Any]) -> None:
    """Raise for a parameter that nobody states and that the op's reference has no default for."""
    names = signature(row.reference).parameters
    for param in row.params:
        needed = param.name in names and names[param.name].default is Parameter.empty
        if needed and param.name not in options:
            raise InputError(expected(f"parameter {param.name} of {row.name}", "nothing", "a value"))


def _plain(value: Any) -> Any:
    """Return NumPy's numbers as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _shown(row: Op, operands: Mapping[str, Any], params: dict[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters nobody stated under which the op has just these operands; none where no choice fits."""
    free = [p for p in row.params if p.shapes_inputs_only and type(p.default) is bool and p.name not in stated]
    for values in product(*[p.choices or (p.default, not p.default) for p in free]):
        found = {param.name: value for param, value in zip(free, values, strict=True)}
        problem = Problem({}, {**params, **found})
        if all(_fits(operand, operands.get(operand.name), problem) for operand in row.inputs):
            return found
    return {}


def _fits(operand: Operand, value: Any, problem: Problem) -> bool:
    if value is None:
        return operand.absent is not None or not operand.when(problem)
    return operand.when(problem) and len(operand.axes_of(problem).split()) == len(value.shape)


def _ordered(row: Op, name: str, tensor: Any, value: Any, problem: Problem) -> Any:
    """Return a tensor made of an array whose axes come in an order of their own in the order that the op has."""
    operand = next(operand for operand in row.inputs if operand.name == name)
    if operand.array_axes is None or isinstance(value, ScaledTensor):
        return tensor
    given_as, wanted = operand.array_axes(problem).split(), operand.axes_of(problem).split()
    if len(given_as) != len(tensor.shape):
        raise ShapeError(expected(f"{name} shape", list(tensor.shape), f"{counted(len(given_as), 'axis')} {given_as}"))
    return replace(tensor, data=np.transpose(tensor.data, [given_as.index(axis) for axis in wanted]))


def _joinable(row: Op, operands: Mapping[str, Any], problem: Problem) -> tuple[int, ...] | None:
    """Return the one shape of the operands, where the op takes other axes than it has for rows."""
    shapes = {tensor.shape for tensor in operands.values()}
    if row.joins_rows is None or len(shapes) != 1 or len(min(shapes)) == len(row.axes.split()):
        return None
    (shape,) = shapes
    return shape if row.joins_rows(problem, shape) else None


def as_matrix(array: np.ndarray) -> np.ndarray:
    """Return an array of any axes as one of rows."""
    columns = array.shape[-1] if array.ndim else 1
    return array.reshape(prod(array.shape[:-1]), columns)


def _bound(row: Op, operands: Mapping[str, Any], problem: Problem) -> dict[str, int]:
    """Return the extents that shapes show; raise for operands that are missing, or that this problem does not have."""
    for operand in row.inputs:
        name, there = operand.name, operand.when(problem)
        if there and name not in operands and operand.absent is None:
            raise InputError(expected(f"operand {name} of {row.name}", "nothing", "a tensor"))
        if not there and name in operands:
            why = ", ".join(f"{p.name} = {shown(problem[p.name])}" for p in row.params if p.shapes_inputs_only)
            raise InputError(expected(f"operand {name} of {row.name}", "a tensor", f"nothing where {why}"))
    return row.extents_of(operands, problem.params)


def _numbers(extents: Mapping[str, Any], bound: Mapping[str, int], row: Op) -> Iterator[tuple[str, int]]:
    """Yield the extents that were stated; a shape that shows another one is an error."""
    for axis, extent in extents.items():
        if axis in bound and bound[axis] != extent:
            raise InputError(
                expected(f"parameter {axis} of {row.name}", shown(extent), f"{bound[axis]}, as shapes show")
            )
        yield axis, _plain(extent)


def _complete(row: Op, extents: Mapping[str, Any]) -> None:
    for axis in row.axes.split():
        if axis not in extents:
            raise InputError(expected(f"parameter {axis} of {row.name}", "nothing", "a value"))


def _recipe(tensor: Any) -> str | None:
    """Return the first recipe that has a tensor's format and scaling."""
    return next((n for n, r in RECIPES.items() if (r.format, r.scaling) == (tensor.format, tensor.scaling)), None)
