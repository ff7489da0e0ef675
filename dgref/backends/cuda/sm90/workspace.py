"""Memory that launches share: partial sums of split tiles, and how many splits of each tile have arrived."""

from __future__ import annotations

import threading
from typing import Any

_BUFFERS: dict[tuple, Any] = {}
_OUTGROWN: list[Any] = []  # launches that are kept ready hold addresses, so nothing is given back
_GROWING = threading.Lock()
_TURNS: dict[tuple[int, int], threading.Lock] = {}


def turn(device: int, stream: int) -> threading.Lock:
    """Return the lock under which launches follow each other on a stream where one reads what another has written."""
    return _TURNS.setdefault((device, stream), threading.Lock())


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

    with _GROWING:  # of two that threads make at once, one would be given back under a launch that holds its address
        held = _BUFFERS.get(key)
        if held is None or held.numel() < count:
            if held is not None:
                _OUTGROWN.append(held)
            make = torch.zeros if zeroed else torch.empty
            size = max(1 << 20, 1 << (count - 1).bit_length())  # doubled: all that is outgrown is less than this
            held = _BUFFERS[key] = make(size, dtype=torch.uint8, device=f"cuda:{key[1]}")
        return held
