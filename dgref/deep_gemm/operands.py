"""How DeepGEMM's arguments are read: torch tensors and their scales, as what the references take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dgref.deep_gemm.arguments import Block
from dgref.deep_gemm.settings import SETTINGS
from dgref.errors import (
    FormatError,
    InputError,
    LayoutError,
    ShapeError,
    UnsupportedError,
    counted,
    expected,
    whole_numbers,
)
from dgref.formats.layouts.elements import ue8m0_codes
from dgref.formats.native import as_codes, like, to_numpy
from dgref.formats.packing import unpack
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor

FP8, FP4, BF16 = "float8_e4m3fn", "float4_e2m1fn", "bfloat16"
FORMAT_OF = {
    torch.float8_e4m3fn: FP8,
    torch.int8: FP4,  # two codes a byte: DeepGEMM's own spelling
    torch.uint8: FP4,
    torch.bfloat16: BF16,
    torch.float32: "float32",
}
if hasattr(torch, "float4_e2m1fn_x2"):
    FORMAT_OF[torch.float4_e2m1fn_x2] = FP4
OUTPUTS = {torch.bfloat16: "bfloat16", torch.float32: "float32"}
UE8M0 = "float8_e8m0fnu"
BYTES_ARE_CODES = (
    "uint8 and int8 are read as packed FP4, two codes to a byte: .view(torch.float8_e4m3fn) makes FP8 of them"
)
KNOWN_BLOCKS = ((1, 128), (128, 128), (1, 32), (1, 64), (1, 16))


def pair(name: str, operand: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the payload and the scales of an operand that must have both."""
    if not isinstance(operand, tuple | list) or len(operand) != 2:
        raise FormatError(expected(name, type(operand).__name__, "a tuple (tensor, scales)"))
    return operand[0], operand[1]


def blocks(recipe: Any, recipe_a: Any, recipe_b: Any, packed: bool) -> tuple[Block, Block]:
    """Return the (rows, K) block of each operand's scales, from whichever recipe was given.

    Without one: 1x128 by 128x128, or by 1x128 where b's scales are packed words.
    """
    if recipe is None and recipe_a is None and recipe_b is None:
        return ((1, 128), (1, 128)) if packed else ((1, 128), (128, 128))
    if (recipe_a is None) != (recipe_b is None) or (recipe is None) == (recipe_a is None):
        got = f"recipe={recipe}, recipe_a={recipe_a}, recipe_b={recipe_b}"
        raise InputError(expected("recipes", got, "recipe alone, or recipe_a and recipe_b together"))
    if recipe is not None:
        rows_a, rows_b, depth = recipe
        return (rows_a, depth), (rows_b, depth)
    return tuple(recipe_a), tuple(recipe_b)


def payload(name: str, tensor: torch.Tensor, formats: tuple[str, ...], axes: int = 2) -> ScaledTensor:
    """Return the codes of a tensor [..., rows, k], whichever of its last two axes is contiguous."""
    found = FORMAT_OF.get(tensor.dtype)
    if found not in formats:
        need = " or ".join(str(dtype) for dtype, format in FORMAT_OF.items() if format in formats)
        raise FormatError(expected(name, tensor.dtype, need))
    if tensor.dim() != axes:
        raise ShapeError(expected(f"{name} shape", list(tensor.shape), counted(axes, "axis")))
    if tensor.numel() and 1 not in tensor.stride()[-2:] and 1 not in tensor.shape[-2:]:
        raise LayoutError(expected(f"{name} strides", tensor.stride(), "rows or columns that are contiguous"))
    if found != FP4:
        return ScaledTensor(as_codes(to_numpy(tensor.detach(), name)), found)
    packed_rows = axes > 1 and tensor.stride(-1) != 1 and tensor.stride(-2) == 1
    return ScaledTensor(unpack(to_numpy(tensor.detach(), name), FP4, axis=-2 if packed_rows else -1), FP4)


def scaled(
    name: str,
    operand: tuple[torch.Tensor, torch.Tensor],
    block: Block,
    *,
    axes: int = 2,
    float32: bool | None = None,
    used: Any = None,
) -> ScaledTensor:
    """Return an operand with its scales, one for each `block`.

    FP32 scales stay as they are on Hopper and become UE8M0 on Blackwell (`float32` overrides); int32 words hold four
    UE8M0 bytes. `used` says which rows must have scales that are powers of two: padding holds anything.
    """
    plain = payload(name, operand[0], (FP8, FP4), axes)
    return with_scales(name, plain, operand[1], block, float32, used)


