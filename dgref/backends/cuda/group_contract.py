"""What grouped kernels trust their layouts to say, checked on the host on request: it waits for the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from dgref.backends.cuda import environment
from dgref.errors import FormatError, InputError, ShapeError, expected
from dgref.reference.grouped import check_group_labels, k_spans, psum_spans
from dgref.reference.operands import integers


@cache
def always() -> bool:
    """Say whether the environment asks for the check at every launch; read once per process."""
    return environment.flag("CHECK_LABELS")


def extent(name: str, tensor: Any, axis: int) -> int:
    """Return the extent of an axis of an operand, which must have it."""
    if tensor.dim() <= axis:
        got = f"a tensor of shape {tuple(tensor.shape)}" if tensor.shape else "a tensor without axes"
        raise ShapeError(expected(name, got, f"one of {axis + 1} axes or more" if axis else "one of one axis or more"))
    return tensor.shape[axis]


def check_rows(layout: Any, rows: int, groups: int, prefix_sum: bool, alignment: int) -> None:
    """Raise unless the labels of rows, or the ends of groups, are what a tiled kernel can compute."""
    numbers = _numbers("layout", layout)
    if prefix_sum:
        list(psum_spans(numbers, rows, alignment))
    else:
        check_group_labels(numbers, groups, alignment)


def check_mask(masked_m: Any, rows: int) -> None:
    """Raise unless every group has 0 to `rows` rows."""
    integers(_numbers("masked_m", masked_m), "masked_m", 0, rows)


def check_k(layout: Any, k: int, prefix_sum: bool, alignment: int, sizes: Sequence[int] | None = None) -> None:
    """Raise unless sizes of groups of K are those that the host was given and add up to K, or ends lie within it."""
    numbers = _numbers("layout", layout)
    if sizes is not None and not prefix_sum and numbers.tolist() != list(sizes):
        raise InputError(expected("layout", numbers.tolist(), f"{list(sizes)}, the sizes that the host was given"))
    list(k_spans(numbers, k, prefix_sum, alignment))


def _numbers(name: str, tensor: Any) -> Any:
    """Return what a list of int32 on the GPU holds."""
    if str(tensor.dtype) != "torch.int32" or tensor.dim() != 1:
        raise FormatError(expected(name, f"{tensor.dtype} {tuple(tensor.shape)}", "one axis of int32"))
    return tensor.cpu().numpy()
