"""Memory that launches share: partial sums of split tiles, and how many splits of each tile have arrived.

The launches of a stream follow each other and so take the same memory. Graphs captured on one stream do as well: they
are replayed one at a time.
"""

from __future__ import annotations

import threading
from typing import Any

from dgref.errors import UnsupportedError, expected

_BUFFERS: dict[tuple, Any] = {}
_ZEROS: dict[int, Any] = {}  # by device: counters that no stream has yet
_OUTGROWN: list[Any] = []  # graphs that were captured hold addresses, so nothing is given back before it is asked for
_GROWING = threading.Lock()  # of two that threads make at once, one would be given back under a launch that holds it
_TURNS: dict[tuple[int, int], threading.Lock] = {}
_LEAST = 1 << 20  # bytes of a buffer
_ZEROED = 1 << 22  # bytes of counters that are made at once
_SHARE = 1 << 16  # bytes of them that a stream gets: a counter for 16384 tiles


def turn(device: int, stream: int) -> threading.Lock:
    """Return the lock under which launches follow each other on a stream where one reads what another has written."""
    return _TURNS.setdefault((device, stream), threading.Lock())


def partial_sums(device: int, stream: int, count: int) -> Any:
    """Return at least `count` bytes."""
    return _buffer(("partials", device, stream), count)


def rewritten(device: int, stream: int, operand: str, count: int) -> Any:
    """Return at least `count` bytes for an operand, or its scales, that is rewritten before the product."""
    return _buffer((operand, device, stream), count)


def arrivals(device: int, stream: int, count: int, at: str = "splits") -> Any:
    """Return at least `count` counters of 4 bytes, all zero; the kernels that arrive leave them zero again."""
    key, size = (at, device, stream), 4 * count
    with _GROWING:
        held = _BUFFERS.get(key)
        if held is None or held.numel() < size:
            _outgrow(held)
            held = _BUFFERS[key] = _zeros(device, max(_SHARE, -(-size // 256) * 256))
            _lend(held, device)
        return held


def make_ready(device: int) -> None:
    """Make counters for the streams to come, among them those that graphs will be captured on."""
    if device not in _ZEROS and not _capturing():
        with _GROWING:
            _ZEROS.setdefault(device, _allocate(_ZEROED, device, zeroed=True))


def forget() -> None:
    """Let go of all memory here: it is free once no plan holds it."""
    with _GROWING:
        _BUFFERS.clear()
        _ZEROS.clear()
        _OUTGROWN.clear()


def _zeros(device: int, size: int) -> Any:
    """Return bytes that are zero already: a graph that zeroed them would do so before its own launches alone."""
    free = _ZEROS.get(device)
    if free is None or free.numel() < size:
        if _capturing():
            need = "a launch of this shape before the capture: splits of K are counted in memory that is zero by then"
            raise UnsupportedError(expected("CUDA graph", "the first launches of a device inside a capture", need))
        free = _allocate(max(_ZEROED, size), device, zeroed=True)
    _ZEROS[device] = free[size:]
    return free[:size]


def _buffer(key: tuple, count: int) -> Any:
    with _GROWING:
        held = _BUFFERS.get(key)
        if held is None or held.numel() < count:
            _outgrow(held)
            size = max(_LEAST, 1 << (count - 1).bit_length())  # doubled: all that is outgrown is less than this
            held = _BUFFERS[key] = _allocate(size, key[1], zeroed=False)
        return held


def _outgrow(held: Any) -> None:
    if held is not None:
        _OUTGROWN.append(held)


def _allocate(size: int, device: int, zeroed: bool) -> Any:
    import torch

    if not zeroed:
        return torch.empty(size, dtype=torch.uint8, device=f"cuda:{device}")
    made = torch.zeros(size, dtype=torch.uint8, device=f"cuda:{device}")
    torch.cuda.current_stream(device).synchronize()  # whichever stream takes a part of it
    return made


def _lend(part: Any, device: int) -> None:
    """Keep memory from being used for anything else before the current stream is done with it, once it is let go."""
    import torch

    part.record_stream(torch.cuda.current_stream(device))


def _capturing() -> bool:
    import torch

    return torch.cuda.is_current_stream_capturing()
