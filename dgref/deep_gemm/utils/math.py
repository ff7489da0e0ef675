"""Casts to scaled FP8 and FP4 and back, in torch operations that run on any device.

On the CPU the results are those of `dgref.quantize` under the recipes `deepseek_fp8*` and `mxfp4/deep_gemm`.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from dgref.annotations import explained
from dgref.deep_gemm.arguments import Matrix
from dgref.errors import FormatError, InputError, ShapeError, expected, whole_number

_FP8_MAX, _FP4_MAX = 448.0, 6.0
_AMAX_FLOOR = 1e-4  # DeepGEMM's own: a block of zeros gets a scale all the same
_FP4_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VALUES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_LARGEST_BLOCK = 1 << 20  # a block is filled up with zeros: a mistaken size must not fill the memory
_FP4_MIDPOINTS = tuple((low + high) / 2 for low, high in pairwise(_FP4_VALUES))


@explained
def ceil_div(x: int, y: int) -> int:
    """Return x / y rounded up."""
    if y == 0:
        raise InputError(expected("y", 0, "a number that is not zero"))
    return -(-x // y)


@explained
def align(x: int, y: int) -> int:
    """Return x rounded up to a multiple of y."""
    return ceil_div(x, y) * y


@explained
def ceil_to_ue8m0(x: torch.Tensor) -> torch.Tensor:
    """Return abs(x) rounded up to a power of two between 2^-126 and 2^127, as float32."""
    _values(x, axes=None)
    bits = x.abs().float().view(torch.int32)
    exponents = (bits >> 23) + ((bits & 0x7FFFFF) != 0)  # a sum of the bits would overflow for a NaN
    return (exponents.clamp(1, 254) << 23).view(torch.float32)


@explained
def pack_ue8m0_to_int(x: torch.Tensor) -> torch.Tensor:
    """Return float32 powers of two [..., s] as int32 words [..., s / 4] of UE8M0 bytes."""
    if x.dtype != torch.float32 or not x.dim() or x.shape[-1] % 4:
        raise FormatError(expected("scales", f"{x.dtype} {list(x.shape)}", "torch.float32, a multiple of 4 in a row"))
    bits = x.contiguous().view(torch.int32)
    if bool(((bits & 0x7FFFFF) != 0).any() or (bits < 0).any()):
        raise FormatError(expected("scales", "a value that is no power of two", "positive powers of two"))
    codes = (bits >> 23).to(torch.uint8)
    return codes.view(torch.int32) if x.numel() else bits.new_empty(*x.shape[:-1], x.shape[-1] // 4)


@explained
def unpack_ue8m0_from_int(packed_sf: torch.Tensor) -> torch.Tensor:
    """Return the float32 values of int32 words of UE8M0 bytes; byte 0 is 0, as DeepGEMM has it."""
    if packed_sf.dtype != torch.int32 or not packed_sf.dim():
        got = f"{packed_sf.dtype} {list(packed_sf.shape)}"
        raise FormatError(expected("packed_sf", got, "torch.int32 words, in one axis or more"))
    return (packed_sf.contiguous().view(torch.uint8).to(torch.int32) << 23).view(torch.float32)


@explained
def per_token_cast_to_fp8(
    x: torch.Tensor, use_ue8m0: bool, gran_k: int = 128, use_packed_ue8m0: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x[m, n] in E4M3 and a scale for every 1 x gran_k block."""
    _values(x, gran_k)
    codes, scales = _cast_blocks(x, (1, gran_k), use_ue8m0)
    return codes, pack_ue8m0_to_int(scales) if use_packed_ue8m0 else scales


