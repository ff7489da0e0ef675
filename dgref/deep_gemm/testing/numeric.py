"""How alike two tensors are, as DeepGEMM's tests measure it; `dgref.compare` says what is wrong where they are not."""

from __future__ import annotations

import torch

from dgref.errors import ConformanceError, FormatError, ShapeError, counted, expected


def calc_diff(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor | float:
    """Return 1 - 2 <x, y> / (<x, x> + <y, y>) in float64: 0 for equal tensors."""
    x, y = x.double(), y.double()
    total = (x * x + y * y).sum()
    return 1 - 2 * (x * y).sum() / total if total != 0 else 0.0


def count_bytes(*tensors) -> int:
    """Return how many bytes tensors have, those in tuples and lists included; None has none."""
    total = 0
    for tensor in tensors:
        if isinstance(tensor, tuple | list):
            total += count_bytes(*tensor)
        elif tensor is not None:
            total += tensor.numel() * tensor.element_size()
    return total


def assert_bitwise_equal(x: torch.Tensor, y: torch.Tensor, label: str = "") -> None:
    """Raise unless two tensors are equal bit for bit; the error names the first element that is not."""
    if x.shape != y.shape:
        raise ShapeError(expected("y shape", list(y.shape), list(x.shape), label))
    if x.dtype != y.dtype:
        raise FormatError(expected("y", y.dtype, x.dtype, label))
    bits_x, bits_y = (
        t.clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).reshape(-1, t.element_size())
        for t in (x, y)
    )
    wrong = (bits_x != bits_y).any(dim=1)
    if not bool(wrong.any()):
        return
    first = int(wrong.nonzero()[0])
    place = [int(i) for i in torch.unravel_index(torch.tensor(first), x.shape)]
    got, need = (bytes(bits[first].flip(0).tolist()).hex() for bits in (bits_y, bits_x))
    raise ConformanceError(
        expected(
            f"y{place}",
            f"bits {got}",
            f"{need}; {int(wrong.sum()):,} of {counted(len(wrong), 'element')} differ",
            label,
        )
    )


__all__ = ["assert_bitwise_equal", "calc_diff", "count_bytes"]