def with_scales(
    name: str, plain: ScaledTensor, scales: Any, block: Block, float32: bool | None = None, used: Any = None
) -> ScaledTensor:
    """Return a payload with scales of torch float32 or packed int32 words."""
    block = whole_numbers("recipe", block, 1)
    grid = Scaling(block).grid(plain.shape)
    if scales.dtype == torch.int32:
        return replace(plain, scale=unpacked(f"{name} scales", scales, grid, block), scaling=Scaling(block, UE8M0))
    hint = _bytes_meant(scales, plain, block) or _fitting(scales, plain)
    why = f"one for each {block[0]}x{block[1]} block of {list(plain.shape)}{hint}"
    check_shape(f"{name} scales", scales, grid, why)
    return with_float_scales(name, plain, scales, block, float32, used)


def _fitting(scales: torch.Tensor, plain: ScaledTensor) -> str:
    """Return the end of a message about scales of a wrong shape: the blocks that they would fit, if there are any."""
    for rows, columns in KNOWN_BLOCKS:
        if tuple(scales.shape) == Scaling((rows, columns)).grid(plain.shape):
            return f"; these fit {rows}x{columns} blocks: say so in the recipe"
    return ""


def _bytes_meant(scales: torch.Tensor, plain: ScaledTensor, block: Block) -> str:
    """Return the same end where scales would fit bytes of FP8 that were read as two codes of FP4 each."""
    if plain.format == FP4 and tuple(scales.shape) == Scaling(block).grid((*plain.shape[:-1], plain.shape[-1] // 2)):
        return f"; {BYTES_ARE_CODES}"
    return ""


def with_float_scales(
    name: str, plain: ScaledTensor, scales: Any, block: Block, float32: bool | None = None, used: Any = None
) -> ScaledTensor:
    """Return a payload with FP32 scales, as they are or as the UE8M0 codes that Blackwell makes of them."""
    if scales.dtype != torch.float32:
        need = "torch.float32, or torch.int32 words of four UE8M0 bytes"
        raise FormatError(expected(f"{name} scales", scales.dtype, need))
    values = to_numpy(scales.detach(), f"{name} scales")
    if SETTINGS.architecture == "sm90" if float32 is None else float32:
        return replace(plain, scale=values, scaling=Scaling(block))
    return replace(plain, scale=exponents(values, used), scaling=Scaling(block, UE8M0))


def unpacked(subject: str, words: torch.Tensor, grid: tuple[int, ...], block: Block) -> np.ndarray:
    """Return the UE8M0 codes of words [..., rows, ceil(blocks / 4)]."""
    if words.dtype != torch.int32:
        raise FormatError(expected(subject, words.dtype, "torch.int32 words of four UE8M0 bytes"))
    if block[0] != 1:
        raise FormatError(expected(subject, f"packed words for {block[0]}x{block[1]} blocks", "one row for each block"))
    check_shape(subject, words, (*grid[:-1], -(-grid[-1] // 4)), f"four of {list(grid)} in each word")
    held = np.ascontiguousarray(to_numpy(words.detach(), subject))
    return held[..., None].view(np.uint8).reshape(*words.shape[:-1], 4 * words.shape[-1])[..., : grid[-1]]


def exponents(values: np.ndarray, used: Any = None) -> np.ndarray:
    """Return the UE8M0 codes of powers of two; +0, which padding holds, is code 0, and rows not `used` are not read."""
    skipped = values == 0
    if used is not None:
        skipped = skipped | ~np.asarray(used, bool)[..., None]
    return np.where(skipped, np.uint8(0), ue8m0_codes(np.where(skipped, np.float32(1), values)))


def product_kind(*operands: ScaledTensor) -> str:
    """Return the kind of product whose arithmetic these operands are added under."""
    if all(operand.scale is None for operand in operands):
        return "bf16" if operands[0].format == BF16 else "bare_fp8"
    if all(operand.scaling.block[1] % 128 == 0 for operand in operands):
        return "fp8"
    first, last = operands[0].scaling, operands[-1]
    powers = last.format == FP4 and last.scaling.scale_format == UE8M0
    return "folded" if powers and first.block[1] % 128 == 0 and first.scale_format != UE8M0 else "fine"


def output_format(name: str, d: torch.Tensor) -> str:
    """Return the format of an output tensor, whose columns must be contiguous."""
    if d.dtype not in OUTPUTS:
        raise FormatError(expected(name, d.dtype, " or ".join(map(str, OUTPUTS))))
    if d.stride(-1) != 1 and d.shape[-1] > 1:
        raise LayoutError(expected(f"{name} strides", d.stride(), "contiguous columns"))
    check_writable(name, d)
    return OUTPUTS[d.dtype]


def check_writable(name: str, d: torch.Tensor) -> None:
    """Raise unless an output is on the CPU and every element of it has memory of its own."""
    if d.device.type != "cpu":
        raise InputError(expected(name, f"a tensor on {d.device}", "a CPU tensor, or all tensors on one GPU"))
    if _overlaps(d):
        kind = "expanded" if 0 in d.stride() else "overlapping"
        need = f"memory for each element: this is an {kind} view"
        raise LayoutError(expected(f"{name} strides", d.stride(), need))


def _overlaps(d: torch.Tensor) -> bool:
    """Return whether two elements lie at one address: never where each stride is beyond what smaller ones reach."""
    axes = sorted((stride, extent) for stride, extent in zip(d.stride(), d.shape, strict=True) if extent > 1)
    reach = 0
    for stride, extent in axes if d.numel() else ():
        if stride <= reach:
            return _distinct_addresses(d) < d.numel()
        reach += stride * (extent - 1)
    return False


def _distinct_addresses(d: torch.Tensor) -> int:
    addresses = np.zeros(1, np.int64)
    for stride, extent in zip(d.stride(), d.shape, strict=True):
        addresses = np.unique(addresses[:, None] + np.arange(extent) * stride)
    return addresses.size


def start_values(c: torch.Tensor | None, d: torch.Tensor) -> np.ndarray | None:
    """Return what a product starts from as an array; it must match d."""
    if c is None:
        return None
    if c.dtype != d.dtype or c.shape != d.shape:
        raise FormatError(expected("c", f"{c.dtype} {list(c.shape)}", f"{d.dtype} {list(d.shape)}, as d"))
    return to_numpy(c.detach(), "c")


def integers(name: str, tensor: torch.Tensor, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return an int32 index tensor as an array."""
    check_integers(name, tensor, shape)
    return to_numpy(tensor, name)


def check_integers(name: str, tensor: torch.Tensor, shape: tuple[int, ...] | None = None) -> None:
    """Raise unless a tensor is one of indices, whatever it holds: to look would wait for a GPU."""
    if tensor.dtype != torch.int32 or not tensor.is_contiguous():
        got = f"{tensor.dtype}{'' if tensor.is_contiguous() else ', not contiguous'}"
        raise FormatError(expected(name, got, "contiguous torch.int32"))
    if shape is not None:
        check_shape(name, tensor, shape)


def check_shape(name: str, tensor: torch.Tensor, need: tuple[int, ...], why: str = "") -> None:
    """Raise unless a tensor has this shape; one that would have it with two axes swapped is said to be transposed."""
    shape = tuple(tensor.shape)
    if shape == tuple(need):
        return
    if len(shape) > 1 and (*shape[:-2], shape[-1], shape[-2]) == tuple(need):
        why += f"{'; ' if why else ''}this one is transposed"
    raise ShapeError(expected(f"{name} shape", list(shape), list(need), why))


def check_product(a: ScaledTensor, b: ScaledTensor, d: torch.Tensor | None = None) -> None:
    """Raise unless a[m, k], b[n, k] and, where given, d[m, n] fit; say so where an operand looks transposed."""
    (m, k), (n, depth) = a.shape, b.shape
    if k != depth:
        turned = "a" if m == depth else "b" if n == k else ""
        hint = f"{turned} looks transposed: nt, nn, tn and tt are names for that" if turned else ""
        raise ShapeError(expected("b", f"k = {depth}", f"k = {k}, as in a", hint))
    if d is not None:
        check_shape("d", d, (m, n), "[m, n] of a and b")


def check_output(d: torch.Tensor, result: np.ndarray) -> None:
    """Raise unless an output tensor has the shape of its result."""
    check_shape("d", d, result.shape)


def write(d: torch.Tensor, result: np.ndarray, where: Any = None) -> None:
    """Write a result into an output tensor in place; `where` picks the leading indices that a kernel writes."""
    check_output(d, result)
    fresh, held = like(result, d), d.detach()
    if where is None:
        held.copy_(fresh)
        return
    chosen = torch.from_numpy(np.asarray(where, bool))
    held[chosen] = fresh[chosen]


def no_kernel(why: str = "") -> UnsupportedError:
    """Return the error of a call on CUDA tensors that no kernel of ours serves."""
    from dgref.deep_gemm.settings import device_architecture

    need = why or "tensors on the CPU: no kernel of dgref's computes this yet"
    return UnsupportedError(expected("tensors", f"CUDA tensors on {device_architecture()}", need))
