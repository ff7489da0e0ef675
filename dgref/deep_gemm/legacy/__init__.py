"""DeepGEMM's first kernels for Ampere (BF16, in Triton), under their names: here the references compute them."""

from __future__ import annotations

import numpy as np
import torch

from dgref import reference
from dgref.annotations import explained
from dgref.deep_gemm.arguments import Matrix, Stack, Vector
from dgref.deep_gemm.grouped import m_grouped_bf16_gemm_nn_contiguous, m_grouped_bf16_gemm_nt_contiguous
from dgref.deep_gemm.operands import BF16, integers, no_kernel, output_format, payload, write
from dgref.deep_gemm.settings import SETTINGS
from dgref.errors import FormatError, InputError, expected
from dgref.reference.operands import take_columns


@explained
def m_grouped_bf16_gemm_nt_contiguous_tl(a: Matrix, b: Stack, d: Matrix, m_indices: Vector) -> None:
    """Write a[i] @ b[m_indices[i]].T into d[i]; -1 marks padding, which becomes zero."""
    m_grouped_bf16_gemm_nt_contiguous(a, b, d, m_indices)


@explained
def m_grouped_bf16_gemm_nn_contiguous_tl(a: Matrix, b: Stack, d: Matrix, m_indices: Vector) -> None:
    """Write a[i] @ b[m_indices[i]] into d[i]; -1 marks padding, which becomes zero."""
    m_grouped_bf16_gemm_nn_contiguous(a, b, d, m_indices)


@explained
def a_fused_m_grouped_bf16_gemm_nt_contiguous_tl(
    a: Matrix, b: Stack, d: Matrix, mappings: tuple[Vector, Vector]
) -> None:
    """Write a[rows[i]] @ b[labels[i]].T into d[i], for `mappings` (labels, rows)."""
    labels, rows = mappings
    m_grouped_bf16_gemm_nt_contiguous(_gathered(a, rows), b, d, labels)


@explained
def a_fused_m_grouped_bf16_gemm_nn_contiguous_tl(
    a: Matrix, b: Stack, d: Matrix, mappings: tuple[Vector, Vector]
) -> None:
    """Write a[rows[i]] @ b[labels[i]] into d[i], for `mappings` (labels, rows)."""
    labels, rows = mappings
    m_grouped_bf16_gemm_nn_contiguous(_gathered(a, rows), b, d, labels)


@explained
def a_fused_k_grouped_bf16_gemm_tn_contiguous_tl(
    a: Matrix, b: Matrix, d: Stack, handle: tuple[Vector, Vector, Vector], acc: bool
) -> None:
    """Write a[rows].T @ b over each group of K into d[g], for `handle` (rows, starts, ends); with `acc`, add to it."""
    rows, starts, ends = handle
    _k_grouped(_gathered(a, rows), b, d, starts, ends, acc)


@explained
def b_fused_k_grouped_bf16_gemm_tn_contiguous_tl(
    a: Matrix, b: Matrix, d: Stack, handle: tuple[Vector, Vector, Vector], acc: bool
) -> None:
    """Write a.T @ b[rows] over each group of K into d[g], for `handle` (rows, starts, ends); with `acc`, add to it."""
    rows, starts, ends = handle
    _k_grouped(a, _gathered(b, rows), d, starts, ends, acc)


def _gathered(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return rows in another order; a row of -1 is padding, and zero."""
    numbers = integers("rows", rows) if not rows.is_cuda else None
    if numbers is not None and numbers.max(initial=-1) >= len(tensor):
        raise InputError(expected("rows", int(numbers.max()), f"indices below {len(tensor)}, or -1 for padding"))
    if tensor.dtype != torch.bfloat16:
        raise FormatError(expected("the gathered operand", tensor.dtype, "torch.bfloat16"))
    chosen = tensor[rows.long().clamp(min=0)]
    return chosen.masked_fill_((rows < 0)[:, None], 0)


def _k_grouped(a: torch.Tensor, b: torch.Tensor, d: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor, acc: bool):
    if d.is_cuda:
        raise no_kernel()
    left, right = payload("a", a.t(), (BF16,)), payload("b", b.t(), (BF16,))
    out, arithmetic = output_format("d", d), SETTINGS.arithmetic_of("bf16")
    groups = (d.shape[0],)
    spans = zip(integers("starts", starts, groups), integers("ends", ends, groups), strict=True)
    parts = []
    for group, (start, end) in enumerate(spans):
        part = [take_columns(t, slice(int(start), int(end)), slice(None)) for t in (left, right)]
        seed = d[group].detach().float().numpy() if acc else None
        parts.append(reference.gemm(*part, seed, arithmetic=arithmetic, out=out))
    write(d, np.stack(parts))


__all__ = [
    "a_fused_k_grouped_bf16_gemm_tn_contiguous_tl",
    "a_fused_m_grouped_bf16_gemm_nn_contiguous_tl",
    "a_fused_m_grouped_bf16_gemm_nt_contiguous_tl",
    "b_fused_k_grouped_bf16_gemm_tn_contiguous_tl",
    "m_grouped_bf16_gemm_nn_contiguous_tl",
    "m_grouped_bf16_gemm_nt_contiguous_tl",
]
