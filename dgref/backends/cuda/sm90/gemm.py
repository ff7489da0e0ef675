"""GEMM on Hopper: dense, FP8 with block or vector scales, and BF16; every call writes into a given D."""

from __future__ import annotations

from typing import Any

from dgref.backends.cuda.sm90 import operands as read
from dgref.backends.cuda.sm90.configuration import Configuration, Shape, configuration
from dgref.backends.cuda.sm90.launch import Operands, Steps, device_multiprocessors, prepare, repeatable
from dgref.backends.cuda.sm90.transpose import k_major
from dgref.errors import FormatError, LayoutError, ShapeError, expected

SCALINGS = {(128, 128): "BLOCK", (1, 128): "VECTOR", (1, 32): "VECTOR_32"}


def fp8_gemm(
    a: Any,
    a_scale: Any,
    b: Any,
    b_scale: Any,
    d: Any,
    c: Any = None,
    *,
    b_block: tuple[int, int] = (128, 128),
    batch_invariant: bool = False,
    head_splits: tuple[int, int, int] | None = None,
    packed: bool = False,
    forced: Configuration | None = None,
) -> None:
    """Write a[m, k] * b[n, k]^T, scaled, into d (plus c where given), for E4M3 payloads and FP32 scales.

    `a_scale` is [m, k/128], MN-major and TMA-aligned; `b_scale` is [n/128, k/128], or laid out like `a_scale` where
    `b_block` is (1, 128) or (1, 32). Leading group dimensions make it a batch. An operand that is MN-major (a
    transposed view) is rewritten K-major first, which costs one pass over it. With `packed`, b is [n, k/2] E2M1 codes,
    two to a byte, the low nibble first, widened exactly to E4M3 inside; `b_block` then has one row. `head_splits`
    (left, middle, right) leaves `middle` columns of d untouched between `left` and `right` columns of the product.
    """
    if b_block not in SCALINGS:
        raise FormatError(expected("b_block", b_block, " or ".join(map(str, SCALINGS))))
    if is_empty(a, d, c):
        return
    tensors = (a, a_scale, b, b_scale, d, c)
    key = ("fp8", *map(identity, tensors), b_block, batch_invariant, head_splits, packed, forced)
    repeatable(key, lambda: _fp8_plan(*tensors, SCALINGS[b_block], batch_invariant, head_splits, forced, packed))


def bf16_gemm(
    a: Any, b: Any, d: Any, c: Any = None, *, batch_invariant: bool = False, forced: Configuration | None = None
) -> None:
    """Write a[m, k] * b[n, k]^T into d (plus c where given); either operand may be a transposed view."""
    if is_empty(a, d, c):
        return
    tensors = (a, b, d, c)
    key = ("bf16", *map(identity, tensors), batch_invariant, forced)
    repeatable(key, lambda: _bf16_plan(*tensors, batch_invariant, forced))


def is_empty(a: Any, d: Any, c: Any) -> bool:
    """Say whether there is nothing to multiply; d is then already what it should be: c, or zero."""
    if a.shape[-1] and d.numel():
        return False
    d.zero_() if c is None else d.copy_(c)
    return True


def identity(tensor: Any) -> tuple | None:
    """Return what makes two launches the same as far as one tensor goes."""
    return None if tensor is None else (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


def _fp8_plan(a, a_scale, b, b_scale, d, c, scaling, batch_invariant, head_splits, forced, packed=False):
    left, before_a = k_major("a", read.matrix("a", a, "E4M3"))
    right, before_b = k_major("b", read.matrix("b", b, "E2M1" if packed else "E4M3"))
    shape = _shape(left, right, d, c, scaling, batch_invariant, head_splits)
    lines = -(-left.k // 128) * left.groups
    operands = Operands(
        a=left,
        b=right,
        **destination(d, c, bulk=head_splits is None),
        scale_a=lambda box: read.vector_scale_map("a_scale", a_scale, lines, left.rows, box),
        **weight_scales(b_scale, right, scaling),
        head=head_splits or (0, 0, 0),
    )
    return Steps(*before_a, *before_b, prepare(forced or configuration(shape, device_multiprocessors()), operands))


def _bf16_plan(a, b, d, c, batch_invariant, forced):
    left, right = read.matrix("a", a, "BF16"), read.matrix("b", b, "BF16")
    shape = _shape(left, right, d, c, "NONE", batch_invariant, None)
    return prepare(
        forced or configuration(shape, device_multiprocessors()), Operands(a=left, b=right, **destination(d, c))
    )


def _shape(left, right, d, c, scaling, batch_invariant, head_splits) -> Shape:
    """Check that the operands fit together, and say what is computed."""
    if (left.k, left.groups) != (right.k, right.groups):
        raise ShapeError(expected("b", (right.groups, right.k), f"{(left.groups, left.k)}: a's groups and K"))
    columns = right.rows
    if head_splits:
        columns = columns // (head_splits[0] + head_splits[2]) * sum(head_splits)
    if tuple(d.shape[-2:]) != (left.rows, columns):
        raise ShapeError(expected("d", tuple(d.shape), (left.rows, columns)))
    return Shape(
        m=left.rows,
        n=right.rows,
        k=left.k,
        groups=left.groups,
        element=left.element,
        scaling=scaling,
        weights="E2M1" if right.element == "E2M1" else "AS_A",
        major_a=left.major,
        major_b=right.major,
        output=read.output_format("d", d),
        accumulate=c is not None,
        batch_invariant=batch_invariant,
    )


def weight_scales(b_scale: Any, right: read.Matrix, scaling: str) -> dict[str, Any]:
    """Return how the kernel reads B's scales: by pointer for blocks, through a map for vectors."""
    if scaling == "BLOCK":
        if right.element == "E2M1":
            raise FormatError(expected("b_block", (128, 128), "(1, 32) or (1, 128) where b is packed"))
        return {"block_scale": read.block_scale("b_scale", b_scale, right)}
    granule, box_lines = (32, 4) if scaling == "VECTOR_32" else (128, 1)
    if granule == 32 and right.groups > 1 and right.k % 128:
        raise ShapeError(expected("b", f"K = {right.k}", "a multiple of 128 where groups have scales per 32"))
    lines = -(-right.k // granule) * right.groups
    return {"scale_b": lambda box: read.vector_scale_map("b_scale", b_scale, lines, right.rows, box, box_lines)}


def destination(d: Any, c: Any, bulk: bool = True) -> dict[str, Any]:
    """Return where D and C lie; C has D's dtype, shape and strides, and may be D itself."""
    if c is not None and (c.dtype, c.shape, c.stride()) != (d.dtype, d.shape, d.stride()):
        raise LayoutError(expected("c", (c.dtype, tuple(c.shape)), f"the dtype, shape and strides of d, {d.dtype}"))
    group_stride = d.stride(0) if d.dim() == 3 else 0
    pointer = c.data_ptr() if c is not None else 0
    return {
        "d": d.data_ptr(),
        "c": pointer,
        "row_stride": d.stride(-2),
        "group_stride": group_stride,
        "map_d": read.output_map(d) if bulk else None,
    }
