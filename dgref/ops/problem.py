"""The parts of a row of the op table: one problem, its parameters, its constraints and its operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from dgref.errors import InputError, expected, unknown_name
from dgref.formats import RECIPES
from dgref.inputs import Stream, generate

if TYPE_CHECKING:
    from dgref.formats import ScaledTensor

Inputs = Mapping[str, Any]
FP8 = ("float8_e4m3fn", "float8_e5m2")
FP4 = ("float4_e2m1fn",)
HALF = ("bfloat16", "float16")
MATRIX_FORMATS = (*FP8, *FP4, *HALF, "tfloat32")
OUT_FORMATS = ("bfloat16", "float16", "float32")


class CaseLike(Protocol):
    """What a case must tell an op; see `suite.Case`."""

    id: str
    shape: Mapping[str, int]
    operands: Mapping[str, Any]  # name -> something with a `recipe`
    params: Mapping[str, Any]
    out: str | None
    inputs: Any  # something with `kind` and `seed`


@dataclass(frozen=True)
class Problem:
    """One op at one shape under one choice of parameters; `p["m"]` is an extent, `p["psum"]` a parameter."""

    extents: Mapping[str, int]
    params: Mapping[str, Any]
    out: str | None = None
    case: CaseLike | None = None
    inputs: Inputs | None = None  # where someone holds them; otherwise the case makes them

    def __getitem__(self, name: str) -> Any:
        return self.extents[name] if name in self.extents else self.params[name]

    def shape(self, axes: str) -> tuple[int, ...]:
        """Return the extents of space-separated axes."""
        return tuple(self.extents[axis] for axis in axes.split())

    def generate(self, name: str, shape: tuple[int, ...], recipe: str) -> ScaledTensor:
        """Return a tensor of the case's input kind; `name` picks the stream of random words."""
        return generate(self.case.inputs.kind, shape, recipe, self.case.inputs.seed, name)

    def stream(self, name: str) -> Stream:
        """Return the random words of an index operand."""
        return Stream(self.case.inputs.seed, name)


_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list of whole numbers",
}


@dataclass(frozen=True)
class Param:
    """One parameter of an op. `shapes_inputs_only` ones never reach the reference: the inputs already show them.

    `kind` is the type of a value where the default is None, which then is a value too.
    """

    name: str
    default: Any
    meaning: str
    choices: tuple[Any, ...] = ()
    shapes_inputs_only: bool = False
    kind: type | None = None

    def check(self, value: Any, op: str, context: str) -> Any:
        """Return the value, or raise when its type or choice is wrong; lists become tuples."""
        value = tuple(value) if isinstance(value, list) else value
        subject = f"{op} param {self.name!r}"
        if self.choices and value not in self.choices:
            raise InputError(
                f"{subject}: {unknown_name('value', value, map(str, self.choices))}" + in_brackets(context)
            )
        kind = self.kind or type(self.default)
        if value is not self.default and not _fits(value, kind):
            raise InputError(expected(subject, repr(value), _KINDS[kind], context))
        return value


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and value == value
    return type(value) is kind and (kind is not tuple or all(type(element) is int for element in value))


@dataclass(frozen=True)
class Constraint:
    """A condition on an extent or a parameter, with the words that say what is needed."""

    subject: str
    need: str
    holds: Callable[[Problem], bool]


def _always(problem: Problem) -> bool:
    return True


@dataclass(frozen=True)
class Operand:
    """One input or output. `axes` may depend on the problem, as may whether the operand is there at all.

    `scaled` operands carry a recipe; `plain` ones a native format; `codes` ones are bits
    whose NaN matters; `index` ones are integers that `make` fills.
    `fill` replaces the default of quantising along the last axis. `touched` counts the elements that must be moved
    when not all of them must.
    """

    name: str
    axes: str | Callable[[Problem], str]
    kind: Literal["scaled", "plain", "codes", "index"] = "scaled"
    formats: tuple[str, ...] = ()
    meaning: str = ""
    when: Callable[[Problem], bool] = _always
    default: Callable[[Problem], str] | None = None  # the recipe of an operand that a case need not describe
    make: Callable[[Problem, Inputs], np.ndarray] | None = None
    fill: Callable[[Problem, str, Inputs], ScaledTensor] | None = None
    touched: Callable[[Problem, Inputs], int] | None = None
    array_axes: Callable[[Problem], str] | None = None  # the order of an array that is no ScaledTensor, where another
    absent: Callable[[Problem], np.ndarray] | None = None  # what stands for one that someone leaves out

    @property
    def required(self) -> bool:
        """Whether every problem has this operand."""
        return self.when is _always

    def axes_of(self, problem: Problem) -> str:
        """Return the operand's axes in this problem."""
        return self.axes if isinstance(self.axes, str) else self.axes(problem)

    def shape(self, problem: Problem) -> tuple[int, ...]:
        """Return the operand's shape in this problem."""
        return problem.shape(self.axes_of(problem))

    def recipe(self, problem: Problem) -> str:
        """Return the name of the recipe (or plain format) that the case gives the operand, or its default."""
        choice = problem.case.operands.get(self.name) if problem.case else None
        if choice is not None:
            return choice.recipe
        return self.default(problem) if self.default else ""

    def format(self, problem: Problem) -> str:
        """Return the element format; for an output, its only format or the case's `out`."""
        if self.kind == "index":
            return "int32"
        recipe = self.recipe(problem)
        return RECIPES[recipe].format if recipe else (self.formats[0] if len(self.formats) == 1 else problem.out)


def in_brackets(context: str) -> str:
    """Return the context of a message as its last words, or nothing."""
    return f" [{context}]" if context else ""
