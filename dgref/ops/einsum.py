"""The row of three-axis products named by an expression."""

from __future__ import annotations

from dgref.formats import RECIPES
from dgref.ops.gemm import accumulate, start_operand
from dgref.ops.op import Op
from dgref.ops.problem import MATRIX_FORMATS, OUT_FORMATS, Constraint, Operand, Param, Problem
from dgref.reference.einsum import einsum, roles

EXPRESSIONS = ("bmk,bnk->mn", "bhr,hdr->bhd", "bhd,hdr->bhr", "bhd,bhr->hdr")


def _axes(which: str):
    """Return a function from a problem to the axes of an operand, by the place of each letter in the expression."""

    def axes(p: Problem) -> str:
        role = roles(p["expression"])
        names = {letter: name for name, part in _parts(role).items() for letter in part}
        names |= dict(zip(role.summed, ("k",) if len(role.summed) == 1 else ("batch", "k"), strict=True))
        return " ".join(names[letter] for letter in getattr(role, which))

    return axes


def _parts(role) -> dict[str, str]:
    return {"batch": role.batch, "m": role.rows, "n": role.columns}


def _joins_into_one_k(p: Problem) -> bool:
    if len(roles(p["expression"]).summed) == 1:
        return True
    choices = p.case.operands if p.case else {}
    scalings = [RECIPES[choices[name].recipe].scaling for name in ("a", "b") if name in choices]
    return all(s is None or (s.block[0] == 1 and s.block[1] and p["k"] % s.block[1] == 0) for s in scalings)


def _factor(name: str) -> Operand:
    order = "axes in the order batch, own, summed over"
    return Operand(name, _axes(f"{name}_last"), formats=MATRIX_FORMATS, meaning=order, array_axes=_axes(name))


EINSUM = Op(
    name="einsum",
    summary="products of three-axis tensors: batched over heads, or summed over the batch too",
    equation="out = sum over the axes that the output lacks of a * b, such as d[b,h,d] = sum_r a[b,h,r] * b[h,d,r]",
    axes="batch m n k",
    inputs=(
        _factor("a"),
        _factor("b"),
        start_operand(_axes("out")),
    ),
    outputs=(Operand("d", _axes("out"), "plain", OUT_FORMATS),),
    reference=einsum,
    multiply_adds=lambda p, inputs: p["batch"] * p["m"] * p["n"] * p["k"],
    params=(Param("expression", EXPRESSIONS[1], "what is multiplied and summed", EXPRESSIONS), accumulate),
    constraints=(Constraint("k", "whole scale blocks where the batch is summed over too", _joins_into_one_k),),
    out_formats=OUT_FORMATS,
    notes="`batch` is the letter that both operands have and the output keeps (h), or that is summed over beside k "
    "(b of `bmk,bnk->mn`); `m` and `n` are the letters of one operand alone.",
)
ROWS = (EINSUM,)
