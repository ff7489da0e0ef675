"""Scales into the layouts that kernels require: what DeepGEMM's layout functions compute, as buffers.

A buffer is the memory itself, padding included: a strided view that a library returns is `buffer` transposed and cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dgref.arch import ARCHITECTURES
from dgref.errors import FormatError, InputError, ShapeError, UnsupportedError, expected, flag, shown, whole_number
from dgref.formats.layouts import LAYOUTS
from dgref.formats.layouts.elements import ue8m0_codes
from dgref.reference.grouped import psum_spans
from dgref.reference.operands import line_of_integers, operation, values

TMA_BYTES = 16
WORD_BLOCKS = 4  # scales in one packed word


def tma_aligned_size(extent: int, element_bytes: int) -> int:
    """Return an extent rounded up so that its bytes are a multiple of the 16 that TMA strides need."""
    if TMA_BYTES % whole_number("element_bytes", element_bytes, 1):
        raise InputError(expected("element_bytes", element_bytes, f"a divisor of {TMA_BYTES}"))
    unit = TMA_BYTES // element_bytes
    return -(-whole_number("extent", extent, 0) // unit) * unit


def contiguous_alignment(architecture: str = "sm90", expected_m: int | None = None) -> int:
    """Return the multiple that groups of rows or of K start at: DeepGEMM's theoretical alignment.

    Blackwell kernels shrink their tile from 224 rows, in steps of 32, while it still covers `expected_m`.
    """
    if not _is_blackwell(architecture):
        return 128
    if expected_m is None:
        return 224
    return min(max(-(-whole_number("expected_m", expected_m, 0) // 32) * 32, 32), 224)


def _is_blackwell(architecture: str) -> bool:
    """Return whether DeepGEMM's datacenter Blackwell rules hold: sm100 and its variants."""
    return ARCHITECTURES[architecture].name.startswith("sm10")


@operation
def scales_mn_major(scales: Any) -> np.ndarray:
    """Return float32 scales [..., mn, s] as the buffer [..., s, mn rounded up to 4]: MN-major, TMA aligned."""
    return LAYOUTS["mn_major_tma"].pack(_scales(scales))


@operation
def scales_packed(scales: Any, *, ends: Any = None, alignment: int = 128) -> np.ndarray:
    """Return powers of two [..., mn, s] as int32 words [..., ceil(s / 4), mn rounded up to 4] of UE8M0 bytes.

    With `ends`, rows belong to groups (a prefix sum); rows between groups are never read and their words are zero.
    A scale of +0, which padding rows of masked groups hold, packs to byte 0.
    """
    grid = _scales(scales)
    if ends is None:
        return LAYOUTS["packed_ue8m0"].pack(_exponents(grid))
    spans = list(psum_spans(ends, grid.shape[-2], alignment))
    codes = np.zeros(grid.shape, np.uint8)
    for span in spans:
        codes[..., span, :] = _exponents(grid[..., span, :])
    return LAYOUTS["packed_ue8m0_psum"].pack(codes, ends=[span.stop for span in spans], row_alignment=alignment)


@operation
def scales_packed_k_grouped(
    scales: Any, grouped_layout: Any, *, block: int = 128, psum: bool = False, alignment: int = 128
) -> np.ndarray:
    """Return powers of two [sum of ceil(K of g / block), mn] as int32 words [sum of ceil(blocks of g / 4), mn].

    `grouped_layout` holds the K of each group or, with `psum`, where each group ends. Every group starts a new row.
    """
    grid, block = _scales(scales), whole_number("block", block, 1)
    if grid.ndim != 2:
        raise ShapeError(expected("scales shape", list(grid.shape), "two axes [K blocks, mn]"))
    counts = [-(-length // block) for length in group_lengths(grouped_layout, psum, alignment)]
    if sum(counts) != grid.shape[0]:
        raise ShapeError(expected("scales shape", list(grid.shape), f"{sum(counts)} rows, one a block of every group"))
    return LAYOUTS["packed_ue8m0_k_grouped"].pack(_exponents(grid), extents=counts)


def group_lengths(layout: Any, psum: bool, alignment: int) -> list[int]:
    """Return the K of each group, from lengths or from running ends."""
    numbers = line_of_integers(layout, "grouped_layout", 0)
    if not flag("psum", psum):
        return [int(length) for length in numbers]
    whole = -(-int(numbers.max(initial=0)) // alignment) * alignment
    return [span.stop - span.start for span in psum_spans(numbers, whole, alignment)]


@operation
def scales_required(
    scales: Any,
    *,
    mn: int,
    k: int,
    block: Sequence[int],
    architecture: str = "sm90",
    keep_float32: bool = False,
    ends: Any = None,
    alignment: int = 128,
) -> np.ndarray:
    """Return scales in the layout that DeepGEMM's kernels require on an architecture, for blocks of (rows, K).

    Hopper, or `keep_float32`: (1, 128) becomes MN-major, (128, 128) stays. Blackwell: every scale becomes one UE8M0
    byte for each row, packed; int32 words that are packed already pass. Anything else is an error, as it is there.
    """
    if not isinstance(block, Sequence) or len(block) != 2:
        raise InputError(expected("block", shown(block), "two extents (rows, K)"))
    rows, columns = (whole_number("block", extent, 1) for extent in block)
    keep_float32 = flag("keep_float32", keep_float32)
    mn, k = whole_number("mn", mn, 0), whole_number("k", k, 0)
    packed = np.asarray(scales).dtype == np.int32
    grid = np.asarray(scales) if packed else _scales(scales)
    _check_grid(grid, mn, k, rows, columns * (WORD_BLOCKS if packed else 1))
    blackwell = _is_blackwell(architecture)
    if not packed and columns == 128 and (keep_float32 or not blackwell):
        if rows == 1:
            return scales_mn_major(grid)
        if rows == 128:
            return grid
    if blackwell and columns in (32, 128) and not keep_float32:
        if packed and rows == 1:
            return np.ascontiguousarray(np.swapaxes(grid, -1, -2))
        if not packed:
            return scales_packed(np.repeat(grid, rows, axis=-2)[..., :mn, :], ends=ends, alignment=alignment)
    got = f"{'packed ' if packed else ''}{grid.dtype} scales of {rows}x{columns} blocks"
    need = "1x128 or 128x128 float32 on Hopper; blocks of 32 or 128 along K on Blackwell"
    raise UnsupportedError(expected("scales", got, need, architecture))


def _check_grid(grid: np.ndarray, mn: int, k: int, rows: int, columns: int) -> None:
    need = (-(-mn // rows), -(-k // columns))
    if grid.ndim < 2 or grid.shape[-2:] != need:
        context = f"mn = {mn}, k = {k}, block {rows}x{columns}"
        raise ShapeError(expected("scales shape", list(grid.shape), f"[..., {need[0]}, {need[1]}]", context))


def _exponents(grid: np.ndarray) -> np.ndarray:
    """Return the UE8M0 byte of each scale; +0 is byte 0, and anything else that is no power of two an error."""
    unused = grid.view(np.uint32) == 0
    return np.where(unused, np.uint8(0), ue8m0_codes(np.where(unused, np.float32(1), grid)))


def _scales(scales: Any) -> np.ndarray:
    if getattr(scales, "dtype", None) == np.int32:
        raise FormatError(expected("scales", "int32", "float32 values"))
    return np.ascontiguousarray(values(scales, "scales"))
