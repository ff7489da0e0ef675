"""Hypotheses: every catalogued way to be wrong that recomputation can show, one function each."""

from dgref.compare.hypotheses import (  # noqa: F401  each module registers its own
    conversions,
    epilogue,
    global_scale,
    groups,
    heads,
    memory,
    neighbours,
    payload,
    scale_layout,
    scale_types,
    scale_values,
    sums,
)
from dgref.compare.hypotheses.base import HYPOTHESES, Hypothesis, Misreading, Scene, State

__all__ = ["HYPOTHESES", "Hypothesis", "Misreading", "Scene", "State"]