@explained
def per_channel_cast_to_fp8(x: torch.Tensor, use_ue8m0: bool, gran_k: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x[m, n] in E4M3 and a scale for every gran_k x 1 block; m must be a multiple of gran_k."""
    _values(x, gran_k)
    if x.shape[0] % gran_k:
        raise ShapeError(expected("x shape", list(x.shape), f"a multiple of {gran_k} rows"))
    return _cast_blocks(x, (gran_k, 1), use_ue8m0)


@explained
def per_block_cast_to_fp8(x: torch.Tensor, use_ue8m0: bool, gran_k: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x[m, n] in E4M3 and a scale for every gran_k x gran_k block."""
    _values(x, gran_k)
    return _cast_blocks(x, (gran_k, gran_k), use_ue8m0)


@explained
def per_custom_dims_cast_to_fp8(
    x: torch.Tensor, dims: tuple[int, ...], use_ue8m0: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x in E4M3 and one scale for each index into `dims`."""
    _values(x, axes=None)
    kept = {whole_number("dims", axis, -x.dim(), x.dim() - 1) % x.dim() for axis in dims}
    shared = tuple(axis for axis in range(x.dim()) if axis not in kept)
    scales = _scales(x, shared, _FP8_MAX, use_ue8m0)
    return (x * (1.0 / scales)).to(torch.float8_e4m3fn), scales.squeeze()


@explained
def per_token_cast_to_fp4(
    x: torch.Tensor, use_ue8m0: bool, gran_k: int = 128, use_packed_ue8m0: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x[m, n] in E2M1, two codes a byte with the even one low, and a scale for every 1 x gran_k block.

    Ties go toward zero and a code of zero has no sign. Packed scales are filled up to whole words with 1.0.
    """
    _values(x, gran_k)
    if x.shape[1] % 2 or (use_packed_ue8m0 and not use_ue8m0):
        got = f"{list(x.shape)}, use_ue8m0={use_ue8m0}"
        raise ShapeError(expected("x shape", got, "an even number of columns, and use_ue8m0 with packed scales"))
    blocks = _in_blocks(x, (1, gran_k))
    scales = _scales(blocks, (1, 3), _FP4_MAX, use_ue8m0)
    codes = _fp4_codes(blocks * (1.0 / scales)).flatten(2).flatten(0, 1)[:, : x.shape[1]]
    packed, scales = (codes[:, 0::2] | codes[:, 1::2] << 4).view(torch.int8), scales[:, 0, :, 0]
    if not use_packed_ue8m0:
        return packed, scales
    filled = torch.nn.functional.pad(scales, (0, -scales.shape[1] % 4), value=1.0)
    return packed, pack_ue8m0_to_int(filled)


@explained
def transpose_packed_fp4(a: torch.Tensor) -> torch.Tensor:
    """Return the transpose of a matrix of packed E2M1 codes, packed along its own rows."""
    if a.dtype != torch.int8 or a.dim() != 2 or a.shape[0] % 2:
        raise FormatError(expected("a", f"{a.dtype} {list(a.shape)}", "torch.int8 [m, n / 2] with an even m"))
    codes = _unpacked_codes(a).t()
    return (codes[:, 0::2] | codes[:, 1::2] << 4).contiguous().view(torch.int8)


@explained
def cast_back_from_fp4(packed: Matrix, sf: Matrix, gran_k: int = 128, use_packed_ue8m0: bool = False) -> torch.Tensor:
    """Return the float32 values of packed E2M1 codes [m, n / 2] under their scales."""
    whole_number("gran_k", gran_k, 1, _LARGEST_BLOCK)
    if packed.dtype not in (torch.int8, torch.uint8) or packed.dim() != 2:
        raise FormatError(expected("packed", f"{packed.dtype} {list(packed.shape)}", "torch.int8 [m, n / 2]"))
    codes = _unpacked_codes(packed).long()
    magnitudes = torch.tensor(_FP4_VALUES, device=packed.device)[codes & 7]
    values = torch.where(codes > 8, -magnitudes, magnitudes)
    scales = unpack_ue8m0_from_int(sf) if use_packed_ue8m0 else sf
    if scales.dtype != torch.float32:
        raise FormatError(expected("sf", sf.dtype, "torch.float32, or torch.int32 words with use_packed_ue8m0"))
    if scales.shape[0] != values.shape[0] or scales.shape[1] * gran_k < values.shape[1]:
        need = [values.shape[0], ceil_div(values.shape[1], gran_k)]
        raise ShapeError(expected("sf shape", list(scales.shape), f"at least {need}, one for each {gran_k}"))
    return values * scales.repeat_interleave(gran_k, dim=1)[:, : values.shape[1]]


def _values(x: torch.Tensor, gran_k: int = 1, axes: int | None = 2) -> None:
    """Raise unless a cast can read these values in blocks of `gran_k`."""
    if x.dtype not in _VALUES:
        raise FormatError(expected("x", x.dtype, " or ".join(map(str, _VALUES))))
    if axes is not None and x.dim() != axes:
        raise ShapeError(expected("x shape", list(x.shape), "two axes"))
    whole_number("gran_k", gran_k, 1, _LARGEST_BLOCK)


def _cast_blocks(x: torch.Tensor, block: tuple[int, int], use_ue8m0: bool) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = _in_blocks(x, block)
    scales = _scales(blocks, (1, 3), _FP8_MAX, use_ue8m0)
    codes = (blocks * (1.0 / scales)).to(torch.float8_e4m3fn)
    whole = codes.view(torch.uint8).flatten(2).flatten(0, 1)[: x.shape[0], : x.shape[1]]
    return whole.contiguous().view(torch.float8_e4m3fn), scales[:, 0, :, 0]


def _in_blocks(x: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """Return x as [row blocks, rows of one, column blocks, columns of one], filled up with zeros."""
    rows, columns = block
    missing = (0, -x.shape[1] % columns, 0, -x.shape[0] % rows)
    whole = torch.nn.functional.pad(x, missing) if any(missing) else x
    return whole.reshape(whole.shape[0] // rows, rows, whole.shape[1] // columns, columns)


def _scales(x: torch.Tensor, axes: tuple[int, ...], largest: float, use_ue8m0: bool) -> torch.Tensor:
    if not x.numel():
        return torch.ones([1 if axis in axes else size for axis, size in enumerate(x.shape)], device=x.device)
    quotient = x.abs().float().amax(dim=axes, keepdim=True).clamp(_AMAX_FLOOR) / largest
    return ceil_to_ue8m0(quotient) if use_ue8m0 else quotient


def _fp4_codes(x: torch.Tensor) -> torch.Tensor:
    midpoints = torch.tensor(_FP4_MIDPOINTS, device=x.device, dtype=x.dtype)
    codes = torch.bucketize(x.abs().contiguous(), midpoints).to(torch.uint8)  # a tie belongs to the interval below it
    codes.masked_fill_(x.isnan(), 0)  # as DeepGEMM has it: a NaN is above no midpoint
    return codes | ((x < 0) & (codes != 0)).to(torch.uint8) << 3


def _unpacked_codes(packed: torch.Tensor) -> torch.Tensor:
    pairs = packed.contiguous().view(torch.uint8)
    return torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten(-2)


__all__ = [
    "align",
    "cast_back_from_fp4",
    "ceil_div",
    "ceil_to_ue8m0",
    "pack_ue8m0_to_int",
    "per_block_cast_to_fp8",
    "per_channel_cast_to_fp8",
    "per_custom_dims_cast_to_fp8",
    "per_token_cast_to_fp4",
    "per_token_cast_to_fp8",
    "transpose_packed_fp4",
    "unpack_ue8m0_from_int",
]
