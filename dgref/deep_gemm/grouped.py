"""Grouped products over rows: groups one after the other in one matrix, and stacks with row counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dgref import reference
from dgref.annotations import also_called, explained
from dgref.deep_gemm.arguments import Block, Matrix, Recipe, Scaled, ScaledStack, Stack, Vector
from dgref.deep_gemm.kernels import kernels
from dgref.deep_gemm.operands import (
    BF16,
    blocks,
    integers,
    output_format,
    pair,
    payloads,
    product_kind,
    with_scales,
    write,
)
from dgref.deep_gemm.reading import Reading, plain_reading, scaled_readings
from dgref.deep_gemm.settings import SETTINGS
from dgref.errors import flag, whole_number
from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference.grouped import psum_spans

_TURNED = (1, 2)  # the axes of b that are swapped where it is b[groups, k, n]
_ROWS, _STACKS = (2, 3), (3, 3)  # axes of a and b
_READING, _READING_TURNED = scaled_readings(axes=_ROWS), scaled_readings(turn_b=_TURNED, axes=_ROWS)
_PLAIN, _PLAIN_TURNED = plain_reading(axes=_ROWS), plain_reading(turn_b=_TURNED, axes=_ROWS)
_READING_OF_STACKS, _PLAIN_STACKS = scaled_readings(axes=_STACKS), plain_reading(axes=_STACKS)

# -- rows of groups, one after the other ------------------------------------------------------------------------------


@explained
def m_grouped_fp8_fp4_gemm_nt_contiguous(
    a: Scaled,
    b: ScaledStack,
    d: Matrix,
    grouped_layout: Vector,
    recipe: Recipe | None = None,
    recipe_a: Block | None = None,
    recipe_b: Block | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
    use_psum_layout: bool = False,
    ensure_zero_padding: bool = True,
    expected_m_for_psum_layout: int | None = None,
) -> None:
    """Write a[i] @ b[group of row i].T into d[i]: a[m, k], b[groups, n, k].

    `grouped_layout` holds a label for each row, -1 for padding, whose rows become zero. With `use_psum_layout` it holds
    the end of each group; rows from there to the next aligned start become zero with `ensure_zero_padding`, and are
    left alone without, as are rows behind all groups.
    """
    (a, a_scale), (b, b_scale) = pair("a", a), pair("b", b)
    options = _options(use_psum_layout, ensure_zero_padding)
    if d.is_cuda:
        read = _READING(recipe, recipe_a, recipe_b)
        _contiguous_on_gpu(a, b, d, grouped_layout, options, read, a_scale, b_scale)
        return
    chosen = blocks(recipe, recipe_a, recipe_b, b_scale.dtype is torch.int32)
    left, right = payloads(a, b, axes=_ROWS)
    used = _used_rows(grouped_layout, a.shape[0], b.shape[0], use_psum_layout)
    float32 = disable_ue8m0_cast or None
    left = with_scales("a", left, a_scale, chosen[0], float32, used)
    right = with_scales("b", right, b_scale, chosen[1], float32)
    _contiguous_on_cpu(left, right, d, grouped_layout, options, used)


@explained
def m_grouped_fp8_fp4_gemm_nn_contiguous(
    a: Scaled,
    b: ScaledStack,
    d: Matrix,
    grouped_layout: Vector,
    recipe: Recipe | None = None,
    recipe_a: Block | None = None,
    recipe_b: Block | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
    use_psum_layout: bool = False,
    ensure_zero_padding: bool = True,
) -> None:
    """Do as `m_grouped_fp8_fp4_gemm_nt_contiguous`, for b[groups, k, n]."""
    weights, scales = pair("b", b)
    if d.is_cuda:
        options, (a, a_scale) = _options(use_psum_layout, ensure_zero_padding), pair("a", a)
        read = _READING_TURNED(recipe, recipe_a, recipe_b)
        _contiguous_on_gpu(a, weights, d, grouped_layout, options, read, a_scale, scales)
        return
    b = (weights.transpose(*_TURNED), scales.transpose(*_TURNED))
    options = (compiled_dims, disable_ue8m0_cast, use_psum_layout, ensure_zero_padding)
    m_grouped_fp8_fp4_gemm_nt_contiguous(a, b, d, grouped_layout, recipe, recipe_a, recipe_b, *options)


@explained
def m_grouped_bf16_gemm_nt_contiguous(
    a: Matrix,
    b: Stack,
    d: Matrix,
    grouped_layout: Vector,
    compiled_dims: str = "nk",
    use_psum_layout: bool = False,
    ensure_zero_padding: bool = True,
    expected_m_for_psum_layout: int | None = None,
) -> None:
    """Write a[i] @ b[group of row i].T into d[i], all BF16; see `m_grouped_fp8_fp4_gemm_nt_contiguous`."""
    options = _options(use_psum_layout, ensure_zero_padding)
    if d.is_cuda:
        _contiguous_on_gpu(a, b, d, grouped_layout, options, _PLAIN)
        return
    left, right = payloads(a, b, (BF16,), _ROWS)
    used = _used_rows(grouped_layout, a.shape[0], b.shape[0], use_psum_layout)
    _contiguous_on_cpu(left, right, d, grouped_layout, options, used)


@explained
def m_grouped_bf16_gemm_nn_contiguous(
    a: Matrix,
    b: Stack,
    d: Matrix,
    grouped_layout: Vector,
    compiled_dims: str = "nk",
    use_psum_layout: bool = False,
    ensure_zero_padding: bool = True,
) -> None:
    """Do as `m_grouped_bf16_gemm_nt_contiguous`, for b[groups, k, n]."""
    if d.is_cuda:
        options = _options(use_psum_layout, ensure_zero_padding)
        _contiguous_on_gpu(a, b, d, grouped_layout, options, _PLAIN_TURNED)
        return
    options = (compiled_dims, use_psum_layout, ensure_zero_padding)
    m_grouped_bf16_gemm_nt_contiguous(a, b.transpose(*_TURNED), d, grouped_layout, *options)


def _options(psum: bool, zero_padding: bool) -> tuple[bool, bool]:
    """Return whether the layout holds ends, and whether padding becomes zero: that of labels always does."""
    psum = flag("use_psum_layout", psum)
    return psum, flag("ensure_zero_padding", zero_padding) or not psum


def _used_rows(layout: torch.Tensor, rows: int, groups: int, psum: bool) -> np.ndarray:
    """Return which rows belong to a group."""
    numbers = integers("grouped_layout", layout, (groups if psum else rows,))
    if not psum:
        return numbers >= 0
    used = np.zeros(rows, bool)
    for span in psum_spans(numbers, rows, SETTINGS.alignment):
        used[span] = True
    return used


def _contiguous_on_cpu(left: ScaledTensor, right: ScaledTensor, d: Any, layout: Any, options: tuple, used: Any) -> None:
    psum, zero_padding = options
    result = reference.gemm_grouped_contiguous(
        left,
        right,
        to_numpy(layout),
        psum=psum,
        alignment=SETTINGS.alignment,
        arithmetic=SETTINGS.arithmetic_of(product_kind(left, right)),
        out=output_format("d", d),
    )
    write(d, result, _written_rows(layout, used, psum) if zero_padding else used)


def _written_rows(layout: torch.Tensor, used: np.ndarray, psum: bool) -> np.ndarray:
    """Return which rows get a value where padding is zero: behind all groups of a prefix sum, none."""
    if not psum:
        return np.ones_like(used)
    end = int(to_numpy(layout).max(initial=0))
    return np.arange(len(used)) < -(-end // SETTINGS.alignment) * SETTINGS.alignment


def _contiguous_on_gpu(
    a, b, d, layout, options: tuple[bool, bool], read: Reading, a_scale: Any = None, b_scale: Any = None
) -> None:
    kernels().contiguous(
        a,
        b,
        d,
        layout,
        a_scale,
        b_scale,
        prefix_sum=options[0],
        alignment=SETTINGS.alignment,
        zero_padding=options[1],
        resources=SETTINGS.resources,
        reading=read,
    )


# -- stacks of groups with row counts ---------------------------------------------------------------------------------


@explained
def m_grouped_fp8_fp4_gemm_nt_masked(
    a: ScaledStack,
    b: ScaledStack,
    d: Stack,
    masked_m: Vector,
    expected_m: int,
    recipe: Recipe | None = None,
    recipe_a: Block | None = None,
    recipe_b: Block | None = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """Write the first masked_m[g] rows of a[g, m, k] @ b[g, n, k].T into d[g, m, n]; no other row is touched.

    `expected_m` only helps to choose a configuration.
    """
    (a, a_scale), (b, b_scale) = pair("a", a), pair("b", b)
    if d.is_cuda:
        launch, read = kernels().masked, _READING_OF_STACKS(recipe, recipe_a, recipe_b)
        launch(a, b, d, masked_m, expected_m, a_scale, b_scale, resources=SETTINGS.resources, reading=read)
        return
    chosen = blocks(recipe, recipe_a, recipe_b, b_scale.dtype is torch.int32)
    left, right = payloads(a, b, axes=_STACKS)
    used, float32 = _rows_under_mask(a, masked_m, expected_m), disable_ue8m0_cast or None
    left = with_scales("a", left, a_scale, chosen[0], float32, used)
    right = with_scales("b", right, b_scale, chosen[1], float32)
    _masked_on_cpu(left, right, d, masked_m, used)


@explained
def m_grouped_bf16_gemm_nt_masked(
    a: Stack,
    b: Stack,
    d: Stack,
    masked_m: Vector,
    expected_m: int,
    compiled_dims: str = "nk",
) -> None:
    """Write the first masked_m[g] rows of a[g, m, k] @ b[g, n, k].T, BF16, into d[g, m, n]; no other row is touched."""
    if d.is_cuda:
        kernels().masked(a, b, d, masked_m, expected_m, resources=SETTINGS.resources, reading=_PLAIN_STACKS)
        return
    left, right = payloads(a, b, (BF16,), _STACKS)
    _masked_on_cpu(left, right, d, masked_m, _rows_under_mask(a, masked_m, expected_m))


def _rows_under_mask(a: torch.Tensor, masked_m: torch.Tensor, expected_m: int) -> np.ndarray:
    whole_number("expected_m", expected_m)
    return np.arange(a.shape[1]) < integers("masked_m", masked_m, (a.shape[0],))[:, None]


def _masked_on_cpu(left: ScaledTensor, right: ScaledTensor, d: Any, masked_m: Any, used: np.ndarray) -> None:
    kind = product_kind(left, right)
    options = {"arithmetic": SETTINGS.arithmetic_of(kind), "out": output_format("d", d)}
    write(d, reference.gemm_grouped_masked(left, right, to_numpy(masked_m), **options), used)


m_grouped_fp8_gemm_nt_contiguous = also_called("m_grouped_fp8_gemm_nt_contiguous", m_grouped_fp8_fp4_gemm_nt_contiguous)
m_grouped_fp8_gemm_nn_contiguous = also_called("m_grouped_fp8_gemm_nn_contiguous", m_grouped_fp8_fp4_gemm_nn_contiguous)
m_grouped_fp8_gemm_nt_masked = also_called("m_grouped_fp8_gemm_nt_masked", m_grouped_fp8_fp4_gemm_nt_masked)
fp8_m_grouped_gemm_nt_masked = also_called("fp8_m_grouped_gemm_nt_masked", m_grouped_fp8_fp4_gemm_nt_masked)
bf16_m_grouped_gemm_nt_masked = also_called("bf16_m_grouped_gemm_nt_masked", m_grouped_bf16_gemm_nt_masked)
