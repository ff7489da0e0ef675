"""Scales in the layouts that kernels require, on either device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dgref import reference
from dgref.annotations import explained
from dgref.deep_gemm.arguments import Matrix, Vector
from dgref.deep_gemm.operands import check_integers, check_shape, integers
from dgref.deep_gemm.settings import SETTINGS, is_blackwell
from dgref.errors import (
    FormatError,
    InputError,
    LayoutError,
    ShapeError,
    UnsupportedError,
    expected,
    whole_number,
    whole_numbers,
)
from dgref.reference.scale_transforms import group_lengths


@explained
def get_tma_aligned_size(x: int, element_size: int) -> int:
    """Return an extent rounded up so that its bytes are a multiple of 16."""
    return reference.tma_aligned_size(x, element_size)


@explained
def get_mn_major_tma_aligned_tensor(sf: torch.Tensor) -> torch.Tensor:
    """Return float32 scales [..., mn, blocks] with mn contiguous and columns padded to 16 bytes; as they are, if so."""
    _check_scales(sf)
    if is_mn_major(sf):
        return sf
    return _rows_first(_pack_floats(sf), sf.shape[-2])


def is_mn_major(sf: torch.Tensor) -> bool:
    """Say whether scales lie as TMA reads them already."""
    along = (sf.shape[-2] + 3) // 4 * 4
    strides = sf.stride()
    return strides[-2] == 1 and strides[-1] == along and (len(strides) == 2 or strides[0] == along * sf.shape[-1])


@explained
def get_mn_major_tma_aligned_packed_ue8m0_tensor(sf: torch.Tensor, psum_layout: Vector | None = None) -> torch.Tensor:
    """Return float32 powers of two [..., mn, blocks] as int32 words [..., mn, ceil(blocks / 4)], mn contiguous.

    With `psum_layout`, the ends of groups of rows, words of rows between groups are 0.
    """
    _check_scales(sf)
    if psum_layout is not None:
        check_integers("psum_layout", psum_layout, (psum_layout.numel(),))
        if sf.dim() != 2:
            raise ShapeError(expected("sf shape", list(sf.shape), "[mn, blocks], with psum_layout"))
    return _rows_first(_pack_words(sf, psum_layout), sf.shape[-2])


@explained
def get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor(
    sf: Matrix,
    grouped_layout: Vector,
    ks_cpu: list[int] | None,
    gran_k: int,
    k_alignment: int,
    use_psum_layout: bool = False,
) -> torch.Tensor:
    """Return float32 powers of two [K blocks, mn] as int32 words; every group of K starts a new row of words.

    With `use_psum_layout` there may be more scales than the groups have, and there are as many rows of words as
    `ks_cpu` asks for, or without it as the groups may need at most: what is left over is zero. It then reads where the
    groups end, which waits for the GPU.
    """
    if sf.dim() != 2 or sf.dtype != torch.float32 or not sf.is_contiguous():
        raise FormatError(expected("sf", f"{sf.dtype} {list(sf.shape)}", "contiguous torch.float32 [K blocks, mn]"))
    if not ks_cpu and not use_psum_layout:
        raise InputError(expected("ks_cpu", ks_cpu, "the K of every group, unless use_psum_layout"))
    whole_number("k_alignment", k_alignment, 1)
    ks_cpu = None if ks_cpu is None else whole_numbers("ks_cpu", ks_cpu)
    if not use_psum_layout:
        check_integers("grouped_layout", grouped_layout, (len(ks_cpu),))
        if not sf.is_cuda and list(ks_cpu) != grouped_layout.tolist():
            raise InputError(expected("grouped_layout", grouped_layout.tolist(), f"{list(ks_cpu)}, as in ks_cpu"))
        return _pack_k_groups(sf, _blocks_of(ks_cpu, gran_k))
    lengths = group_lengths(integers("grouped_layout", grouped_layout.cpu()), True, k_alignment)
    counts = _blocks_of(lengths, gran_k)
    packed = _pack_k_groups(sf[: sum(counts)], counts)
    rows = _words_of(_blocks_of(ks_cpu, gran_k)) if ks_cpu else (len(sf) + 3 * len(counts)) // 4
    if rows < len(packed):
        raise InputError(expected("ks_cpu", list(ks_cpu), f"at least {lengths}, as in grouped_layout"))
    return torch.cat([packed, packed.new_zeros(rows - len(packed), sf.shape[1])])


def _blocks_of(lengths: Sequence[int], block: int) -> list[int]:
    width = whole_number("gran_k", block, 1)
    return [-(-length // width) for length in lengths]


def _words_of(counts: list[int]) -> int:
    return sum(-(-count // 4) for count in counts)


def _pack_k_groups(sf: torch.Tensor, counts: list[int]) -> torch.Tensor:
    if len(sf) != sum(counts):
        raise ShapeError(expected("sf shape", list(sf.shape), f"{sum(counts)} rows, one a block of every group"))
    if not sf.is_cuda:
        layout = np.asarray(counts, np.int32)
        return reference.scales_packed_k_grouped(sf, layout, block=1)
    from dgref.backends.cuda.scale_layouts import pack

    return pack("packed_ue8m0_k_grouped", sf, extents=counts)


@explained
def transform_sf_into_required_layout(
    sf: torch.Tensor,
    mn: int,
    k: int,
    recipe: tuple[int, ...],
    num_groups: int | None = None,
    is_sfa: bool | None = None,
    disable_ue8m0_cast: bool = False,
    psum_layout: Vector | None = None,
) -> torch.Tensor:
    """Return scales as the architecture's kernels read them: MN-major float32 on Hopper, packed UE8M0 on Blackwell.

    128x128 scales stay as they are on Hopper. The architecture is the GPU's, or what `configure` chose for the CPU.
    """
    rows, columns = _block(recipe, is_sfa)
    packed = sf.dtype == torch.int32
    per_word = 4 if packed else 1
    grid = (-(-mn // rows), -(-k // (columns * per_word)))
    lead = () if num_groups is None else (num_groups,)
    check_shape("sf", sf, (*lead, *grid), f"mn = {mn}, k = {k}, blocks of {rows}x{columns}")
    blackwell = is_blackwell(sf)
    if not packed and columns == 128 and (disable_ue8m0_cast or not blackwell):
        if rows == 1:
            return get_mn_major_tma_aligned_tensor(sf)
        if rows == 128:
            return sf
    if blackwell and columns in (32, 128) and not disable_ue8m0_cast:
        if packed and rows == 1:
            return _check_words(sf)
        if not packed:
            return get_mn_major_tma_aligned_packed_ue8m0_tensor(_broadcast(sf, mn, rows), psum_layout)
    got = f"{sf.dtype} scales of {rows}x{columns} blocks{', kept float32' if disable_ue8m0_cast else ''}"
    packing = "get_mn_major_tma_aligned_packed_ue8m0_tensor packs float32 of 1x32 blocks for either"
    need = f"1x128 or 128x128 float32 on Hopper; blocks of 32 or 128 along K on Blackwell; {packing}"
    raise UnsupportedError(expected("sf", got, need, "Blackwell" if blackwell else "Hopper"))


def _block(recipe: tuple[int, ...], is_sfa: bool | None) -> tuple[int, int]:
    if (len(recipe) == 3) != (is_sfa is not None):
        need = "a recipe of three numbers with is_sfa, or of two without"
        raise InputError(expected("recipe", f"{recipe} with is_sfa={is_sfa}", need))
    if len(recipe) not in (2, 3):
        raise InputError(expected("recipe", recipe, "two or three integers"))
    chosen = (recipe[0] if is_sfa else recipe[1], recipe[2]) if len(recipe) == 3 else recipe
    return whole_numbers("recipe", chosen, 1)


def _broadcast(sf: torch.Tensor, mn: int, rows: int) -> torch.Tensor:
    if rows == 1:
        return sf
    return sf.index_select(-2, torch.arange(mn, device=sf.device) // rows)


def _check_words(sf: torch.Tensor) -> torch.Tensor:
    if not is_mn_major(sf) and sf.shape[-2] > 1:
        raise LayoutError(expected("sf strides", sf.stride(), f"mn contiguous, columns padded to 4 [{list(sf.shape)}]"))
    return sf


def _check_scales(sf: torch.Tensor) -> None:
    if sf.dtype != torch.float32 or sf.dim() not in (2, 3):
        raise FormatError(expected("sf", f"{sf.dtype} {list(sf.shape)}", "torch.float32 [mn, K] or [groups, mn, K]"))


def _rows_first(buffer: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the view [..., rows, columns] of a buffer [..., columns, rows padded]."""
    return buffer[..., :rows].transpose(-1, -2)


def _pack_floats(sf: torch.Tensor) -> Any:
    if not sf.is_cuda:
        return reference.scales_mn_major(sf)
    from dgref.backends.cuda.scale_layouts import pack

    return pack("mn_major_tma", sf)


def _pack_words(sf: torch.Tensor, ends: torch.Tensor | None) -> Any:
    if not sf.is_cuda:
        numbers = None if ends is None else integers("psum_layout", ends)
        return reference.scales_packed(sf, ends=numbers, alignment=SETTINGS.alignment)
    from dgref.backends.cuda.scale_layouts import pack

    if ends is None:
        return pack("packed_ue8m0", sf)
    return pack("packed_ue8m0_psum", sf, ends=ends, row_alignment=SETTINGS.alignment)
