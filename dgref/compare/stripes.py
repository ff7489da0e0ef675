"""Sets along one axis and their shortest words: ranges, ends, periodic stripes, groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import log2
from typing import Any

import numpy as np

PERIODS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
_ACROSS = 4.0  # bits that a description pays for numbering rows across groups
_RANGES = 4  # separate ranges that a description may list


@dataclass(frozen=True)
class Axis:
    """A set of indices along one axis, what it is called, and the bits it takes to say so."""

    name: str
    text: str
    chosen: np.ndarray
    bits: float
    data: Any = field(default=None)
    all: bool = False


def axis_candidates(counts: np.ndarray, name: str, groups: int = 0, labels: np.ndarray | None = None) -> list[Axis]:
    """Return descriptions of the indices where something differs, the whole axis first.

    Two sets are described: every index with a difference, and, where some have far more than others, only those.
    `groups` is the extent of one group of consecutive indices, `labels` each index's group; either adds "group g".
    """
    found = [Axis(name + "s", f"all {name}s", np.ones(counts.size, bool), 0.0, "all", all=True)]
    seen = set()
    for support in (counts > 0, counts > counts.max(initial=0) / 4):
        if support.tobytes() in seen or not support.any() or support.all():
            continue
        seen.add(support.tobytes())
        plain = [*_ranges(support, name), *_periodic(support, name)]
        if groups and counts.size > groups:
            plain = [replace(axis, bits=axis.bits + _ACROSS) for axis in plain]
            found += _grouped(support, name, groups)
        found += plain
        if labels is not None:
            found += _labelled(support, np.asarray(labels).reshape(-1))
    return found


def ranges(support: np.ndarray) -> list[tuple[int, int]]:
    """Return the maximal ranges [first, last] of a set."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], support, [False]]).astype(np.int8)))
    return [(int(first), int(last) - 1) for first, last in edges.reshape(-1, 2)]


def _ranges(support: np.ndarray, name: str) -> Iterator[Axis]:
    parts, size = ranges(support), support.size
    if len(parts) <= _RANGES:
        tail = (
            f" (the last {size - parts[0][0]})" if len(parts) == 1 and 0 < parts[0][0] < parts[0][1] == size - 1 else ""
        )
        yield Axis(name + "s", _words(name, parts) + tail, support, _range_bits(parts, size), parts)
        return
    yield Axis(name + "s", f"{int(support.sum())} of {size} {name}s", support, _subset_bits(support), parts[:_RANGES])


def _range_bits(parts: list[tuple[int, int]], size: int) -> float:
    """Return the bits that say some ranges: two ends each, or one index and that there is only one."""
    return sum(log2(size) + (1 if first == last else log2(size)) for first, last in parts)


def _subset_bits(support: np.ndarray) -> float:
    share = support.mean()
    return -support.size * (share * log2(share) + (1 - share) * log2(1 - share)) + 2 * log2(support.size)


def _words(name: str, parts: list[tuple[int, int]]) -> str:
    plural = name if len(parts) == 1 and parts[0][0] == parts[0][1] else name + "s"
    return f"{plural} " + ", ".join(str(first) if first == last else f"{first}..{last}" for first, last in parts)


def _periodic(support: np.ndarray, name: str) -> Iterator[Axis]:
    """Yield stripes that repeat: the first period that explains the set in few ranges is the shortest."""
    for period in PERIODS:
        if 2 * period > support.size:
            return
        folded = np.zeros(-(-support.size // period) * period, bool)
        folded[: support.size] = support
        pattern = folded.reshape(-1, period).any(axis=0)
        parts = ranges(pattern)
        if pattern.all() or len(parts) > _RANGES:
            continue
        chosen = np.resize(pattern, support.size)
        bits = log2(len(PERIODS)) + _range_bits(parts, period)
        data = {"period": period, "ranges": parts}
        yield Axis(name + "s", f"{_words(name, parts)} of every {period}", chosen, bits, data)


def _grouped(support: np.ndarray, name: str, extent: int) -> Iterator[Axis]:
    """Yield sets of whole groups, and a set inside one group."""
    folded = support.reshape(-1, extent)
    touched = folded.any(axis=1)
    chosen = np.repeat(touched, extent)
    yield from _groups(touched, chosen)
    within = folded.any(axis=0)
    for part in (*_ranges(within, name), *_periodic(within, name)):
        if not within.all():
            inside = (touched[:, None] & part.chosen).reshape(-1)
            for group in _groups(touched, chosen) if not touched.all() else [None]:
                text = part.text + (f" of {group.text}" if group else " of every group")
                bits = part.bits + (group.bits if group else 1)
                yield Axis(name + "s", text, inside, bits, {"of_each_group": part.data, "groups": group and group.data})


def _labelled(support: np.ndarray, labels: np.ndarray) -> Iterator[Axis]:
    names = np.unique(labels)
    touched = np.isin(names, labels[support])
    yield from _groups(touched, np.isin(labels, names[touched]), names)


def _groups(touched: np.ndarray, chosen: np.ndarray, names: np.ndarray | None = None) -> Iterator[Axis]:
    numbers = np.flatnonzero(touched) if names is None else names[touched]
    listed = [int(number) for number in numbers]
    if touched.all() or len(listed) > 8:
        return
    text = f"group {listed[0]} only" if len(listed) == 1 else "groups " + ", ".join(map(str, listed))
    yield Axis("groups", text, chosen, log2(touched.size + 1) * len(listed), listed)
