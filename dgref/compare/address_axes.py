"""Rules along one axis, simplest first: what index is read for each index, from pairs that were seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

_GROUPS = (2, 4, 8, 16, 32, 64, 128)
_LISTED = 8  # an order of more is no simple rule


@dataclass(frozen=True, eq=False)
class Axis:
    """What was read along one axis: `target[i]` for `source[i]`, ascending; the grid has `extent` of them."""

    name: str
    source: np.ndarray
    target: np.ndarray
    extent: int


@dataclass(frozen=True)
class AxisRule:
    """Words such as "row + 1", and the index read for each index."""

    words: str
    at: Callable[[np.ndarray], np.ndarray]


def plain_rules(axis: Axis) -> Iterator[AxisRule]:
    """Yield the rules of ordinary arithmetic that give every pair seen."""
    return (rule for rule in _plain(axis) if np.array_equal(rule.at(axis.source), axis.target))


def mixed_rules(axis: Axis) -> Iterator[AxisRule]:
    """Yield the plain rules, then permutations of bits and orders within small groups."""
    yield from plain_rules(axis)
    yield from (rule for rule in _mixed(axis) if np.array_equal(rule.at(axis.source), axis.target))


def _plain(axis: Axis) -> Iterator[AxisRule]:
    name, extent, first = axis.name, axis.extent, int(axis.target[0])
    yield AxisRule(name, lambda i: i)
    yield AxisRule(str(first), lambda i: np.full_like(i, first))
    yield from _shifts(axis)
    total = first + int(axis.source[0])
    yield AxisRule(f"{total} - {name}", lambda i: total - i)
    for d in range(2, int(axis.source[-1]) + 1):
        yield AxisRule(f"{name} // {d}", lambda i, d=d: i // d)
        yield AxisRule(f"min({name} // {d}, {extent - 1})", lambda i, d=d: np.minimum(i // d, extent - 1))
        yield AxisRule(f"{name} mod {d}", lambda i, d=d: i % d)
        yield AxisRule(f"{name} - {name} mod {d}", lambda i, d=d: i - i % d)
        if d < extent:
            yield AxisRule(f"{d} * {name}", lambda i, d=d: d * i)
            yield AxisRule(f"({d} * {name}) mod {extent}", lambda i, d=d: d * i % extent)
    flipped = first ^ int(axis.source[0])
    yield AxisRule(f"{name} xor {flipped}", lambda i: i ^ flipped)


def _shifts(axis: Axis) -> Iterator[AxisRule]:
    """Yield distances: past the end there is nothing, or the other end, or the last one again."""
    for step in dict.fromkeys((axis.target - axis.source)[[0, -1]].tolist()):
        nearest = (step + axis.extent // 2) % axis.extent - axis.extent // 2
        moved, round_about = (f"{axis.name} {'+' if by > 0 else '-'} {abs(by)}" for by in (step, nearest))
        bounds = f"min({moved}, {axis.extent - 1})" if step > 0 else f"max({moved}, 0)"
        yield AxisRule(moved, lambda i, by=step: i + by)
        yield AxisRule(f"({round_about}) mod {axis.extent}", lambda i, by=step: (i + by) % axis.extent)
        yield AxisRule(bounds, lambda i, by=step: np.clip(i + by, 0, axis.extent - 1))


def _mixed(axis: Axis) -> Iterator[AxisRule]:
    yield from _bit_order(axis)
    for size in _GROUPS:
        order = axis.target[axis.source < size]
        if np.array_equal(axis.source[:size], np.arange(size)) and (order < size).all():
            yield from _in_groups(axis.name, size, order)


def _in_groups(name: str, size: int, order: np.ndarray) -> Iterator[AxisRule]:
    """Yield the same order within every group: listed where it is short, else by a rule of its own."""
    base = f"{name} - {name} mod {size}"
    inner = next(plain_rules(Axis(f"({name} mod {size})", np.arange(size), order, size)), None)
    listed = f"({', '.join(map(str, order))})[{name} mod {size}]" if size <= _LISTED else ""
    words = inner.words if inner else listed
    if words:
        yield AxisRule(f"{base} + {words}", lambda i: i - i % size + order[i % size])


def _bit_order(axis: Axis) -> Iterator[AxisRule]:
    """Yield the permutation of the index's bits, where every bit read is one bit of the index."""
    width = max(int(axis.source[-1]).bit_length(), (axis.extent - 1).bit_length())
    sources = [axis.source >> i & 1 for i in range(width)]
    order = []
    for i in range(width):
        same = [j for j in range(width) if np.array_equal(axis.target >> i & 1, sources[j])]
        if not same:
            return
        order.append(i if i in same else same[0])
    moved = ", ".join(f"bit {i} from bit {j}" for i, j in enumerate(order) if i != j)
    yield AxisRule(f"{axis.name} with {moved}", lambda i: sum((i >> j & 1) << place for place, j in enumerate(order)))
