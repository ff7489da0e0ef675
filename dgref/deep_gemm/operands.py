"""How DeepGEMM's arguments are read: torch tensors and their scales, as what the references take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dgref.annotations import kind_of
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
    shown,
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


def pair(name: str, operand: Any, scales: str = "scales") -> tuple[torch.Tensor, Any]:
    """Return the payload and the scales of an operand; `scales` says what these may be."""
    if type(operand) is tuple and len(operand) == 2:
        return operand  # as nearly always, and launches pay for each line here
    if not isinstance(operand, tuple | list) or len(operand) != 2:
        raise FormatError(expected(name, kind_of(operand), f"a tuple (tensor, {scales})"))
    return operand[0], operand[1]


def blocks(recipe: Any, recipe_a: Any, recipe_b: Any, packed: bool) -> tuple[Block, Block]:
    """Return the (rows, K) block of each operand's scales, from whichever recipe was given.

    Without one: 1x128 by 128x128, or by 1x128 where b's scales are packed words.
    """
    if recipe is None and recipe_a is None and recipe_b is None:
        return ((1, 128), (1, 128)) if packed else ((1, 128), (128, 128))
    recipe, recipe_a, recipe_b = checked_recipes(recipe, recipe_a, recipe_b)
    if (recipe_a is None) != (recipe_b is None) or (recipe is None) == (recipe_a is None):
        got = f"recipe={recipe}, recipe_a={recipe_a}, recipe_b={recipe_b}"
        raise InputError(expected("recipes", got, "recipe alone, or recipe_a and recipe_b together"))
    if recipe is not None:
        rows_a, rows_b, depth = recipe
        return (rows_a, depth), (rows_b, depth)
    return recipe_a, recipe_b


def checked_recipes(recipe: Any, recipe_a: Any = None, recipe_b: Any = None) -> tuple[tuple[int, ...] | None, ...]:
    """Return a recipe and one for each operand, each as integers or None; what is neither is an error."""
    named = (("recipe", recipe, 3), ("recipe_a", recipe_a, 2), ("recipe_b", recipe_b, 2))
    return tuple(None if given is None else _checked(name, given, count) for name, given, count in named)


def _checked(name: str, given: Any, count: int) -> tuple[int, ...]:
    numbers = whole_numbers(name, given, 1) if isinstance(given, Sequence | np.ndarray | torch.Tensor) else ()
    if len(numbers) != count:
        raise FormatError(expected(name, shown(given), f"{count} integers"))
    return numbers


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


def payloads(
    a: torch.Tensor,
    b: torch.Tensor,
    formats: tuple[str, ...] = (FP8, FP4),
    axes: tuple[int, int] = (2, 2),
    forms: str = "",
) -> tuple[ScaledTensor, ScaledTensor]:
    """Return the codes of both operands, which must have one K: what scales they need follows from it."""
    left, right = payload("a", a, formats, axes[0]), payload("b", b, formats, axes[1])
    check_depth(left, right, forms)
    return left, right


def with_scales(
    name: str, plain: ScaledTensor, scales: Any, block: Block, float32: bool | None = None, used: Any = None
) -> ScaledTensor:
    """Return a payload with its scales, one for each `block`.

    FP32 scales stay as they are on Hopper and become UE8M0 on Blackwell (`float32` overrides); int32 words hold four
    UE8M0 bytes. `used` says which rows must have scales that are powers of two: padding holds anything.
    """
    grid, hint = Scaling(block).grid(plain.shape), _fitting(scales, plain, block)
    if holds_words(name, scales):
        codes = unpacked(f"{name} scales", scales, grid, block, hint)
        return replace(plain, scale=codes, scaling=Scaling(block, UE8M0))
    why = f"one for each {block[0]}x{block[1]} block of {list(plain.shape)}{hint}"
    check_shape(f"{name} scales", scales, grid, why)
    return with_float_scales(name, plain, scales, block, float32, used)


def holds_words(name: str, scales: torch.Tensor) -> bool:
    """Return whether scales are packed in words; FP32 is all else that they may be, whatever their shape."""
    if scales.dtype not in (torch.float32, torch.int32):
        need = "torch.float32, or torch.int32 words of four UE8M0 bytes"
        raise FormatError(expected(f"{name} scales", scales.dtype, need))
    return scales.dtype == torch.int32


def _fitting(scales: torch.Tensor, plain: ScaledTensor, block: Block) -> str:
    """Return the end of a message about scales of a wrong shape: what they would fit, if there is anything."""
    shape, words, hint = tuple(scales.shape), scales.dtype == torch.int32, ""
    halved = (*plain.shape[:-1], plain.shape[-1] // 2)
    if plain.format == FP4 and shape == _shape_of_scales(halved, block, words):
        hint += f"; {BYTES_ARE_CODES}"
    if not words and block[0] == 1 and shape == _shape_of_scales(plain.shape, block, True):
        hint += "; words of four UE8M0 bytes would fit: .view(torch.int32) makes words of them"
    for known in KNOWN_BLOCKS:
        if shape == _shape_of_scales(plain.shape, known, words) and (known[0] == 1 or not words):
            return f"{hint}; these fit {known[0]}x{known[1]} blocks: say so in the recipe"
    return hint


def _shape_of_scales(shape: tuple[int, ...], block: Block, words: bool) -> tuple[int, ...]:
    """Return the shape of scales, or of the words that hold four of them each."""
    *lines, columns = Scaling(block).grid(shape)
    return (*lines, -(-columns // 4) if words else columns)


def with_float_scales(
    name: str, plain: ScaledTensor, scales: Any, block: Block, float32: bool | None = None, used: Any = None
) -> ScaledTensor:
    """Return a payload with FP32 scales, as they are or as the UE8M0 codes that Blackwell makes of them."""
    values = to_numpy(scales.detach(), f"{name} scales")
    if SETTINGS.architecture == "sm90" if float32 is None else float32:
        return replace(plain, scale=values, scaling=Scaling(block))
    return replace(plain, scale=exponents(values, used), scaling=Scaling(block, UE8M0))


def unpacked(subject: str, words: torch.Tensor, grid: tuple[int, ...], block: Block, hint: str = "") -> np.ndarray:
    """Return the UE8M0 codes of words [..., rows, ceil(blocks / 4)]."""
    if words.dtype != torch.int32:
        raise FormatError(expected(subject, words.dtype, "torch.int32 words of four UE8M0 bytes"))
    if block[0] != 1:
        raise FormatError(expected(subject, f"packed words for {block[0]}x{block[1]} blocks", "one row for each block"))
    check_shape(subject, words, (*grid[:-1], -(-grid[-1] // 4)), f"four of {list(grid)} in each word{hint}")
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


def check_depth(a: ScaledTensor, b: ScaledTensor, forms: str = "") -> None:
    """Raise unless a[..., m, k] and b[..., n, k] have one K; say so where one looks transposed, or is bytes of FP8.

    `forms` says which functions take transposed operands, where there are some.
    """
    (m, k), (n, depth) = a.shape[-2:], b.shape[-2:]
    if k == depth:
        return
    turned = " or ".join(name for name, fits in (("a", m == depth), ("b", n == k)) if fits)
    hints = [f"{turned} looks transposed{forms}"] if turned else []
    name, wider = ("a", a) if k > depth else ("b", b)
    if wider.format == FP4 and max(k, depth) == 2 * min(k, depth):
        hints.append(f"{name} looks like FP8: {BYTES_ARE_CODES}")
    raise ShapeError(expected("b", f"k = {depth}", f"k = {k}, as in a", "; ".join(hints)))


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
