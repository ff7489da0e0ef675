"""The simplest rule that gives every address a kernel was seen to read: over coordinates, layouts, or address bits.

A rule is kept only if it gives every address that was decoded, and leaves the grid or meets padding only where none
was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product

import numpy as np

from dgref.compare.address_axes import Axis, mixed_rules, plain_rules
from dgref.errors import LayoutError
from dgref.formats.layouts import LAYOUTS, Layout

UNREAD, UNASKED = -1, -2  # nothing that was written came back; no output shows this position
_COMBINATIONS = 64  # of rules that give every address seen, and differ where nothing was read


@dataclass(frozen=True, eq=False)
class Reads:
    """Which element of a grid was read for each position: flat indices, or UNREAD, or UNASKED.

    `axes` name the positions, `targets` the grid's own coordinates; the two differ where a scale is asked for row by
    row. `right` are the indices that should have been read, `layout` is where the grid lies in memory.
    """

    found: np.ndarray
    right: np.ndarray
    grid: tuple[int, ...]
    axes: tuple[str, ...]
    targets: tuple[str, ...]
    layout: str | None = None

    @cached_property
    def asked(self) -> np.ndarray:
        """Where an output shows what was read."""
        return self.found != UNASKED

    @cached_property
    def known(self) -> np.ndarray:
        """Where an address was decoded."""
        return self.found >= 0

    @property
    def in_place(self) -> bool:
        """Whether everything that was asked for was read where it belongs."""
        return bool((self.found == self.right)[self.asked].all())

    @cached_property
    def positions(self) -> tuple[np.ndarray, ...]:
        """The coordinates of every position."""
        return tuple(np.indices(self.found.shape))

    def explained_by(self, guess: np.ndarray) -> bool:
        """Whether a rule gives every address found, and leaves the grid only where none was found."""
        return bool((guess == self.found)[self.known].all() and (self.found == UNREAD)[self.asked & (guess < 0)].all())

    def flat(self, coordinates: tuple[np.ndarray, ...]) -> np.ndarray:
        """Return flat indices, UNREAD outside the grid."""
        inside = np.ones(self.found.shape, bool)
        for values, extent in zip(coordinates, self.grid, strict=True):
            inside &= (values >= 0) & (values < extent)
        kept = [np.broadcast_to(np.where(inside, values, 0), inside.shape) for values in coordinates]
        return np.where(inside, np.ravel_multi_index(kept, self.grid), UNREAD)

    def place(self, words: tuple[str, ...]) -> str:
        """Return words for a place: "(row, block)"; one word stands alone."""
        return f"({', '.join(words)})" if len(words) > 1 else words[0]


def rule(reads: Reads) -> str | None:
    """Return what was read instead, such as "(row, block) reads (row + 1, block)"; None where no rule fits."""
    if not reads.known.any():
        return None
    for find in (_by_axes(plain_rules), _exchanged, _laid_out, _affine, _by_axes(mixed_rules), _bits):
        words = find(reads)
        if words is not None:
            return words
    return None


def examples(reads: Reads, count: int = 4) -> list[str]:
    """Return a few positions that read elsewhere, each with what it read."""
    wrong = np.argwhere(reads.known & (reads.found != reads.right))
    step = max(len(wrong) // count, 1)
    return [_example(reads, tuple(place)) for place in wrong[::step][:count]]


def silent(reads: Reads) -> str:
    """Return between which positions those lie that show no address; nothing where all do."""
    places = np.argwhere(reads.found == UNREAD)
    return f"{_numbers(places[0])} to {_numbers(places[-1])}" if len(places) else ""


def _example(reads: Reads, place: tuple[int, ...]) -> str:
    return f"{_numbers(place)} reads {_numbers(np.unravel_index(reads.found[place], reads.grid))}"


def _numbers(place: tuple) -> str:
    return "(" + ", ".join(str(int(i)) for i in place) + ")"


def _sentence(reads: Reads, words: list[str]) -> str:
    said = f"{reads.place(reads.axes)} reads {reads.place(tuple(words))}"
    if reads.found.shape == reads.grid or reads.in_place:
        return said
    return f"{said} where {rule(replace(reads, found=reads.right)).partition(' reads ')[2]} belongs"


def _by_axes(family: Callable[[Axis], Iterator]) -> Callable[[Reads], str | None]:
    return lambda reads: _separable(reads, family, range(len(reads.grid)))


def _exchanged(reads: Reads) -> str | None:
    """The last two coordinates exchanged, as in a transposed grid."""
    last = len(reads.grid) - 1
    return _separable(reads, plain_rules, (*range(last - 1), last, last - 1)) if last else None


def _separable(reads: Reads, family: Callable[[Axis], Iterator], sources: tuple[int, ...] | range) -> str | None:
    """One rule for each coordinate of the grid, each of one coordinate of the position."""
    targets = np.unravel_index(np.where(reads.known, reads.found, 0), reads.grid)
    chosen = []
    for source, target, extent in zip(sources, targets, reads.grid, strict=True):
        pairs = np.unique(np.stack([reads.positions[source][reads.known], target[reads.known]]), axis=1)
        if np.unique(pairs[0]).size != pairs.shape[1]:
            return None
        axis = Axis(reads.axes[source], pairs[0], pairs[1], extent)
        chosen.append((source, list(family(axis))))
    return _first_that_fits(reads, chosen)


def _first_that_fits(reads: Reads, chosen: list[tuple[int, list]]) -> str | None:
    """Return the first combination that explains what was not read too: rules of one axis may differ in that alone."""
    for picked in islice(product(*(rules for _, rules in chosen)), _COMBINATIONS):
        places = [rule.at(reads.positions[source]) for rule, (source, _) in zip(picked, chosen, strict=True)]
        if reads.explained_by(reads.flat(tuple(places))):
            return _sentence(reads, [rule.words for rule in picked])
    return None


def _laid_out(reads: Reads) -> str | None:
    """A grid that was written in one layout and read in another, its own layout first."""
    if reads.layout is None or reads.found.shape != reads.grid or len(reads.grid) < 2:
        return None
    placed = {name: _addresses(LAYOUTS[name], reads.grid) for name in LAYOUTS}
    placed = {name: addresses for name, addresses in placed.items() if addresses is not None}
    own = LAYOUTS[reads.layout].name
    for written in sorted(placed, key=lambda name: (name != own, name != "linear")):
        held = _inverse(placed[written])
        for read, addresses in placed.items():
            if read != written and reads.explained_by(_look_up(held, addresses)):
                if written == own:
                    return f"packed as {written}, the grid is read as {read}"
                return f"{reads.place(reads.axes)} reads what a grid packed as {written} and read as {read} gives"
    return None


def _addresses(layout: Layout, grid: tuple[int, ...]) -> np.ndarray | None:
    if layout.parameters or layout.copies or grid[-2] % layout.divisor:
        return None
    try:
        return layout.addresses(grid)
    except LayoutError:
        return None


def _inverse(addresses: np.ndarray) -> np.ndarray:
    """Return which flat index lies at each address, UNREAD where padding does."""
    held = np.full(int(addresses.max()) + 1, UNREAD, np.int64)
    held[addresses.reshape(-1)] = np.arange(addresses.size)
    return held


def _look_up(held: np.ndarray, addresses: np.ndarray) -> np.ndarray:
    inside = (addresses >= 0) & (addresses < held.size)
    return np.where(inside, held[np.where(inside, addresses, 0)], UNREAD)


def _affine(reads: Reads) -> str | None:
    """A buffer address that is a sum of strides, in the grid's own layout or in row order: a wrong stride or start."""
    if reads.found.shape != reads.grid:
        return None
    for name in dict.fromkeys((LAYOUTS[reads.layout].name if reads.layout else "linear", "linear")):
        placed = _addresses(LAYOUTS[name], reads.grid) if len(reads.grid) > 1 else None
        right = None if placed is None else _strides(reads.positions, placed, np.ones(reads.grid, bool))
        if right is None:
            continue
        seen = _strides(reads.positions, _look_up(placed.reshape(-1), reads.found), reads.known)
        if seen is not None:
            guess = _look_up(_inverse(placed), _sum(seen, reads.positions))
            if reads.explained_by(guess):
                words = [_sum_in_words(strides, reads.axes) for strides in (seen, right)]
                return f"{reads.place(reads.axes)} is read at address {words[0]} where it lies at {words[1]} ({name})"
    return None


