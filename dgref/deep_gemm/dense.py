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
from dgref.deep_gemm.reading import Axes, plain_reading, scaled_readings, turned
from dgref.deep_gemm.settings import SETTINGS
from dgref.errors import whole_numbers
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


def _turns(layout: str) -> tuple[Axes, Axes]:
    """Return the axes of a and of b that come swapped."""
    flip_a, flip_b, _ = TRANSPOSES[layout]
    return (0, 1) if flip_a else None, (0, 1) if flip_b else None


def _fp8_gemm(layout: str) -> Callable:
    (turn_a, turn_b), (*_, dims) = _turns(layout), TRANSPOSES[layout]
    reading = scaled_readings(turn_a, turn_b)

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
        (a, a_scale), (b, b_scale) = pair("a", a), pair("b", b)
        if d.is_cuda:
            read = reading(recipe, recipe_a, recipe_b)
            kernels().fp8_gemm(a, a_scale, b, b_scale, d, c, resources=SETTINGS.resources, reading=read)
            return
        left = turned(a, turn_a), turned(a_scale, turn_a)
        right = turned(b, turn_b), turned(b_scale, turn_b)
        chosen = blocks(recipe, recipe_a, recipe_b, b_scale.dtype is torch.int32)
        _fp8_gemm_on_cpu(*left, *right, d, c, *chosen, None, disable_ue8m0_cast)

    return _named(fp8_fp4_gemm, "fp8_fp4_gemm", layout)


def _bf16_gemm(layout: str) -> Callable:
    (turn_a, turn_b), (*_, dims) = _turns(layout), TRANSPOSES[layout]
    read = plain_reading(turn_a, turn_b)

    def bf16_gemm(a: Matrix, b: Matrix, d: Matrix, c: Matrix | None = None, compiled_dims: str = dims) -> None:
        if d.is_cuda:
            kernels().bf16_gemm(a, b, d, c, resources=SETTINGS.resources, reading=read)
            return
        _plain_on_cpu(turned(a, turn_a), turned(b, turn_b), d, c, (BF16,))

    return _named(bf16_gemm, "bf16_gemm", layout)


def _cublaslt_gemm(layout: str) -> Callable:
    turn_a, turn_b = _turns(layout)
    read = plain_reading(turn_a, turn_b)

    def cublaslt_gemm(a: Matrix, b: Matrix, d: Matrix, c: Matrix | None = None) -> None:
        if d.is_cuda:
            if a.dtype is torch.float8_e4m3fn:
                raise no_kernel()
            kernels().bf16_gemm(a, b, d, c, resources=SETTINGS.resources, reading=read)
            return
        _plain_on_cpu(turned(a, turn_a), turned(b, turn_b), d, c, (BF16, FP8))

    return _named(cublaslt_gemm, "cublaslt_gemm", layout)


def _named(function: Callable, family: str, layout: str) -> Callable:
    function.__name__ = function.__qualname__ = f"{family}_{layout}"
    flip_a, flip_b, _ = TRANSPOSES[layout]
    left, right = "a[k, m].T" if flip_a else "a[m, k]", "b[k, n]" if flip_b else "b[n, k].T"
    function.__doc__ = f"Write {left} @ {right} into d[m, n], plus c where given (c may be d)."
    return explained(function)


def _plain_on_cpu(a: Any, b: Any, d: Any, c: Any, formats: tuple[str, ...]) -> None:
    """Write a[m, k] @ b[n, k].T, both of one format, into d, plus c where given."""
    left = payload("a", a, formats)
    right = payload("b", b, (left.format,))
    check_depth(left, right, _FORMS)
    _check_sides(left, right, d)
    out, start = output_format("d", d), start_values(c, d)
    arithmetic = SETTINGS.arithmetic_of(product_kind(left, right))
    write(d, reference.gemm(left, right, start, arithmetic=arithmetic, out=out))


def _check_sides(a: ScaledTensor, b: ScaledTensor, d: torch.Tensor) -> None:
    check_shape("d", d, (a.shape[0], b.shape[0]), "[m, n] of a and b")


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


_reading = scaled_readings()


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
    (a, a_scale), (b, b_scale), splits = pair("a", a), pair("b", b), whole_numbers("head_splits", head_splits)
    if d.is_cuda:
        launch, read = kernels().fp8_gemm, _reading(recipe, None, None)
        launch(a, a_scale, b, b_scale, d, head_splits=splits, resources=SETTINGS.resources, reading=read)
        return
    chosen = blocks(recipe, None, None, b_scale.dtype is torch.int32)
    _fp8_gemm_on_cpu(a, a_scale, b, b_scale, d, None, *chosen, splits, disable_ue8m0_cast)


fp8_fp4_gemm_nt, fp8_fp4_gemm_nn, fp8_fp4_gemm_tn, fp8_fp4_gemm_tt = map(_fp8_gemm, TRANSPOSES)
bf16_gemm_nt, bf16_gemm_nn, bf16_gemm_tn, bf16_gemm_tt = map(_bf16_gemm, TRANSPOSES)
cublaslt_gemm_nt, cublaslt_gemm_nn, cublaslt_gemm_tn, cublaslt_gemm_tt = map(_cublaslt_gemm, TRANSPOSES)
fp8_gemm_nt = also_called("fp8_gemm_nt", fp8_fp4_gemm_nt)
fp8_gemm_nn = also_called("fp8_gemm_nn", fp8_fp4_gemm_nn)
fp8_gemm_tn = also_called("fp8_gemm_tn", fp8_fp4_gemm_tn)
fp8_gemm_tt = also_called("fp8_gemm_tt", fp8_fp4_gemm_tt)
