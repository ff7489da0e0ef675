"""Grouped products over K: every group has its own part of K and its own result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dgref import reference
from dgref.annotations import explained
from dgref.deep_gemm.arguments import Matrix, Recipe, Scaled, ScaledFlat, Stack, Vector
from dgref.deep_gemm.kernels import kernels
from dgref.deep_gemm.operands import (
    BF16,
    FORMAT_OF,
    FP8,
    UE8M0,
    check_shape,
    checked_recipes,
    holds_words,
    integers,
    no_kernel,
    output_format,
    pair,
    payload,
    payloads,
    product_kind,
    start_values,
    with_float_scales,
    write,
)
from dgref.deep_gemm.reading import Reading
from dgref.deep_gemm.settings import SETTINGS
from dgref.errors import FormatError, InputError, LayoutError, ShapeError, expected, flag, whole_numbers
from dgref.formats.layouts import LAYOUTS
from dgref.formats.native import to_numpy
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.grouped import k_spans
from dgref.reference.scale_transforms import group_lengths


@explained
def k_grouped_fp8_gemm_tn_contiguous(
    a: Scaled,
    b: Scaled,
    d: Stack,
    ks_cpu: list[int] | None,
    grouped_layout: Vector,
    c: Stack | None = None,
    recipe: Recipe = (1, 1, 128),
    compiled_dims: str = "mn",
    use_psum_layout: bool = False,
) -> None:
    """Write a[K of g].T @ b[K of g] into d[g], plus c[g]: a[k, m], b[k, n], scales [K blocks, m] and [K blocks, n].

    `grouped_layout` holds the K of each group; with `use_psum_layout`, where each ends.
    """
    block = _k_block(recipe, (32, 128))
    (a, a_scale), (b, b_scale) = pair("a", a), pair("b", b)
    if d.is_cuda:
        if block != (1, 128):
            raise no_kernel()
        _check_matrix(a)
        _k_on_gpu(a, b, d, ks_cpu, grouped_layout, c, use_psum_layout, a_scale, b_scale, _scales_turned)
        return
    spans = _Spans.of(d, ks_cpu, grouped_layout, use_psum_layout)
    left, right = payloads(a.t(), b.t(), (FP8,))
    spans.check(left)
    left = _k_scaled("a", left, a_scale, block, spans)
    right = _k_scaled("b", right, b_scale, block, spans)
    _k_on_cpu(left, right, d, spans, c)


@explained
def k_grouped_fp8_gemm_nt_contiguous(
    a: ScaledFlat,
    b: ScaledFlat,
    d: Stack,
    ks_cpu: list[int] | None,
    grouped_layout: Vector,
    c: Stack | None = None,
    recipe: Recipe = (1, 1, 128),
    compiled_dims: str = "mn",
    use_psum_layout: bool = False,
) -> None:
    """Write a_g @ b_g.T into d[g], plus c[g]: each group a K-major matrix [m, K of g] of its own, all in one flat a.

    Scales are [m, K blocks] and [n, K blocks]; `ks_cpu` must say the K of each group.
    """
    block = _k_block(recipe, (128,))
    if use_psum_layout or not ks_cpu:
        raise InputError(expected("ks_cpu", ks_cpu, "the K of every group, without use_psum_layout"))
    (a, a_scale), (b, b_scale) = pair("a", a), pair("b", b)
    if d.is_cuda:
        flat = _flat("a", a), _flat("b", b)
        _k_on_gpu(*flat, d, ks_cpu, grouped_layout, c, False, a_scale, b_scale, _scales_as_given)
        return
    spans = _Spans.of(d, ks_cpu, grouped_layout, False)
    left, right = _joined("a", a, d.shape[1], ks_cpu), _joined("b", b, d.shape[2], ks_cpu)
    for name, scales, rows in (("a", a_scale, d.shape[1]), ("b", b_scale, d.shape[2])):
        if not holds_words(name, scales):
            check_shape(f"{name} scales", scales, (rows, sum(spans.blocks(128))), "rows by K blocks of every group")
    left = _k_scaled("a", left, a_scale.t(), block, spans)
    right = _k_scaled("b", right, b_scale.t(), block, spans)
    _k_on_cpu(left, right, d, spans, c)


@explained
def k_grouped_bf16_gemm_tn_contiguous(
    a: Matrix,
    b: Matrix,
    d: Stack,
    ks_cpu: list[int] | None,
    grouped_layout: Vector,
    c: Stack | None = None,
    compiled_dims: str = "mn",
    use_psum_layout: bool = False,
) -> None:
    """Write a[K of g].T @ b[K of g] into d[g], plus c[g]: a[k, m] and b[k, n] are BF16."""
    if d.is_cuda:
        _check_matrix(a)
        _k_on_gpu(a, b, d, ks_cpu, grouped_layout, c, use_psum_layout)
        return
    spans = _Spans.of(d, ks_cpu, grouped_layout, use_psum_layout)
    left, right = payloads(a.t(), b.t(), (BF16,))
    _k_on_cpu(left, right, d, spans, c)


def _check_matrix(a: torch.Tensor) -> None:
    """Raise unless a is [k, m]: the kernel takes a line of elements for groups that are matrices of their own."""
    if a.dim() != 2:
        raise ShapeError(expected("a shape", list(a.shape), "two axes"))


def _flat(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return groups that are matrices of their own as the line of elements by which the kernel knows them."""
    if not tensor.is_contiguous():
        raise LayoutError(expected(f"{name} strides", tensor.stride(), "elements one behind the other"))
    return tensor if tensor.dim() == 1 else tensor.view(-1)