def _strides(positions: tuple[np.ndarray, ...], addresses: np.ndarray, known: np.ndarray) -> list[int] | None:
    """Return whole strides and a start, the start last, that give every known address; None where none do."""
    columns = np.stack([*(axis[known] for axis in positions), np.ones(int(known.sum()), np.int64)], axis=1)
    found = [int(value) for value in np.linalg.lstsq(columns, addresses[known], rcond=None)[0].round()]
    return found if (columns @ np.array(found) == addresses[known]).all() else None


def _sum(strides: list[int], positions: tuple[np.ndarray, ...]) -> np.ndarray:
    return sum(stride * axis for stride, axis in zip(strides, positions, strict=False)) + strides[-1]


def _sum_in_words(strides: list[int], names: tuple[str, ...]) -> str:
    terms = [name if s == 1 else f"{s} * {name}" for s, name in zip(strides, names, strict=False) if s]
    return " + ".join([*terms, *([str(strides[-1])] if strides[-1] or not terms else [])])


def _bits(reads: Reads) -> str | None:
    """Every bit of the coordinates read is one bit of the position, whichever coordinate that bit belongs to."""
    sources = [(f"bit {i} of {name}", axis >> i & 1) for name, axis in zip(reads.axes, reads.positions, strict=True)
               for i in range(int(axis.max()).bit_length())]  # fmt: skip
    targets = np.unravel_index(np.where(reads.known, reads.found, 0), reads.grid)
    moved, coordinates = [], []
    for number, (name, target, extent) in enumerate(zip(reads.targets, targets, reads.grid, strict=True)):
        total = np.zeros(reads.found.shape, np.int64)
        for i in range((extent - 1).bit_length()):
            same = [source for source in sources if ((target >> i & 1) == source[1])[reads.known].all()]
            own = [source for source in same if source[0] == f"bit {i} of {reads.axes[number]}"]
            if not same:
                return None
            words, values = (own or same)[0]
            total |= values << i
            moved += [] if own else [f"bit {i} of {name} is {words}"]
        coordinates.append(total)
    if not reads.explained_by(reads.flat(tuple(coordinates))):
        return None
    return f"{reads.place(reads.axes)} reads where " + ", ".join(moved)
