"""A case's logical operands as CUDA tensors, laid out as dgref's kernels read them."""

from __future__ import annotations

import numpy as np
import torch

from dgref.formats import LAYOUTS, ScaledTensor
from dgref.formats.native import as_native, like
from dgref.formats.packing import pack

LINE_BYTES = 16  # the copy engine wants every line to start at a multiple of this


def on_device(array: np.ndarray) -> torch.Tensor:
    """Return a CUDA copy of a native array, or of unsigned integers."""
    return like(np.ascontiguousarray(array), torch.empty(0)).cuda()


def payload(tensor: ScaledTensor, major: str = "k") -> torch.Tensor:
    """Return codes in a native dtype (FP4: two a byte) as [..., rows, k], lines padded to whole 16 bytes.

    With major `mn` the rows are contiguous and the tensor is a transposed view. Padding holds 0xFF, NaN in every
    format that has one, so that a kernel that reads it shows.
    """
    codes = tensor.data if major == "k" else np.swapaxes(tensor.data, -1, -2)
    if tensor.format == "float4_e2m1fn":
        lines = pack(np.ascontiguousarray(codes), tensor.format)
    else:
        lines = as_native(np.ascontiguousarray(codes), tensor.format)
    placed = padded(lines)
    return placed if major == "k" else placed.transpose(-1, -2)


def padded(lines: np.ndarray) -> torch.Tensor:
    """Return a native array whose lines start at multiples of 16 bytes; the padding is poisoned."""
    whole = lines.view(np.uint8) if lines.dtype.itemsize == 1 else lines.view(f"u{lines.dtype.itemsize}")
    unit = LINE_BYTES // lines.dtype.itemsize
    width = -(-lines.shape[-1] // unit) * unit
    buffer = np.full((*lines.shape[:-1], width), np.iinfo(whole.dtype).max, whole.dtype)
    buffer[..., : lines.shape[-1]] = whole
    return on_device(buffer.view(lines.dtype))[..., : lines.shape[-1]]


def native(tensor: ScaledTensor) -> np.ndarray:
    """Return an unscaled tensor as an array whose dtype says its format."""
    return as_native(tensor.data, tensor.format)


def vector_scale(scale: np.ndarray, layout: str = "mn_major_tma") -> torch.Tensor:
    """Return scales [..., rows, blocks] as a view of their MN-major, TMA-aligned buffer: FP32, or words of UE8M0."""
    rows = scale.shape[-2]
    dtype = np.float32 if layout == "mn_major_tma" else scale.dtype
    buffer = LAYOUTS[layout].pack(np.ascontiguousarray(scale, dtype))
    return on_device(buffer)[..., :rows].transpose(-1, -2)
