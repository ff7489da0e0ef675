"""What a call writes that has no K to sum over: C, or zero, into the elements that a launch would write."""

from __future__ import annotations

from typing import Any

from dgref.errors import LayoutError, expected


def add_nothing(d: Any, c: Any) -> None:
    """Write what a product over no K is: c, or zero."""
    check_addend(c, d)
    if c is None:
        d.zero_()
    elif c.data_ptr() != d.data_ptr():
        d.copy_(c.clone())  # c may overlap d


def check_addend(c: Any, d: Any) -> None:
    """Raise unless C, where there is one, lies as D does; it may be D itself."""
    if c is not None and (c.dtype, c.shape, c.stride()) != (d.dtype, d.shape, d.stride()):
        raise LayoutError(expected("c", (c.dtype, tuple(c.shape)), f"the dtype, shape and strides of d, {d.dtype}"))


def zero_labelled(d: Any, layout: Any, zero_padding: bool) -> None:
    """Write zeros into the rows that have a label, or into all of them."""
    d.zero_() if zero_padding else d.masked_fill_((layout >= 0)[:, None], 0)


def zero_ended(d: Any, ends: Any, alignment: int, zero_padding: bool) -> None:
    """Write zeros into the rows of groups with these ends, and into those up to the next group's start."""
    import torch

    aligned = (ends + (alignment - 1)) // alignment * alignment
    starts = torch.cat([aligned.new_zeros(1), aligned[:-1]])
    stops = aligned if zero_padding else ends
    row = torch.arange(d.shape[0], device=d.device)[:, None]
    d.masked_fill_(((row >= starts) & (row < stops)).any(1, keepdim=True), 0)


def zero_masked(d: Any, masked_m: Any) -> None:
    """Write zeros into the first masked_m[g] rows of each group."""
    import torch

    rows = torch.arange(d.shape[1], device=d.device)
    d.masked_fill_((rows < masked_m[:, None])[..., None], 0)
