"""Products of three-axis tensors named by an expression."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from dgref import reference
from dgref.annotations import explained
from dgref.deep_gemm.arguments import Recipe, ScaledStack, Stack
from dgref.deep_gemm.operands import (
    FP8,
    blocks,
    check_shape,
    no_kernel,
    output_format,
    pair,
    payload,
    product_kind,
    start_values,
    with_scales,
    write,
)
from dgref.deep_gemm.settings import SETTINGS
from dgref.errors import FormatError, expected, unknown_name, whole_numbers
from dgref.formats.native import to_numpy
from dgref.formats.scaling import Scaling
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
    left = _summed_last("a", a, role.a, role.a_last, block_a)
    right = _summed_last("b", b, role.b, role.b_last, block_b)
    options = {"arithmetic": SETTINGS.arithmetic_of(product_kind(left, right)), "out": output_format("d", d)}
    write(d, reference.einsum(expr, left, right, start_values(c, d), **options))


def _known(expression: str, known: tuple[str, ...]) -> None:
    if expression not in known:
        raise unknown_name("expr", expression, known)


def _summed_last(name: str, operand: Any, written: str, last: str, block: tuple[int, int]) -> Any:
    tensor, scales = pair(name, operand)
    order = [written.index(letter) for letter in last]
    plain = payload(name, tensor.permute(order), (FP8,), 3)
    if scales.dtype != torch.int32:  # said in the axes of the expression
        grid = Scaling(whole_numbers("recipe", block, 1)).grid(plain.shape)
        check_shape(f"{name} scales", scales, tuple(grid[last.index(letter)] for letter in written), written)
    return with_scales(name, plain, scales.permute(order), block)
