"""GEMM on Hopper: dense, FP8 with block or vector scales, and BF16; every call writes into a given D."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dgref.annotations import explained
from dgref.backends.cuda.launch import WHOLE_CARD, Resources
from dgref.backends.cuda.sm90 import operands as read
from dgref.backends.cuda.sm90.configuration import configuration
from dgref.backends.cuda.sm90.launch import available, prepare, repeatable
from dgref.backends.cuda.sm90.nothing import add_nothing, check_addend
from dgref.backends.cuda.sm90.pair import Pair, check_formats, meant, pair_of
from dgref.backends.cuda.sm90.shape import Configuration, Shape
from dgref.errors import ShapeError, expected, flag
from dgref.reference.gemm import split_columns, split_width

if TYPE_CHECKING:
    import torch


@explained
def fp8_gemm(
    a: torch.Tensor,
    a_scale: torch.Tensor,
    b: torch.Tensor,
    b_scale: torch.Tensor,
    d: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    b_block: tuple[int, int] = (128, 128),
    batch_invariant: bool = False,
    head_splits: tuple[int, int, int] | None = None,
    packed: bool = False,
    resources: Resources = WHOLE_CARD,
    forced: Configuration | None = None,
    reading: Callable[..., tuple] | None = None,
) -> None:
    """Write a[m, k] * b[n, k]^T, scaled, into d (plus c where given), for E4M3 payloads and FP32 scales.

    `a_scale` is [m, k/128]; `b_scale` is [n/128, k/128], or [n, k/128] or [n, k/32] where `b_block` is (1, 128) or
    (1, 32). Leading group dimensions make it a batch. An operand that is MN-major (a transposed view), and scales of
    rows that are not MN-major and TMA-aligned, are rewritten first, which costs one pass over them. With `packed`,
    b is [n, k/2] E2M1 codes, two to a byte, the low nibble first, widened exactly to E4M3 inside; `b_block` then has
    one row. `head_splits` (left, middle, right) leaves `middle` columns of d untouched between `left` and `right`
    columns of the product. `c` may be d itself; where it shares memory with d otherwise, some of it is read after d
    has been written there. `reading`, where given, is asked once for each geometry what the operands mean: of a,
    a_scale, b and b_scale it returns these four, b_block and packed.
    """
    options = (b_block, batch_invariant, head_splits, packed, resources, forced, reading)
    if not repeatable(_fp8_plan, (a, a_scale, b, b_scale, d, c), options):
        add_nothing(d, c)


@explained
def bf16_gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    d: torch.Tensor,
    c: torch.Tensor | None = None,
    *,
    batch_invariant: bool = False,
    resources: Resources = WHOLE_CARD,
    forced: Configuration | None = None,
    reading: Callable[..., tuple] | None = None,
) -> None:
    """Write a[m, k] * b[n, k]^T into d (plus c where given); either operand may be a transposed view.

    `c` and `reading` are those of `fp8_gemm`.
    """
    if not repeatable(_bf16_plan, (a, b, d, c), (batch_invariant, resources, forced, reading)):
        add_nothing(d, c)


def _fp8_plan(a, a_scale, b, b_scale, d, c, b_block, batch_invariant, head_splits, packed, resources, forced, reading):
    a, a_scale, b, b_scale, b_block, packed = meant(reading, a, a_scale, b, b_scale, b_block, packed)
    batch_invariant, packed = flag("batch_invariant", batch_invariant), flag("packed", packed)
    if not (a.shape[-1] and d.numel()):
        _check_fit(read.extents("a", a), read.extents("b", b, packed), d, head_splits)
        check_formats(a, b, d, scaled=True, packed=packed)
        return None
    pair = pair_of(a, b, a_scale, b_scale, b_block, packed)
    shape = _shape(pair, d, c, batch_invariant, head_splits)
    given = pair.given(**destination(d, c, bulk=head_splits is None), head=head_splits or (0, 0, 0))
    return prepare(forced or configuration(shape, available(resources)), given, resources, pair.before)


def _bf16_plan(a, b, d, c, batch_invariant, resources, forced, reading):
    a, _, b, *_ = meant(reading, a, None, b, None)
    batch_invariant = flag("batch_invariant", batch_invariant)
    if not (a.shape[-1] and d.numel()):
        _check_fit(read.extents("a", a), read.extents("b", b), d)
        check_formats(a, b, d, scaled=False)
        return None
    pair = pair_of(a, b)
    shape = _shape(pair, d, c, batch_invariant, None)
    return prepare(forced or configuration(shape, available(resources)), pair.given(**destination(d, c)), resources)


def _check_fit(left: tuple[int, int, int], right: tuple[int, int, int], d: Any, head_splits: Any = None) -> None:
    """Raise unless operands of these groups, rows and K belong together, and D holds their product."""
    (groups, rows, k), (other_groups, columns, other_k) = left, right
    if (k, groups) != (other_k, other_groups):
        raise ShapeError(expected("b", (other_groups, other_k), f"{(groups, k)}: a's groups and K"))
    if head_splits:
        split_columns(columns, head_splits)  # raises unless whole heads are what there is
        columns = split_width(columns, head_splits)
    need = (rows, columns) if groups == 1 and d.dim() == 2 else (groups, rows, columns)
    if tuple(d.shape) != need:
        raise ShapeError(expected("d", tuple(d.shape), need))


def _shape(pair: Pair, d: Any, c: Any, batch_invariant: bool, head_splits: Any) -> Shape:
    """Check that the operands fit together, and say what is computed."""
    left, right = pair.a, pair.b
    _check_fit(left.extents, right.extents, d, head_splits)
    return Shape(
        m=left.rows,
        n=right.rows,
        k=left.k,
        groups=left.groups,
        element=left.element,
        scaling=pair.scaling,
        weights="E2M1" if right.element == "E2M1" else "AS_A",
        major_a=left.major,
        major_b=right.major,
        output=read.output_format("d", d),
        accumulate=c is not None,
        batch_invariant=batch_invariant,
        pointed=pair.pointed,
    )


def destination(d: Any, c: Any, bulk: bool = True) -> dict[str, Any]:
    """Return where D and C lie; C has D's dtype, shape and strides, and may be D itself."""
    check_addend(c, d)
    group_stride = d.stride(0) if d.dim() == 3 else 0
    map_c = read.output_map(c) if c is not None and bulk else None
    return {
        "d": d.data_ptr(),
        "c": 0 if c is None else c.data_ptr(),
        "row_stride": d.stride(-2),
        "group_stride": group_stride,
        "map_d": read.output_map(d) if bulk and (c is None or map_c) else None,
        "map_c": map_c,
    }
