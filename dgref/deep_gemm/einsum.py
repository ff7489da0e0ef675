"""Products of three-axis tensors named by an expression."""

from __future__ import annotations

from typing import Annotated

import torch

from dgref import reference
from dgref.annotations import explained
from dgref.deep_gemm.arguments import Recipe, ScaledStack, Stack
from dgref.deep_gemm.operands import (
    FP8,
    blocks,
    check_shape,
    holds_words,
    no_kernel,
    output_format,
    pair,
    payloads,
    product_kind,
    start_values,
    with_scales,
    write,
)
from dgref.deep_gemm.settings import SETTINGS
from dgref.errors import FormatError, expected, unknown_name, whole_numbers
from dgref.formats.native import to_numpy
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.einsum import roles

Output = Annotated[torch.Tensor, 2, 3]  # without a batch where it is summed over
PLAIN = ("bmk,bnk->mn", "bhr,hdr->bhd", "bhd,hdr->bhr")
SCALED = ("bhr,hdr->bhd", "bhd,hdr->bhr", "bhd,bhr->hdr")


@explained
def einsum(expr: str, a: Stack, b: Stack, d: Output, c: Output | None = None, use_cublaslt: bool = False) -> None:
    """Write the BF16 product that `expr` names into d, plus c where given.

    `bmk,bnk->mn` in FP32 adds to c, which must be d; kernels then add the batch in no fixed order, and here it is one
    chain. `use_cublaslt` chooses nothing here.
    """
    _known(expr, PLAIN)
    if d.is_cuda:
        raise no_kernel()
    for name, operand in (("a", a), ("b", b)):
        if operand.dtype != torch.bfloat16:
            raise FormatError(expected(name, operand.dtype, "torch.bfloat16"))
    out, start = output_format("d", d), start_values(c, d)
    arithmetic = SETTINGS.arithmetic_of("bf16")
    write(d, reference.einsum(expr, to_numpy(a), to_numpy(b), start, arithmetic=arithmetic, out=out))


@explained
def fp8_einsum(
    expr: str,
    a: ScaledStack,
    b: ScaledStack,
    d: Stack,
    c: Stack | None = None,
    recipe: Recipe = (1, 128, 128),
) -> None:
    """Write the FP8 product that `expr` names into d, plus c where given.

    Operands and scales have their axes in the order of the expression; `recipe` is in terms of the batched product:
    rows of a, rows of b, and what is summed over.
    """
    _known(expr, SCALED)
    if d.is_cuda:
        raise no_kernel()
    role = roles(expr)
    block_a, block_b = blocks(recipe, None, None, False)
    (a, a_scale), (b, b_scale) = pair("a", a), pair("b", b)
    orders = _order(role.a, role.a_last), _order(role.b, role.b_last)
    left, right = payloads(a.permute(orders[0]), b.permute(orders[1]), (FP8,), (3, 3))
    left = _scaled("a", left, a_scale, role.a, role.a_last, block_a)
    right = _scaled("b", right, b_scale, role.b, role.b_last, block_b)
    options = {"arithmetic": SETTINGS.arithmetic_of(product_kind(left, right)), "out": output_format("d", d)}
    write(d, reference.einsum(expr, left, right, start_values(c, d), **options))


def _known(expression: str, known: tuple[str, ...]) -> None:
    if expression not in known:
        raise unknown_name("expr", expression, known)


def _order(written: str, last: str) -> list[int]:
    """Return the order of axes that puts last what is summed over."""
    return [written.index(letter) for letter in last]


def _scaled(
    name: str, plain: ScaledTensor, scales: torch.Tensor, written: str, last: str, block: tuple[int, int]
) -> ScaledTensor:
    """Return an operand whose scales have their axes as written."""
    if not holds_words(name, scales):  # said in the axes of the expression
        grid = Scaling(whole_numbers("recipe", block, 1)).grid(plain.shape)
        check_shape(f"{name} scales", scales, tuple(grid[last.index(letter)] for letter in written), written)
    return with_scales(name, plain, scales.permute(_order(written, last)), block)
