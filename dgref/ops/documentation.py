"""The page of all operations, made from the op table: `python -m dgref.ops.documentation > docs/operations.md`."""

from __future__ import annotations

from collections.abc import Iterator

from dgref.ops import OPS
from dgref.ops.op import Op
from dgref.ops.problem import Operand, Problem

INTRODUCTION = """# Operations

Generated from the op table by `python -m dgref.ops.documentation`; a test holds the two together.

`dgref.OPS[NAME]` is the row, and `.reference` the function that computes it from its inputs and parameters. Shapes are
logical: memory order, packing and padding are choices of a case. A `scaled` operand carries a recipe, a `plain` one
values of a format, `codes` are bits of a format, `index` operands are integers. Shapes are those of the default
parameters. `dgref.OPS[NAME].flops(case)` and `.bytes(case)` give the cost of a case.
"""


def markdown() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *(line for op in OPS.values() for line in _section(op))])


def _section(op: Op) -> Iterator[str]:
    problem = Problem(dict.fromkeys(op.axes.split(), 0), {param.name: param.default for param in op.params})
    yield from (f"## {op.name}", "", f"{op.summary[0].upper()}{op.summary[1:]}.", "", f"    {op.equation}", "")
    if op.notes:
        yield from (op.notes, "")
    yield f"Axes: {', '.join(f'`{axis}`' for axis in op.axes.split())}."
    yield from ("", "| operand | shape | kind | formats | meaning |", "|---|---|---|---|---|")
    yield from (_operand(operand, problem, "") for operand in op.inputs)
    yield from (_operand(operand, problem, "→ ") for operand in op.outputs)
    if op.params:
        yield from ("", "| parameter | default | choices | meaning |", "|---|---|---|---|")
        for param in op.params:
            choices = ", ".join(f"`{choice}`" for choice in param.choices)
            yield f"| `{param.name}` | `{_shown(param.default)}` | {choices} | {param.meaning} |"
    if op.constraints:
        yield ""
        yield from (f"- {rule.subject}: {rule.need}." for rule in op.constraints)
    yield ""


def _operand(operand: Operand, problem: Problem, arrow: str) -> str:
    axes = ", ".join(operand.axes_of(problem).split())
    about = [text for text in ("" if operand.when(problem) else "optional", operand.meaning) if text]
    changing = "" if isinstance(operand.axes, str) else " or, with other parameters, others"
    formats = "int32" if operand.kind == "index" else ", ".join(operand.formats) or "that of the recipe"
    return f"| {arrow}`{operand.name}` | [{axes}]{changing} | {operand.kind} | {formats} | {'; '.join(about)} |"


def _shown(default: object) -> str:
    return {None: "none", "": "none", True: "true", False: "false"}.get(default, str(default))  # type: ignore[call-overload]


if __name__ == "__main__":
    print(markdown(), end="")
