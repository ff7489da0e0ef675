"""Grouped GEMM on Hopper: rows of groups in one A (contiguous), a stack with row counts (masked), groups of K."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dgref.backends.cuda.sm90 import operands as read
from dgref.backends.cuda.sm90.configuration import Configuration, Shape, configuration
from dgref.backends.cuda.sm90.gemm import SCALINGS, destination, identity, weight_scales
from dgref.backends.cuda.sm90.launch import Operands, device_multiprocessors, prepare, repeatable
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import FormatError, InputError, ShapeError, expected


def gemm_grouped_contiguous(
    a: Any,
    b: Any,
    d: Any,
    layout: Any,
    a_scale: Any = None,
    b_scale: Any = None,
    *,
    prefix_sum: bool = False,
    alignment: int = 128,
    zero_padding: bool = False,
    b_block: tuple[int, int] = (128, 128),
    packed: bool = False,
    forced: Configuration | None = None,
) -> None:
    """Write a[m, k] * b[g, n, k]^T into d[m, n], where each block of `alignment` rows belongs to one group g.

    `layout` holds a label per row (-1: padding) or, with `prefix_sum`, the end of each group. Rows of padding are
    left alone, or set to zero with `zero_padding`. FP8 where scales are given (b's of `b_block`), else BF16; with
    `packed`, b holds E2M1 codes, as in `fp8_gemm`.
    """
    tensors = (a, b, d, layout, a_scale, b_scale)
    options = (prefix_sum, alignment, zero_padding, b_block, packed, forced)
    repeatable(("contiguous", *map(identity, tensors), *options), lambda: _contiguous(*tensors, *options))


def gemm_grouped_masked(
    a: Any,
    b: Any,
    d: Any,
    masked_m: Any,
    expected_m: int,
    a_scale: Any = None,
    b_scale: Any = None,
    *,
    b_block: tuple[int, int] = (128, 128),
    packed: bool = False,
    forced: Configuration | None = None,
) -> None:
    """Write the first masked_m[g] rows of a[g, m, k] * b[g, n, k]^T into d[g, m, n]; no other row is touched.

    `masked_m` is read on the GPU when the kernel runs; `expected_m` only chooses the configuration.
    """
    tensors = (a, b, d, masked_m, a_scale, b_scale)
    options = (expected_m, b_block, packed, forced)
    repeatable(("masked", *map(identity, tensors), *options), lambda: _masked(*tensors, *options))


def gemm_grouped_k(
    a: Any,
    b: Any,
    d: Any,
    layout: Any,
    c: Any = None,
    a_scale: Any = None,
    b_scale: Any = None,
    *,
    sizes: Sequence[int] | None = None,
    prefix_sum: bool = False,
    alignment: int = 128,
    forced: Configuration | None = None,
) -> None:
    """Write, for each group g, the product over its part of K into d[g] (plus c[g] where given).

    BF16: a is [k, m], b is [k, n], groups of K one behind the other. FP8: both are flat, each group a K-major matrix
    [m, k_g] of its own, with scales [k/128, m] and [k/128, n]; this needs `sizes`, the K of each group, on the host.
    `layout` holds the sizes on the GPU, or with `prefix_sum` the ends of groups that start at multiples of `alignment`,
    between which both operands hold zeros.
    """
    tensors = (a, b, d, layout, c, a_scale, b_scale)
    options = (None if sizes is None else tuple(sizes), prefix_sum, alignment, forced)
    plan = _k_fp8 if a_scale is not None else _k_bf16
    repeatable(("k", *map(identity, tensors), *options), lambda: plan(*tensors, *options))


def _contiguous(a, b, d, layout, a_scale, b_scale, prefix_sum, alignment, zero_padding, b_block, packed, forced):
    left, right, scaling = _operands(a, b, a_scale, b_scale, b_block, packed)
    _check_product(left, right, d, (left.rows, right.rows))
    _check_layout(layout, right.groups if prefix_sum else left.rows)
    schedule = "PREFIX_SUM" if prefix_sum else "LABELLED"
    shape = _shape(left, right, d, schedule, m=left.rows, groups=1, alignment=alignment, scaling=scaling)
    scales = _scales(a_scale, b_scale, left, right, scaling)
    operands = Operands(
        a=left, b=right, **destination(d, None), **scales, layout=layout.data_ptr(), zero_padding=zero_padding
    )
    return prepare(forced or configuration(shape, device_multiprocessors()), operands)


def _masked(a, b, d, masked_m, a_scale, b_scale, expected_m, b_block, packed, forced):
    left, right, scaling = _operands(a, b, a_scale, b_scale, b_block, packed)
    if left.groups != right.groups:
        raise ShapeError(expected("b", f"{right.groups} groups", f"{left.groups}, as many as a has"))
    _check_product(left, right, d, (left.groups, left.rows, right.rows))
    _check_layout(masked_m, left.groups)
    rows = max(1, min(expected_m, left.rows))
    shape = _shape(left, right, d, "MASKED", m=rows, groups=left.groups, scaling=scaling)
    scales = _scales(a_scale, b_scale, left, right, scaling)
    operands = Operands(a=left, b=right, **destination(d, None), **scales, layout=masked_m.data_ptr())
    return prepare(forced or configuration(shape, device_multiprocessors()), operands)


def _k_bf16(a, b, d, layout, c, a_scale, b_scale, sizes, prefix_sum, alignment, forced):
    left, right = read.matrix("a", a.t(), "BF16"), read.matrix("b", b.t(), "BF16")
    if not prefix_sum and sizes is not None:
        _check_sizes(sizes, left.k, 64)
    groups = layout.shape[0]
    _check_product(left, right, d, (groups, left.rows, right.rows))
    _check_layout(layout, groups)
    schedule = "K_PREFIX_SUM" if prefix_sum else "K_SIZES"
    shape = _shape(left, right, d, schedule, left.rows, groups, alignment, accumulate=c is not None)
    operands = Operands(a=left, b=right, **destination(d, c), layout=layout.data_ptr(), groups=groups)
    return prepare(forced or configuration(shape, device_multiprocessors()), operands)


def _k_fp8(a, b, d, layout, c, a_scale, b_scale, sizes, prefix_sum, alignment, forced):
    if sizes is None or prefix_sum:
        raise InputError(expected("sizes", sizes, "the K of each group on the host: each is a matrix of its own"))
    groups, m, n = d.shape
    _check_sizes(sizes, a.numel() // m, 128)
    left, right = _flat("a", a, m, sizes), _flat("b", b, n, sizes)
    _check_layout(layout, groups)
    lines = sum(-(-size // 128) for size in sizes)
    shape = _shape(left, right, d, "K_SIZES", m, groups, scaling="VECTOR", accumulate=c is not None)
    chosen = forced or configuration(shape, device_multiprocessors())
    operands = Operands(
        a=left,
        b=right,
        **destination(d, c),
        scale_a=lambda box: read.vector_scale_map("a_scale", a_scale.t(), lines, m, box),
        scale_b=lambda box: read.vector_scale_map("b_scale", b_scale.t(), lines, n, box),
        layout=layout.data_ptr(),
        groups=groups,
        group_maps=_group_maps(a, b, m, n, sizes, chosen),
    )
    return prepare(chosen, operands)


def _flat(name: str, tensor: Any, rows: int, sizes: Sequence[int]) -> read.Matrix:
    if str(tensor.dtype) not in read.PAYLOADS["E4M3"]:
        raise FormatError(expected(name, tensor.dtype, " or ".join(read.PAYLOADS["E4M3"])))
    if tensor.numel() != rows * sum(sizes) or not tensor.is_contiguous():
        raise ShapeError(expected(name, tuple(tensor.shape), f"{rows * sum(sizes)} elements one behind the other"))
    stride = max(16, max(sizes))
    return read.Matrix(tensor.data_ptr(), 1, rows, max(1, max(sizes)), "K", stride, "E4M3")


def _group_maps(a: Any, b: Any, m: int, n: int, sizes: Sequence[int], chosen: Configuration) -> Any:
    """Return the maps of A and B of every group, in GPU memory, before any kernel reads them."""
    import torch

    tile, before, maps = chosen.tile, 0, []
    for size in sizes:
        for tensor, rows, box in ((a, m, tile.block_m // tile.cluster_n), (b, n, tile.block_n // tile.cluster_m)):
            stride = max(16, size)  # an empty group is never read
            pointer = tensor.data_ptr() + before * rows
            maps.append(TensorMap.tiled(pointer, "uint8", (max(size, 1), rows), (stride,), (128, box), 128).data)
        before += size
    return torch.frombuffer(bytearray(b"".join(maps)), dtype=torch.uint8).to(a.device)


def _operands(a, b, a_scale, b_scale, b_block, packed) -> tuple[read.Matrix, read.Matrix, str]:
    if (a_scale is None) != (b_scale is None):
        raise InputError(expected("scales", "one of two", "both (FP8) or none (BF16)"))
    if a_scale is None:
        return read.matrix("a", a, "BF16"), read.matrix("b", b, "BF16"), "NONE"
    if b_block not in SCALINGS:
        raise FormatError(expected("b_block", b_block, " or ".join(map(str, SCALINGS))))
    return read.matrix("a", a, "E4M3"), read.matrix("b", b, "E2M1" if packed else "E4M3"), SCALINGS[b_block]


def _scales(a_scale: Any, b_scale: Any, left: read.Matrix, right: read.Matrix, scaling: str) -> dict[str, Any]:
    if scaling == "NONE":
        return {}
    lines = -(-left.k // 128) * left.groups
    return {
        "scale_a": lambda box: read.vector_scale_map("a_scale", a_scale, lines, left.rows, box),
        **weight_scales(b_scale, right, scaling),
    }


def _shape(left, right, d, schedule, m, groups, alignment=128, scaling="NONE", accumulate=False) -> Shape:
    k = max(1, left.k // groups) if schedule.startswith("K_") and scaling == "NONE" else left.k
    return Shape(
        m=m,
        n=right.rows,
        k=k,
        groups=groups,
        element=left.element,
        scaling=scaling,
        weights="E2M1" if right.element == "E2M1" else "AS_A",
        schedule=schedule,
        major_a=left.major,
        major_b=right.major,
        output=read.output_format("d", d),
        accumulate=accumulate,
        alignment=alignment,
    )


def _check_product(left: read.Matrix, right: read.Matrix, d: Any, shape: tuple[int, ...]) -> None:
    if left.k != right.k:
        raise ShapeError(expected("b", f"K = {right.k}", f"K = {left.k}, as in a"))
    if right.major == "MN" and right.groups > 1 and right.k % 64:
        raise ShapeError(expected("b", f"K = {right.k}", "a multiple of 64 where several MN-major groups follow"))
    if tuple(d.shape) != shape:
        raise ShapeError(expected("d", tuple(d.shape), shape))


def _check_layout(layout: Any, count: int) -> None:
    if str(layout.dtype) != "torch.int32" or tuple(layout.shape) != (count,) or not layout.is_contiguous():
        raise FormatError(expected("layout", f"{layout.dtype} {tuple(layout.shape)}", f"{count} contiguous int32"))


def _check_sizes(sizes: Sequence[int], total: int, multiple: int) -> None:
    for group, size in enumerate(sizes):
        if size < 0 or size % multiple:
            raise ShapeError(expected(f"sizes[{group}]", size, f"a multiple of {multiple}"))
    if sum(sizes) != total:
        raise ShapeError(expected("sizes", f"a sum of {sum(sizes)}", f"{total}, the K of a"))
