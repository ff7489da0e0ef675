"""Conversions under another library's convention: both sides right, by different rules."""

from __future__ import annotations

from collections.abc import Iterator

from dgref.compare.hypotheses.base import Misreading, Scene, hypothesis
from dgref.formats import CONVENTIONS, FORMATS, RECIPES

_ROUNDINGS = ("nearest_away", "toward_zero", "up", "down")


@hypothesis(46, likelihood=0.8)
def other_convention(scene: Scene) -> Iterator[Misreading]:
    """The implementation and the reference follow different conventions."""
    state = scene.state
    if state.case.op == "cast":
        yield from _casts(scene)
    if state.case.op == "quantize":
        recipe = RECIPES[state.case.params.get("recipe", "mxfp8")]
        for other in _comparable(recipe):
            yield _param(f"the scales or payload follow {other}, not {recipe.name}", recipe=other)


def _casts(scene: Scene) -> Iterator[Misreading]:
    case = scene.state.case
    own = case.params.get("convention", "")
    for name, row in CONVENTIONS.items():
        if name != own and FORMATS[case.out].name in row.conversions:
            yield _param(f"values were converted as {name} does", convention=name)
    for rounding in _ROUNDINGS:
        if rounding != case.params.get("rounding", "nearest_even") and not own:
            yield _param(f"values were rounded {rounding.replace('_', ' ')}", rounding=rounding)


def _comparable(recipe) -> Iterator[str]:
    """Yield recipes whose outputs have the same shapes and formats."""
    for row in RECIPES.values():
        scaling = row.scaling
        if row.name != recipe.name and scaling is not None and row.format == recipe.format:
            same = (scaling.block, scaling.scale_format, scaling.has_global)
            if same == (recipe.scaling.block, recipe.scaling.scale_format, recipe.scaling.has_global):
                yield row.name


def _param(cause: str, **values: str) -> Misreading:
    key, value = next(iter(values.items()))
    fix = f"compare with {key} = {value!r}, which is what runs"
    return Misreading(cause, lambda s: s.param(**values), key, fix, f"taking {value}")
