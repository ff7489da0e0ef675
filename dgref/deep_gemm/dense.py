"""Dense products: one function for each signature, one row for each choice of transposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dgref import reference
from dgref.annotations import also_called, explained
from dgref.deep_gemm.arguments import Block, Matrix, Recipe, Scaled
from dgref.deep_gemm.kernels import kernels
from dgref.deep_gemm.operands import (
    BF16,
    BYTES_ARE_CODES,
    FP8,
    blocks,
    check_depth,
    check_shape,
    no_kernel,
    output_format,
    pair,
    payload,
    payloads,
    product_kind,
    start_values,
    with_scales,
    write,
)
from dgref.deep_gemm.settings import SETTINGS
from dgref.formats.native import like
from dgref.formats.tensor import ScaledTensor
from dgref.reference.gemm import split_columns

# name -> whether a and b come transposed, and the dimensions that DeepGEMM compiles for
TRANSPOSES = {
    "nt": (False, False, "nk"),
    "nn": (False, True, "nk"),
    "tn": (True, True, "mn"),
    "tt": (True, False, "mn"),
}
_FORMS = ": nt, nn, tn and tt are names for that"
_BLOCKS = ((128, 128), (1, 128), (1, 32))  # of b's scales


def _fp8_gemm(layout: str) -> Callable:
    flip_a, flip_b, dims = TRANSPOSES[layout]

    def fp8_fp4_gemm(
        a: Scaled,
        b: Scaled,
        d: Matrix,
        c: Matrix | None = None,
        recipe: Recipe | None = None,
        recipe_a: Block | None = None,
        recipe_b: Block | None = None,
        compiled_dims: str = dims,
        disable_ue8m0_cast: bool = False,
    ) -> None:
        a, a_scale = a if type(a) is tuple and len(a) == 2 else pair("a", a)
        b, b_scale = b if type(b) is tuple and len(b) == 2 else pair("b", b)
        if flip_a:
            a, a_scale = a.transpose(0, 1), a_scale.transpose(0, 1)
        if flip_b:
            b, b_scale = b.transpose(0, 1), b_scale.transpose(0, 1)
        block_a, block_b = blocks(recipe, recipe_a, recipe_b, b_scale.dtype is torch.int32)
        run = fp8_gemm_on_gpu if d.is_cuda else _fp8_gemm_on_cpu
        run(a, a_scale, b, b_scale, d, c, block_a, block_b, None, disable_ue8m0_cast)

    return _named(fp8_fp4_gemm, "fp8_fp4_gemm", layout)


def _bf16_gemm(layout: str) -> Callable:
    flip_a, flip_b, dims = TRANSPOSES[layout]

    def bf16_gemm(a: Matrix, b: Matrix, d: Matrix, c: Matrix | None = None, compiled_dims: str = dims) -> None:
        plain_gemm(a.transpose(0, 1) if flip_a else a, b.transpose(0, 1) if flip_b else b, d, c)

    return _named(bf16_gemm, "bf16_gemm", layout)


def _cublaslt_gemm(layout: str) -> Callable:
    flip_a, flip_b, _ = TRANSPOSES[layout]

    def cublaslt_gemm(a: Matrix, b: Matrix, d: Matrix, c: Matrix | None = None) -> None:
        if d.is_cuda and a.dtype is torch.float8_e4m3fn:
            raise no_kernel()
        left, right = a.transpose(0, 1) if flip_a else a, b.transpose(0, 1) if flip_b else b
        plain_gemm(left, right, d, c, (BF16, FP8))

    return _named(cublaslt_gemm, "cublaslt_gemm", layout)


def _named(function: Callable, family: str, layout: str) -> Callable:
    function.__name__ = function.__qualname__ = f"{family}_{layout}"
    flip_a, flip_b, _ = TRANSPOSES[layout]
    left, right = "a[k, m].T" if flip_a else "a[m, k]", "b[k, n]" if flip_b else "b[n, k].T"
    function.__doc__ = f"Write {left} @ {right} into d[m, n], plus c where given (c may be d)."
    return explained(function)


def plain_gemm(a: Any, b: Any, d: Any, c: Any = None, formats: tuple[str, ...] = (BF16,)) -> None:
    """Write a[m, k] @ b[n, k].T, both of one format, into d, plus c where given."""
    if d.is_cuda:
        kernels().bf16_gemm(a, b, d, c, resources=SETTINGS.resources)
        return
    left = payload("a", a, formats)
    right = payload("b", b, (left.format,))
    check_depth(left, right, _FORMS)
    _check_sides(left, right, d)
    out, start = output_format("d", d), start_values(c, d)
    arithmetic = SETTINGS.arithmetic_of(product_kind(left, right))
    write(d, reference.gemm(left, right, start, arithmetic=arithmetic, out=out))


def _check_sides(a: ScaledTensor, b: ScaledTensor, d: torch.Tensor) -> None:
    check_shape("d", d, (a.shape[0], b.shape[0]), "[m, n] of a and b")


def fp8_gemm_on_gpu(a, a_scale, b, b_scale, d, c, block_a, block_b, head_splits, float32=False) -> None:
    """Launch the kernel for FP8 by FP8 or FP4.

    Every line here is paid for by every launch: whatever the kernel checks when it first sees tensors is left to it.
    """
    packed = check_scaled(a, b, block_a, block_b)
    kernels().fp8_gemm(
        a,
        a_scale=a_scale,
        b=b,
        b_scale=b_scale,
        d=d,
        c=c,
        b_block=block_b,
        head_splits=head_splits,
        packed=packed,
        resources=SETTINGS.resources,
    )


def check_scaled(a: Any, b: Any, block_a: Any, block_b: Any) -> bool:
    """Raise unless there are kernels for scales of these blocks, and a is FP8; say whether b is packed FP4."""
    packed = b.dtype is not torch.float8_e4m3fn
    if a.dtype is not torch.float8_e4m3fn:  # which a kernel would take bytes for
        hint = f"; {BYTES_ARE_CODES}" if a.dtype in (torch.uint8, torch.int8) else ""
        raise no_kernel(f"a in torch.float8_e4m3fn, not {a.dtype}{hint}")
    if block_a != (1, 128) or block_b not in _BLOCKS or (packed and block_b[0] != 1):
        need = "scales of 1x128 by 128x128 (b in FP8), 1x128 or 1x32"
        hint = f"; {BYTES_ARE_CODES}" if b.dtype in (torch.uint8, torch.int8) else ""
        raise no_kernel(f"{need}, not {block_a} by {block_b} with b in {b.dtype}{hint}")
    return packed


def _fp8_gemm_on_cpu(a, a_scale, b, b_scale, d, c, block_a, block_b, head_splits, float32) -> None:
    float32 = float32 or None  # without `disable_ue8m0_cast` the architecture decides
    left, right = payloads(a, b, forms=_FORMS if head_splits is None else "")
    left = with_scales("a", left, a_scale, block_a, float32)
    right = with_scales("b", right, b_scale, block_b, float32)
    if head_splits is None:
        _check_sides(left, right, d)
    out, start = output_format("d", d), start_values(c, d)
    options = {"arithmetic": SETTINGS.arithmetic_of(product_kind(left, right)), "out": out, "head_splits": head_splits}
    result = reference.gemm(left, right, start, **options)
    if head_splits is None:
        write(d, result)
        return
    columns = split_columns(right.shape[0], head_splits)
    check_shape("d", d, result.shape, f"head_splits {tuple(head_splits)}")
    d.detach()[:, torch.from_numpy(columns)] = like(result[:, columns], d)  # no kernel writes the gaps


@explained
def fp8_gemm_nt_skip_head_mid(
    a: Scaled,
    b: Scaled,
    d: Matrix,
    head_splits: Recipe,
    recipe: Recipe | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """Write a[m, k] @ b[n, k].T into d, with `mid` columns left alone after the first `left` of each left + right."""
    (a, a_scale), (b, b_scale) = pair("a", a), pair("b", b)
    chosen = blocks(recipe, None, None, b_scale.dtype is torch.int32)
    run = fp8_gemm_on_gpu if d.is_cuda else _fp8_gemm_on_cpu
    run(a, a_scale, b, b_scale, d, None, *chosen, tuple(head_splits), disable_ue8m0_cast)


fp8_fp4_gemm_nt, fp8_fp4_gemm_nn, fp8_fp4_gemm_tn, fp8_fp4_gemm_tt = map(_fp8_gemm, TRANSPOSES)
bf16_gemm_nt, bf16_gemm_nn, bf16_gemm_tn, bf16_gemm_tt = map(_bf16_gemm, TRANSPOSES)
cublaslt_gemm_nt, cublaslt_gemm_nn, cublaslt_gemm_tn, cublaslt_gemm_tt = map(_cublaslt_gemm, TRANSPOSES)
fp8_gemm_nt = also_called("fp8_gemm_nt", fp8_fp4_gemm_nt)
fp8_gemm_nn = also_called("fp8_gemm_nn", fp8_fp4_gemm_nn)
fp8_gemm_tn = also_called("fp8_gemm_tn", fp8_fp4_gemm_tn)
fp8_gemm_tt = also_called("fp8_gemm_tt", fp8_fp4_gemm_tt)
