"""What a hypothesis is: a way to compute the same outputs wrongly, in words and as a change to what is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dgref.formats import FORMATS, ScaledTensor
from dgref.registry import Registry
from dgref.suite import Case

Outputs = Mapping[str, np.ndarray]
POISON = 0xFF  # the byte that outputs hold before the first launch that is judged


@dataclass(frozen=True)
class State:
    """Everything that decides the outputs: a case, its inputs, and the arithmetic that adds them up."""

    case: Case
    inputs: Mapping[str, Any]
    arithmetic: Any

    def put(self, name: str, value: Any) -> State:
        """Return the same state with one input replaced."""
        return replace(self, inputs={**self.inputs, name: value})

    def param(self, **values: Any) -> State:
        """Return the same state with parameters of the op changed."""
        return replace(self, case=replace(self.case, params={**self.case.params, **values}))

    def scaled(self) -> Iterator[tuple[str, ScaledTensor]]:
        """Yield the operands that carry a grid of scales."""
        return (
            (name, tensor)
            for name, tensor in self.inputs.items()
            if isinstance(tensor, ScaledTensor) and tensor.scale is not None
        )

    def matrices(self) -> Iterator[tuple[str, ScaledTensor]]:
        """Yield the operands that are multiplied: payloads of a format with two axes or more, C left out."""
        return (
            (name, tensor)
            for name, tensor in self.inputs.items()
            if isinstance(tensor, ScaledTensor) and len(tensor.shape) > 1 and name not in ("c", "weights")
        )

    def layout(self, name: str) -> str:
        """Return the layout of an operand's scales; linear where the case does not say."""
        choice = self.case.operands.get(name)
        return (choice.layout if choice else None) or "linear"

    def major(self, name: str) -> str:
        """Return the memory order of an operand's payload."""
        choice = self.case.operands.get(name)
        return choice.major if choice else "k"


@dataclass(frozen=True)
class Scene:
    """What a hypothesis may look at: the case as it should be, and, in a diagnosis, what was observed instead.

    `observed` and `correct` are None when a fault is to be injected; `correct` also where it was too costly. A
    `poisoned` output held no zeros before what was observed: a zero in it was written.
    """

    state: State
    observed: Outputs | None = None
    correct: Outputs | None = None
    poisoned: bool = False


Change = Callable[[State], State]
After = Callable[[Outputs, Outputs], Outputs]


@dataclass(frozen=True)
class Misreading:
    """One concrete way to be wrong. `cause` reads "the scales of b were read transposed".

    `change` gives the state that the kernel really computed. `after` turns its outputs into what memory then holds,
    given the observed ones; `elementwise` says that it does so for any part of the outputs alike.
    """

    cause: str
    change: Change = lambda state: state
    site: str = ""
    fix: str = ""
    remedy: str = "computing with that"
    after: After | None = None
    elementwise: bool = False
    likelihood: float | None = None  # where this variant's differs from its hypothesis'
    hypothesis: str = ""

    def then(self, other: Misreading) -> Misreading:
        """Return both, this one first."""
        return Misreading(
            cause=f"{self.cause}, and {other.cause}",
            change=lambda state: other.change(self.change(state)),
            site=f"{self.site}+{other.site}",
            fix="; ".join(fix for fix in (self.fix, other.fix) if fix),
            remedy="computing with both",
            after=self.after or other.after,
            elementwise=all(one.elementwise or one.after is None for one in (self, other)),
            likelihood=(self.likelihood or 0.5) * (other.likelihood or 0.5),
            hypothesis=f"{self.hypothesis}+{other.hypothesis}",
        )


@dataclass(frozen=True)
class Hypothesis:
    """A kind of fault: which rows of the catalogue it stands for, how likely it is, and its concrete variants."""

    name: str
    summary: str
    rows: tuple[int, ...]
    variants: Callable[[Scene], Iterator[Misreading]]
    likelihood: float  # orders answers that agree equally well, and the search
    benign: bool = False  # another valid result, not a fault
    combines: bool = True  # tried on top of another fault as well; not where variants are many
    module: str = field(default="", compare=False)

    def misreadings(self, scene: Scene) -> Iterator[Misreading]:
        """Yield every variant that fits the scene."""
        for variant in self.variants(scene):
            likelihood = self.likelihood if variant.likelihood is None else variant.likelihood
            yield replace(variant, hypothesis=self.name, likelihood=likelihood)


HYPOTHESES: Registry[Hypothesis] = Registry("hypothesis")


def hypothesis(*rows: int, likelihood: float = 0.5, benign: bool = False, combines: bool = True) -> Callable:
    """Register a function that yields misreadings under its own name; its docstring says what goes wrong."""

    def register(variants: Callable[[Scene], Iterator[Misreading]]) -> Callable:
        summary = variants.__doc__.strip().splitlines()[0].rstrip(".")
        module = variants.__module__.rpartition(".")[2]
        HYPOTHESES.add(Hypothesis(variants.__name__, summary, rows, variants, likelihood, benign, combines, module))
        return variants

    return register


def on(name: str, change: Callable[[ScaledTensor], ScaledTensor]) -> Change:
    """Return the change of a state that changes one operand."""
    return lambda state: state.put(name, change(state.inputs[name]))


def scale_floats(tensor: ScaledTensor) -> np.ndarray:
    """Return the grid of scales as float32."""
    return np.asarray(tensor.scale_values(), np.float32)


def with_floats(tensor: ScaledTensor, values: np.ndarray) -> ScaledTensor:
    """Return the tensor under other scale values: in its own scale format where that holds them, else as float32."""
    name, values = tensor.scaling.scale_format, np.asarray(values, np.float32)
    if name != "float32":
        codes = FORMATS[name].encode(values)
        if np.array_equal(FORMATS[name].decode(codes), values, equal_nan=True):
            return tensor.with_scale(codes)
    return replace(tensor, scale=values, scaling=replace(tensor.scaling, scale_format="float32"))


def is_power_format(tensor: ScaledTensor) -> bool:
    """Say whether an operand's scales are UE8M0."""
    return tensor.scale is not None and tensor.scaling.scale_format == "float8_e8m0fnu"


def is_float_format(tensor: ScaledTensor) -> bool:
    """Say whether an operand's scales are float32."""
    return tensor.scale is not None and tensor.scaling.scale_format == "float32"


def poisoned(array: np.ndarray) -> np.ndarray:
    """Return an array of the same kind that nothing was ever written to."""
    return np.full(array.nbytes, POISON, np.uint8).view(array.dtype).reshape(array.shape)
