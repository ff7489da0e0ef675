"""What `docs/numerics-scaling.md` says about every recipe, generated: `python -m dgref.formats.recipe_table`."""

from __future__ import annotations

import numpy as np

from dgref.formats.element import FORMATS
from dgref.formats.payloads import PAYLOADS
from dgref.formats.quantize import dequantize, quantize
from dgref.formats.recipes import RECIPES, Recipe
from dgref.formats.rules import RULES

_FAMILIES = ("nvfp4", "mxfp4", "mxfp8")  # each also the name of its plain recipe
_SIDE = 512


def recipes() -> str:
    """Return the table of scaled recipes."""
    lines = ["| recipe | what it is | scale | payload | source |", "|---|---|---|---|---|"]
    lines += [_recipe(row) for row in RECIPES.values() if row.scaling is not None]
    return "\n".join(lines)


def _recipe(row: Recipe) -> str:
    scaling = row.scaling
    return (
        f"| `{row.name}` | {row.description} | {_block(row)} {scaling.scale_format}, `{RULES[scaling.rule].name}` "
        f"| `{scaling.payload}` | {row.source} |"
    )


def _block(row: Recipe) -> str:
    return "x".join(str(extent or "all") for extent in row.scaling.block)


def rules() -> str:
    """Return the tables of scale rules and of payload arithmetic."""
    lines = ["| scale rule | the scale is |", "|---|---|"]
    lines += [f"| `{row.name}` | {row.description} |" for row in RULES.values()]
    lines += ["", "| payload arithmetic | an element becomes |", "|---|---|"]
    lines += [f"| `{row.name}` | {row.description} |" for row in PAYLOADS.values()]
    return "\n".join(lines)


def disagreements() -> str:
    """Return how many scales and codes of each convention differ from its family's plain recipe on one tensor."""
    lines = ["| recipe | scales that differ | codes that differ | mean squared error |", "|---|---|---|---|"]
    x = _tensor()
    for family in _FAMILIES:
        base = quantize(x, family)
        lines += [_disagreement(name, x, base) for name in RECIPES if _comparable(name, family)]
    return "\n".join(lines)


def _comparable(name: str, family: str) -> bool:
    row = RECIPES[name]
    if name.split("/")[0] != family or row.scaling.block != RECIPES[family].scaling.block:
        return False
    return row.scaling.rounding != "stochastic" and row.scaling.hadamard == "no"


def _tensor() -> np.ndarray:
    """Return bfloat16 values of deviation 1, sums of twelve uniform bytes: the same bits on every machine."""
    words = np.random.Philox(key=0).random_raw(12 * _SIDE * _SIDE).reshape(12, _SIDE, _SIDE)
    total = (words >> np.uint64(56)).astype(np.int32).sum(axis=0)
    bfloat16 = FORMATS["bfloat16"]
    return bfloat16.decode(bfloat16.encode((total - 12 * 127.5) / 256.0))


def _disagreement(name: str, x: np.ndarray, base) -> str:
    t = quantize(x, name)
    error = np.square(dequantize(t).astype(np.float64) - x).mean() / np.square(x.astype(np.float64)).mean()
    scales, codes = (t.scale != base.scale).mean(), (t.data != base.data).mean()
    return f"| `{name}` | {scales:.2%} | {codes:.3%} | {error:.5f} |"


SECTIONS = {"recipes": recipes, "rules": rules, "disagreements": disagreements}

if __name__ == "__main__":
    for name, section in SECTIONS.items():
        print(f"<!-- generated: {name} -->\n{section()}\n")