def _k_on_gpu(
    a, b, d, ks_cpu, layout, c, psum: bool, a_scale: Any = None, b_scale: Any = None, read: Reading | None = None
) -> None:
    kernels().k_grouped(
        a,
        b,
        d,
        layout,
        c,
        a_scale,
        b_scale,
        sizes=None if flag("use_psum_layout", psum) else ks_cpu,
        prefix_sum=psum,
        alignment=SETTINGS.alignment,
        resources=SETTINGS.resources,
        reading=read,
    )


def _scales_as_given(a: Any, a_scale: Any, b: Any, b_scale: Any) -> tuple:
    """Read FP8 with scales [rows, blocks of K]: one for each 128 of K."""
    for name, operand in (("a", a), ("b", b)):  # a kernel would take any bytes for FP8
        if operand.dtype is not torch.float8_e4m3fn:
            raise FormatError(expected(name, operand.dtype, "torch.float8_e4m3fn"))
    return a, a_scale, b, b_scale, (1, 128), False


def _scales_turned(a: Any, a_scale: Any, b: Any, b_scale: Any) -> tuple:
    """Read FP8 with scales [blocks of K, rows]."""
    return _scales_as_given(a, a_scale.t(), b, b_scale.t())


class _Spans:
    """Where the groups of K are, as the references take it."""

    def __init__(self, numbers: np.ndarray, psum: bool):
        self.numbers, self.psum = numbers, psum

    @classmethod
    def of(cls, d: torch.Tensor, ks_cpu: Any, layout: torch.Tensor, psum: bool) -> _Spans:
        """Check the two descriptions of the groups against each other and against d."""
        if d.dim() != 3:
            raise ShapeError(expected("d shape", list(d.shape), "3 axes [groups, m, n]"))
        if not ks_cpu and not psum:
            raise InputError(expected("ks_cpu", ks_cpu, "the K of every group, unless use_psum_layout"))
        psum, numbers = flag("use_psum_layout", psum), integers("grouped_layout", layout, (d.shape[0],))
        given = list(whole_numbers("ks_cpu", ks_cpu or ()))
        if given and not psum and given != numbers.tolist():
            raise InputError(expected("grouped_layout", numbers.tolist(), f"{given}, as in ks_cpu"))
        return cls(numbers, psum)

    def check(self, operand: ScaledTensor) -> None:
        """Raise unless the groups fit the K of an operand: how many scales it needs follows from them."""
        list(k_spans(self.numbers, operand.shape[-1], self.psum, SETTINGS.alignment))

    def blocks(self, width: int) -> list[int]:
        """Return how many blocks of K each group has; every group starts a new one."""
        return [-(-length // width) for length in group_lengths(self.numbers, self.psum, SETTINGS.alignment)]


def _k_block(recipe: Any, widths: tuple[int, ...]) -> tuple[int, int]:
    given, *_ = checked_recipes(recipe)
    if given not in [(1, 1, width) for width in widths]:
        need = " or ".join(f"(1, 1, {width})" for width in widths)
        raise FormatError(expected("recipe", given, need))
    return given[1:]


def _joined(name: str, flat: torch.Tensor, rows: int, sizes: list[int]) -> ScaledTensor:
    """Return the [rows, sum of K] operand whose groups are matrices one behind the other."""
    if flat.numel() != rows * sum(sizes) or not flat.is_contiguous():
        need = f"{rows} x {sum(sizes)} elements, contiguous"
        why = f"d has {rows} {'rows' if name == 'a' else 'columns'}, and the sizes in ks_cpu add up to {sum(sizes)}"
        raise ShapeError(expected(f"{name} shape", list(flat.shape), need, why))
    if FORMAT_OF.get(flat.dtype) != FP8:
        raise FormatError(expected(name, flat.dtype, "torch.float8_e4m3fn"))
    parts = torch.split(flat.reshape(-1), [rows * size for size in sizes])
    parts = [part.reshape(rows, size) for part, size in zip(parts, sizes, strict=True)]
    return payload(name, torch.cat([part.view(torch.uint8) for part in parts], 1).view(flat.dtype), (FP8,))


def _k_scaled(
    name: str, plain: ScaledTensor, scales: torch.Tensor, block: tuple[int, int], spans: _Spans
) -> ScaledTensor:
    """Return an operand with scales [K blocks, rows]: every group starts a new block, and a new row of words."""
    counts, rows = spans.blocks(block[1]), plain.shape[0]
    why = "K blocks of every group by rows"
    if not holds_words(name, scales):
        held = scales[: sum(counts)] if spans.psum else scales  # as words: DeepGEMM reads what the groups need
        check_shape(f"{name} scales", held, (sum(counts), rows), why)
        return with_float_scales(name, plain, held.t(), block)
    words = sum(-(-count // 4) for count in counts)
    held = scales[:words].contiguous()  # more rows may have been allocated than the groups need
    check_shape(f"{name} scales", held, (words, rows), f"{why}, four in a word")
    layout = LAYOUTS["packed_ue8m0_k_grouped"]
    codes = layout.unpack(to_numpy(held), (sum(counts), rows), codes=True, extents=counts)
    return replace(plain, scale=codes.T, scaling=Scaling(block, UE8M0))


def _k_on_cpu(left: ScaledTensor, right: ScaledTensor, d: Any, spans: _Spans, c: Any) -> None:
    result = reference.gemm_grouped_k(
        left,
        right,
        spans.numbers,
        start_values(c, d),
        psum=spans.psum,
        alignment=SETTINGS.alignment,
        arithmetic=SETTINGS.arithmetic_of(product_kind(left, right)),
        out=output_format("d", d),
    )
    write(d, result)
