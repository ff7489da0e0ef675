"""Kernels as torch operations, so that torch.compile traces through them: torch.ops.dgref.<name>.

`operation` is the one way to add one: a schema, the implementation for CUDA, and a fake that gives the shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dgref.backends.cuda import quantizers, scale_layouts
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
