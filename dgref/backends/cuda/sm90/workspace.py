"""Memory that launches share: partial sums of split tiles, and how many splits of each tile have arrived."""

from __future__ import annotations

from typing import Any

_BUFFERS: dict[tuple, Any] = {}
_OUTGROWN: list[Any] = []  # launches that are kept ready hold addresses, so nothing is given back


def partial_sums(device: int, stream: int, count: int) -> Any:
    """Return at least `count` bytes, the same ones for every launch on a stream: launches on it follow each other."""
    return _buffer(("partials", device, stream), count, zeroed=False)


def arrivals(device: int, stream: int, count: int) -> Any:
    """Return at least `count` counters of 4 bytes, all zero; the kernel leaves them zero again."""
    return _buffer(("arrivals", device, stream), count * 4, zeroed=True)


def rewritten(device: int, stream: int, operand: str, count: int) -> Any:
    """Return at least `count` bytes for an operand, or its scales, that is rewritten before the product."""
    return _buffer((operand, device, stream), count, zeroed=False)


def _buffer(key: tuple, count: int, zeroed: bool) -> Any:
    import torch

    held = _BUFFERS.get(key)
    if held is None or held.numel() < count:
        if held is not None:
            _OUTGROWN.append(held)
        make = torch.zeros if zeroed else torch.empty
        size = max(1 << 20, 1 << (count - 1).bit_length())  # doubling: all that is outgrown is less than what is held
        held = _BUFFERS[key] = make(size, dtype=torch.uint8, device=f"cuda:{key[1]}")
    return held
