"""Kernels as torch operations, so that torch.compile traces through them: torch.ops.dgref.<name>.

`operation` is the one way to add one: a schema, the implementation for CUDA, and a fake that gives the shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dgref.backends.cuda import quantizers, scale_layouts
from dgref.backends.cuda.sm90 import gemm, grouped
from dgref.formats.layouts import LAYOUTS

_LIBRARY = torch.library.Library("dgref", "FRAGMENT")  # must outlive every call
Function = Callable[..., Any]


def operation(schema: str, fake: Function) -> Callable[[Function], Function]:
    """Register a function of CUDA tensors as `torch.ops.dgref.<name>`, with `fake` for tracing."""

    def register(implementation: Function) -> Function:
        name = schema.partition("(")[0]
        _LIBRARY.define(schema)
        _LIBRARY.impl(name, implementation, "CUDA")
        torch.library.register_fake(f"dgref::{name}", fake, lib=_LIBRARY)
        return implementation

    return register


def _fake_quantize(x, recipe: str, global_scale=None, scale_layout: str = "linear"):
    return quantizers.empty_quantized(x, recipe, scale_layout)


@operation(
    "quantize(Tensor x, str recipe, Tensor? global_scale=None, str scale_layout='linear') -> (Tensor, Tensor)",
    _fake_quantize,
)
def quantize(x, recipe: str, global_scale=None, scale_layout: str = "linear"):
    """Return (payload, scales) of x under a recipe; see `quantizers.quantize`."""
    quantized = quantizers.quantize(x, recipe, global_scale=global_scale, scale_layout=scale_layout)
    return quantized.data, quantized.scale


def _fake_pack_scales(scales, layout: str):
    row = LAYOUTS[layout]
    dtype = scales.dtype if row.elements.produces == "the same dtype" else getattr(torch, row.elements.produces)
    return scales.new_empty(row.buffer_shape(tuple(scales.shape)), dtype=dtype)


@operation("pack_scales(Tensor scales, str layout) -> Tensor", _fake_pack_scales)
def pack_scales(scales, layout: str):
    """Return the buffer of a grid of scales in a layout without parameters; see `scale_layouts.pack`."""
    return scale_layouts.pack(layout, scales)


def _writes_d(*_: Any, **__: Any) -> None:
    """Tracing learns nothing from a product that is written into a given D."""


_BLOCKED = "int[] b_block=[128, 128], bool packed=False"


@operation(
    "fp8_gemm(Tensor a, Tensor a_scale, Tensor b, Tensor b_scale, Tensor(d!) d, Tensor? c=None, *, "
    f"bool batch_invariant=False, {_BLOCKED}) -> ()",
    _writes_d,
)
def fp8_gemm(a, a_scale, b, b_scale, d, c=None, *, b_block=(128, 128), **options: bool) -> None:
    """Write a scaled FP8 product into d; see `sm90.gemm.fp8_gemm`."""
    gemm.fp8_gemm(a, a_scale, b, b_scale, d, c, b_block=tuple(b_block), **options)


@operation(
    "bf16_gemm(Tensor a, Tensor b, Tensor(d!) d, Tensor? c=None, *, bool batch_invariant=False) -> ()", _writes_d
)
def bf16_gemm(a, b, d, c=None, **options: bool) -> None:
    """Write a BF16 product into d; see `sm90.gemm.bf16_gemm`."""
    gemm.bf16_gemm(a, b, d, c, **options)


@operation(
    "gemm_grouped_contiguous(Tensor a, Tensor b, Tensor(d!) d, Tensor layout, Tensor? a_scale=None, "
    "Tensor? b_scale=None, *, bool prefix_sum=False, int alignment=128, bool zero_padding=False, "
    f"{_BLOCKED}) -> ()",
    _writes_d,
)
def gemm_grouped_contiguous(a, b, d, layout, a_scale=None, b_scale=None, *, b_block=(128, 128), **options: Any) -> None:
    """Write the products of groups of rows into d; see `sm90.grouped.gemm_grouped_contiguous`."""
    grouped.gemm_grouped_contiguous(a, b, d, layout, a_scale, b_scale, b_block=tuple(b_block), **options)


@operation(
    "gemm_grouped_masked(Tensor a, Tensor b, Tensor(d!) d, Tensor masked_m, int expected_m, Tensor? a_scale=None, "
    f"Tensor? b_scale=None, *, {_BLOCKED}) -> ()",
    _writes_d,
)
def gemm_grouped_masked(
    a, b, d, masked_m, expected_m: int, a_scale=None, b_scale=None, *, b_block=(128, 128), packed: bool = False
) -> None:
    """Write the first rows of each group's product into d; see `sm90.grouped.gemm_grouped_masked`."""
    options = {"b_block": tuple(b_block), "packed": packed}
    grouped.gemm_grouped_masked(a, b, d, masked_m, expected_m, a_scale, b_scale, **options)
