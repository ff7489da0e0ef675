"""Some rows and columns of an op's outputs: the smaller inputs that give them alone, and where they lie in the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgref.formats.native import to_numpy
from dgref.ops.problem import Inputs, Problem
from dgref.reference.operands import take_rows


@dataclass(frozen=True)
class Part:
    """Some rows and columns of an output, ascending."""

    rows: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class Sampler:
    """How an op is cut down. `axes` count its rows and columns; without a second one, rows are always whole.

    `cut` returns the inputs that change; `params` are those that the smaller problem has instead of its own. `pick`
    returns the same part of an output's array.
    """

    axes: tuple[str, str | None]
    cut: Callable[[Problem, Inputs, Part], dict[str, Any]]
    pick: Callable[[Problem, str, np.ndarray, Part], np.ndarray]
    params: tuple[tuple[str, Any], ...] = ()


def cut_product(p: Problem, inputs: Inputs, part: Part) -> dict[str, Any]:
    """Return the rows of a and of b that make a part of their product, and the same part of c."""
    cut = {"a": take_rows(inputs["a"], part.rows), "b": take_rows(inputs["b"], part.columns)}
    if "c" in inputs:
        c = inputs["c"]
        cut["c"] = replace(c, data=to_numpy(c.data)[..., part.rows, :][..., part.columns])
    return cut


def pick_product(p: Problem, name: str, array: np.ndarray, part: Part) -> np.ndarray:
    """Return a part of a product; groups are all there."""
    return array[..., part.rows, :][..., part.columns]
