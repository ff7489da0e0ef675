"""Grouped GEMM on Hopper: rows of groups in one A (contiguous), a stack with row counts (masked), groups of K."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dgref.annotations import explained
from dgref.backends.cuda import group_contract
from dgref.backends.cuda.launch import WHOLE_CARD, Resources
from dgref.backends.cuda.sm90 import operands as read
from dgref.backends.cuda.sm90.configuration import configuration
from dgref.backends.cuda.sm90.gemm import destination
from dgref.backends.cuda.sm90.launch import available, prepare, repeatable
from dgref.backends.cuda.sm90.nothing import add_nothing, zero_ended, zero_labelled, zero_masked
from dgref.backends.cuda.sm90.pair import Pair, check_formats, meant, pair_of, scales_of
from dgref.backends.cuda.sm90.shape import Configuration, Shape
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import (
    FormatError,
    InputError,
    LayoutError,
    ShapeError,
    UnsupportedError,
    expected,
    flag,
    whole_number,
    whole_numbers,
)

if TYPE_CHECKING:
    import torch


@explained
def gemm_grouped_contiguous(
    a: torch.Tensor,
    b: torch.Tensor,
    d: torch.Tensor,
    layout: torch.Tensor,
    a_scale: torch.Tensor | None = None,
    b_scale: torch.Tensor | None = None,
    *,
    prefix_sum: bool = False,
    alignment: int = 128,
    zero_padding: bool = False,
    b_block: tuple[int, int] = (128, 128),
    packed: bool = False,
    check: bool = False,
    resources: Resources = WHOLE_CARD,
    forced: Configuration | None = None,
    reading: Callable[..., tuple] | None = None,
) -> None:
    """Write a[m, k] * b[g, n, k]^T into d[m, n], where each block of `alignment` rows belongs to one group g.

    `layout` holds a label per row (-1: padding, after a block's last used row: the kernel looks no further) or, with
    `prefix_sum`, the end of each group. Rows of padding are left alone, or set to zero with `zero_padding`. FP8 where
    scales are given (b's of `b_block`), else BF16; with `packed`, b holds E2M1 codes, as in `fp8_gemm`. With `check`,
    the host reads the layout first, and an error names what breaks its contract. `reading` is that of `fp8_gemm`.
    """
    if check or group_contract.always():
        rows, groups = (group_contract.extent(name, tensor, 0) for name, tensor in (("a", a), ("b", b)))
        group_contract.check_rows(layout, rows, groups, prefix_sum, alignment)
    options = (prefix_sum, alignment, zero_padding, b_block, packed, resources, forced, reading)
    if repeatable(_contiguous, (a, b, d, layout, a_scale, b_scale), options) or not d.numel():
        return
    if prefix_sum:
        zero_ended(d, layout, alignment, zero_padding)
    else:
        zero_labelled(d, layout, zero_padding)


@explained
def gemm_grouped_masked(
    a: torch.Tensor,
    b: torch.Tensor,
    d: torch.Tensor,
    masked_m: torch.Tensor,
    expected_m: int,
    a_scale: torch.Tensor | None = None,
    b_scale: torch.Tensor | None = None,
    *,
    b_block: tuple[int, int] = (128, 128),
    packed: bool = False,
    check: bool = False,
    resources: Resources = WHOLE_CARD,
    forced: Configuration | None = None,
    reading: Callable[..., tuple] | None = None,
) -> None:
    """Write the first masked_m[g] rows of a[g, m, k] * b[g, n, k]^T into d[g, m, n]; no other row is touched.

    `masked_m` is read on the GPU when the kernel runs; `expected_m` only chooses the configuration. With `check`, the
    host reads it first, and an error names the group that has too many. `reading` is that of `fp8_gemm`.
    """
    if check or group_contract.always():
        group_contract.check_mask(masked_m, group_contract.extent("a", a, 1))
    likely = expected_m if type(expected_m) is int else whole_number("expected_m", expected_m)  # 64.0 equals 64
    options = (likely, b_block, packed, resources, forced, reading)
    if not repeatable(_masked, (a, b, d, masked_m, a_scale, b_scale), options) and d.numel():
        zero_masked(d, masked_m)


@explained
def gemm_grouped_k(
    a: torch.Tensor,
    b: torch.Tensor,
    d: torch.Tensor,
    layout: torch.Tensor,
    c: torch.Tensor | None = None,
    a_scale: torch.Tensor | None = None,
    b_scale: torch.Tensor | None = None,
    *,
    sizes: Sequence[int] | None = None,
    prefix_sum: bool = False,
    alignment: int = 128,
    check: bool = False,
    resources: Resources = WHOLE_CARD,
    forced: Configuration | None = None,
    reading: Callable[..., tuple] | None = None,
) -> None:
    """Write, for each group g, the product over its part of K into d[g] (plus c[g] where given).

    a is [k, m] and b is [k, n], groups of K one behind the other; FP8, with scales [m, blocks of K] and [n, blocks],
    is rewritten K-major first. Or both FP8 operands are flat, each group a K-major matrix [m, k_g] of its own: this
    needs `sizes`, the K of each group, on the host. `layout` holds the sizes on the GPU, or with `prefix_sum` the ends
    of groups that start at multiples of `alignment`, between which both operands hold zeros. With `check`, the host
    reads it first. `reading` is that of `fp8_gemm`.
    """
    sizes = None if sizes is None else whole_numbers("sizes", sizes)
    if check or group_contract.always():
        k = sum(sizes or ()) if a.dim() == 1 else group_contract.extent("a", a, 0)
        group_contract.check_k(layout, k, prefix_sum, alignment, sizes)
    options = (sizes, prefix_sum, alignment, resources, forced, reading)
    tensors = (a, b, d, layout, c, a_scale, b_scale)
    if a.dim() == 1:
        launched = repeatable(_k_flat, tensors, (*options, a.data_ptr(), b.data_ptr()))
    else:
        launched = repeatable(_k_whole, tensors, options)
    if not launched:
        add_nothing(d, c)


def _contiguous(
    a, b, d, layout, a_scale, b_scale, prefix_sum, alignment, zero_padding, b_block, packed, resources, forced, reading
):
    a, a_scale, b, b_scale, b_block, packed = meant(reading, a, a_scale, b, b_scale, b_block, packed)
    packed, prefix_sum = flag("packed", packed), flag("prefix_sum", prefix_sum)
    zero_padding = flag("zero_padding", zero_padding)
    _check_alignment(alignment, 16 if packed else 64)
    if a.dim() != 2:
        raise ShapeError(expected("a", tuple(a.shape), "one matrix, which holds the rows of all groups"))
    left, right = read.extents("a", a), read.extents("b", b, packed)
    _check_product(left, right, d, (left[1], right[1]))
    _check_layout(layout, right[0] if prefix_sum else left[1])
    if not (d.numel() and b.numel()):  # no rows, columns, groups or K
        return check_formats(a, b, d, a_scale is not None, packed)
    pair = pair_of(a, b, a_scale, b_scale, b_block, packed)
    schedule = "PREFIX_SUM" if prefix_sum else "LABELLED"
    shape = _shape(pair, d, schedule, m=pair.a.rows, groups=1, alignment=alignment)
    given = pair.given(**destination(d, None), layout=layout.data_ptr(), zero_padding=zero_padding)
    return prepare(forced or configuration(shape, available(resources)), given, resources, pair.before)


def _masked(a, b, d, masked_m, a_scale, b_scale, expected_m, b_block, packed, resources, forced, reading):
    a, a_scale, b, b_scale, b_block, packed = meant(reading, a, a_scale, b, b_scale, b_block, packed)
    likely, packed = whole_number("expected_m", expected_m), flag("packed", packed)
    left, right = read.extents("a", a), read.extents("b", b, packed)
    groups, rows, _ = left
    if groups != right[0]:
        raise ShapeError(expected("b", f"{right[0]} groups", f"{groups}, as many as a has"))
    _check_product(left, right, d, (groups, rows, right[1]))
    _check_layout(masked_m, groups)
    if not (d.numel() and a.numel()):
        return check_formats(a, b, d, a_scale is not None, packed)
    pair = pair_of(a, b, a_scale, b_scale, b_block, packed)
    shape = _shape(pair, d, "MASKED", m=max(1, min(likely, rows)), groups=groups, capacity=rows)
    given = pair.given(**destination(d, None), layout=masked_m.data_ptr())
    return prepare(forced or configuration(shape, available(resources)), given, resources, pair.before)


def _k_whole(a, b, d, layout, c, a_scale, b_scale, sizes, prefix_sum, alignment, resources, forced, reading):
    a, a_scale, b, b_scale, *_ = meant(reading, a, a_scale, b, b_scale)
    for name, tensor in (("a", a), ("b", b), ("a_scale", a_scale)):
        if tensor is not None and tensor.dim() != 2:
            raise ShapeError(expected(name, tuple(tensor.shape), "a matrix: groups of K lie one behind the other"))
    groups, prefix_sum = layout.shape[0], flag("prefix_sum", prefix_sum)
    (_, k, m), (_, other_k, n) = read.extents("a", a), read.extents("b", b)
    _check_product((1, m, k), (1, n, other_k), d, (groups, m, n))
    _check_layout(layout, groups)
    if sizes is not None and not prefix_sum:
        _check_sizes(sizes, groups, k, 64 if a_scale is None else 128)
    if not (a.numel() and d.numel()):
        return check_formats(a, b, d, a_scale is not None)
    lines = None if a_scale is None else a_scale.shape[1]
    if lines is not None and lines * 128 < a.shape[0]:
        raise ShapeError(expected("a_scale", f"{lines} scales of each row", f"one for each 128 of K = {a.shape[0]}"))
    pair = pair_of(a.t(), b.t(), a_scale, b_scale, b_block=(1, 128), lines=lines)
    if pair.a.major != pair.b.major:
        need = f"{pair.a.major}-major, as a: groups of K lie the same way in both operands"
        raise LayoutError(expected("b", f"{pair.b.major}-major", need))
    if prefix_sum:
        _check_alignment(alignment, 64 if pair.scaling == "NONE" else 128)
    schedule = "K_PREFIX_SUM" if prefix_sum else "K_SIZES"
    likely = max(1, pair.a.k // groups)
    shape = _shape(pair, d, schedule, pair.a.rows, groups, alignment, accumulate=c is not None, k=likely)
    given = pair.given(**destination(d, c), layout=layout.data_ptr(), groups=groups)
    return prepare(forced or configuration(shape, available(resources)), given, resources, pair.before)


def _k_flat(a, b, d, layout, c, a_scale, b_scale, sizes, prefix_sum, alignment, resources, forced, reading, at_a, at_b):
    a, a_scale, b, b_scale, *_ = meant(reading, a, a_scale, b, b_scale)
    # the maps of all groups lie in GPU memory, where no launch may edit them: such a plan keeps to its addresses
    if sizes is None or prefix_sum or a_scale is None or b_scale is None:
        need = "FP8 with scales, and the K of each group on the host: each is a matrix of its own"
        raise InputError(expected("sizes", sizes, need))
    if d.dim() != 3:
        raise ShapeError(expected("d", tuple(d.shape), "a stack of matrices"))
    groups, m, n = d.shape
    _check_layout(layout, groups)
    _check_sizes(sizes, groups, a.numel() // m if m else sum(sizes), 128)
    left, right = _flat("a", a, m, sizes), _flat("b", b, n, sizes)
    if not (a.numel() and d.numel()):
        return check_formats(a, b, d, scaled=True)
    lines = sum(size // 128 for size in sizes)
    pair = Pair(left, right, "VECTOR", scales_of(left, right, a_scale, b_scale, "VECTOR", lines), ())
    shape = _shape(pair, d, "K_SIZES", m, groups, accumulate=c is not None)
    chosen = forced or configuration(shape, available(resources))
    maps = _group_maps((at_a, m), (at_b, n), sizes, chosen).to(a.device)
    given = pair.given(**destination(d, c), layout=layout.data_ptr(), groups=groups, group_maps=maps)
    return prepare(chosen, given, resources)


def _flat(name: str, tensor: Any, rows: int, sizes: Sequence[int]) -> read.Matrix:
    if str(tensor.dtype) not in read.PAYLOADS["E4M3"]:
        raise FormatError(expected(name, tensor.dtype, " or ".join(read.PAYLOADS["E4M3"])))
    if tuple(tensor.shape) != (rows * sum(sizes),) or not tensor.is_contiguous():
        raise ShapeError(expected(name, tuple(tensor.shape), f"{rows * sum(sizes)} elements one behind the other"))
    stride = max(16, max(sizes))
    return read.Matrix(tensor.data_ptr(), 1, rows, max(1, max(sizes)), "K", stride, "E4M3")


def _group_maps(a: tuple[int, int], b: tuple[int, int], sizes: Sequence[int], chosen: Configuration) -> Any:
    """Return the maps of A and B (their addresses and rows) of every group, for GPU memory."""
    import torch

    tile, before, maps = chosen.tile, 0, []
    for size in sizes:
        boxes = (tile.block_m // tile.cluster_n, tile.block_n // tile.cluster_m)
        for (address, rows), box in zip((a, b), boxes, strict=True):
            shape, stride = (max(size, 1), rows), max(16, size)  # an empty group is never read
            maps.append(TensorMap.tiled(address + before * rows, "uint8", shape, (stride,), (128, box), 128).data)
        before += size
    return torch.frombuffer(bytearray(b"".join(maps)), dtype=torch.uint8)


def _shape(pair: Pair, d, schedule, m, groups, alignment=128, accumulate=False, k=None, capacity=0) -> Shape:
    return Shape(
        m=m,
        n=pair.b.rows,
        k=k or pair.a.k,
        groups=groups,
        capacity=capacity,
        element=pair.a.element,
        scaling=pair.scaling,
        weights="E2M1" if pair.b.element == "E2M1" else "AS_A",
        schedule=schedule,
        major_a=pair.a.major,
        major_b=pair.b.major,
        output=read.output_format("d", d),
        accumulate=accumulate,
        alignment=alignment,
        pointed=pair.pointed,
    )


def _check_product(left: tuple[int, int, int], right: tuple[int, int, int], d: Any, shape: tuple[int, ...]) -> None:
    if left[2] != right[2]:
        raise ShapeError(expected("b", f"K = {right[2]}", f"K = {left[2]}, as in a"))
    if tuple(d.shape) != shape:
        raise ShapeError(expected("d", tuple(d.shape), shape))


def _check_layout(layout: Any, count: int) -> None:
    if str(layout.dtype) != "torch.int32" or tuple(layout.shape) != (count,) or not layout.is_contiguous():
        raise FormatError(expected("layout", f"{layout.dtype} {tuple(layout.shape)}", f"{count} contiguous int32"))


def _check_sizes(sizes: Sequence[int], groups: int, total: int, multiple: int) -> None:
    if len(sizes) != groups:
        raise ShapeError(expected("sizes", f"{len(sizes)} of them", f"{groups}, one for each group"))
    for group, size in enumerate(sizes):
        if size < 0 or size % multiple:
            need = f"a multiple of {multiple}, as groups of K are read in whole blocks"
            raise ShapeError(expected(f"sizes[{group}]", size, need))
    if sum(sizes) != total:
        raise ShapeError(expected("sizes", f"a sum of {sum(sizes)}", f"{total}, the K of a"))


def _check_alignment(alignment: int, multiple: int) -> None:
    whole_number("alignment", alignment, 1, error=ShapeError)
    if alignment % multiple:
        raise UnsupportedError(expected("alignment", alignment, f"a multiple of {multiple}, the least that a tile has"))
