"""Which instantiation of the SM90 GEMM kernel a shape gets: pure functions of numbers, no GPU, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from math import ceil, gcd

from dgref.backends.cuda.sm90.costs import block_clocks, costs_of, store_clocks, streaming_clocks, widening_clocks
from dgref.backends.cuda.sm90.shape import (
    WORDS,
    Configuration,
    Shape,
    Tile,
    ceil_div,
    is_wide,
    stage_bytes,
    stage_count,
    units_of,
)
from dgref.errors import UnsupportedError, expected

WIDENED_LIMIT = 1 << 30  # bytes of workspace
SPLITS = (1, 2, 3, 4, 6, 8)
# Bytes that a block asks for at once, by B's format, where each has one tile of few rows: all blocks begin together,
# and what some ask for far ahead delays what others wait for. Four stages are kept all the same.
IN_FLIGHT = {"AS_A": 164 << 10, "E2M1": 128 << 10}
KEPT_IN_L2 = 36 << 20  # bytes that survive in L2 while D is written through it


def block_sizes(shape: Shape) -> Iterator[tuple[int, int, int]]:
    """Yield (block_m, block_n, math_groups) that fit the registers: found by compiling each for spills."""
    if shape.weights == "E2M1":  # 64 weights to a warpgroup, and all of the block's rows of A
        many = (shape.scaling, shape.schedule) == ("VECTOR_32", "PREFIX_SUM") or shape.scaling == "POWERS_32"
        widest_m = 64 if many else 128
        yield from ((m, 64 * groups, groups) for m in (16, 32, 64, 128) if m <= widest_m for groups in (1, 2))
        if (shape.schedule, shape.scaling) == ("DENSE", "POWERS_32"):  # folding is what takes so many warps to hide
            yield from ((m, 256, 4) for m in (16, 32))
        return
    widest = {
        "NONE": {64: 256, 128: 256, 256: 128},
        "BLOCK": {64: 128, 128: 192, 256: 128},
        "VECTOR": {64: 128, 128: 128, 192: 96, 256: 128},
        "VECTOR_32": {64: 128, 128: 128},
    }[shape.scaling]
    for block_m, math_groups in ((64, 1), (128, 2), (192, 3), (256, 2)):
        for block_n in (32, 64, 96, 128, 160, 192, 256):
            if block_n <= widest.get(block_m, 0):
                yield block_m, block_n, math_groups


def tiles_of(shape: Shape) -> Iterator[Tile]:
    """Yield every tile that is legal for a shape."""
    for block_m, block_n, math_groups in block_sizes(shape):
        for cluster in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 1, 4)):
            for load_m in (16, 32, 0) if block_m == 64 and shape.weights == "AS_A" else (0,):
                tile = Tile(block_m, block_n, math_groups, *cluster, load_m)
                if is_legal(shape, tile):
                    yield tile


def is_legal(shape: Shape, tile: Tile) -> bool:
    """Say whether the kernel's static assertions and the schedule's promises hold."""
    one_slab = shape.weights == "E2M1" or tile.block_m == 64 * tile.math_groups <= 128
    rules = (
        shape.major_a == "K" or (tile.block_m % 64 == 0 and not tile.load_m),
        shape.major_b == "K" or tile.block_n % 64 == 0,
        tile.cluster_n == 1 or shape.major_a == "K" or tile.block_m % 128 == 0,
        tile.cluster_m == 1 or shape.major_b == "K" or tile.block_n % 128 == 0,
        # a tile may touch two 128-column blocks of scales, not three
        shape.scaling != "BLOCK" or tile.block_n <= 128 + gcd(tile.block_n, 128),
        shape.schedule not in ("LABELLED", "PREFIX_SUM") or shape.alignment % tile.block_m == 0,
        # no group is likely to have rows for a second warpgroup
        shape.schedule != "MASKED" or tile.block_m <= 64 or max(likely_rows(shape)) > 64 or shape.weights == "E2M1",
        # a lone warpgroup hides nothing of its promotion: only for few rows, or where the groups' alignment asks for it
        tile.block_m > 64 or shape.m <= 512 or shape.alignment % 128 != 0 or shape.weights == "E2M1",
        not tile.load_m or (tile.cluster_n == 1 and shape.schedule == "DENSE" and shape.m <= tile.load_m),
        shape.weights == "AS_A" or tile.cluster_m * tile.cluster_n == 1,
        tile.cluster_k == 1 or (shape.schedule == "DENSE" and one_slab),
        not (shape.pointed and is_wide(shape, tile)),
        stage_count(shape, tile) >= 3,
    )
    return all(rules)


def split_choices(shape: Shape) -> tuple[int, ...]:
    """Return the splits of K worth trying; a batch-invariant launch takes its one split from N and K alone."""
    if shape.batch_invariant:
        return (split_count(shape.n, shape.k, shape.block_k),)
    if shape.schedule != "DENSE":
        return (1,)
    return tuple(splits for splits in SPLITS if splits == 1 or shape.blocks_of_k // splits >= 4)


def split_count(n: int, k: int, block_k: int = 128) -> int:
    """Return the split of a batch-invariant launch, a function of N and K only: a row's bits never depend on M."""
    tiles, blocks = ceil_div(n, 64), ceil_div(k, block_k)
    return next((splits for splits in (4, 3, 2) if tiles * splits <= 132 and blocks // splits >= 8), 1)


@lru_cache(maxsize=4096)
def configuration(shape: Shape, multiprocessors: int) -> Configuration:
    """Return the configuration with the least estimated time."""
    found = candidates(shape, multiprocessors)
    if not found:
        raise UnsupportedError(expected("SM90 GEMM", shape, "a shape that one of the block sizes divides"))
    return min(found, key=found.__getitem__)


def candidates(shape: Shape, multiprocessors: int) -> dict[Configuration, float]:
    """Return everything that may be launched for a shape, and the clocks that it is estimated to take."""
    before = {way: widening_clocks(shape) if way.weights != shape.weights else 0 for way in ways(shape)}
    found = (
        configure(way, tile, splits, multiprocessors)
        for way in before
        for tile in tiles_of(way)
        if tile.cluster <= multiprocessors
        for splits in splits_of(way, tile, multiprocessors)
    )
    return {candidate: before[candidate.shape] + estimate(candidate, multiprocessors) for candidate in found}


def splits_of(shape: Shape, tile: Tile, multiprocessors: int) -> tuple[int, ...]:
    """Return the splits of K that a tile is tried with: one, where the blocks of a cluster hold them.

    Such clusters must all run at a time, or some would wait for a whole turn. An H200 holds 66 of two blocks, but 30 of
    four (cuOccupancyMaxActiveClusters), not 33; nine tenths are counted on.
    """
    choices = split_choices(shape)
    if tile.cluster_k == 1:
        return choices
    at_once = multiprocessors // tile.cluster
    if tile.cluster_k > 2:
        at_once = at_once * 9 // 10
    fits = shape.groups * units_of(shape, tile) <= at_once
    return (tile.cluster_k,) if fits and tile.cluster_k in choices else ()


def ways(shape: Shape) -> list[Shape]:
    """Return what may be launched for a shape: itself, or the same with packed weights widened to FP8 before.

    Not where only the GPU knows how many groups there are, nor where the splits of K, and so the bits, could differ.
    """
    wide = widened_shape(shape)
    same_splits = not shape.batch_invariant or split_choices(shape) == split_choices(wide) == (1,)
    known = shape.schedule in ("DENSE", "MASKED") and shape.groups * shape.n * shape.k <= WIDENED_LIMIT
    return [shape, wide] if shape.weights == "E2M1" and known and same_splits else [shape]


def widened_shape(shape: Shape) -> Shape:
    """Return the product of widened weights; where their scales fold, which the GPU finds out, it has blocks of them.

    The GPU then says how many rows of each group are multiplied in this way, and how many by `unfolded`.
    """
    if shape.scaling not in WORDS.values():
        return replace(shape, weights="AS_A")
    folded = {"scaling": "BLOCK", "folded": shape.scaling, "schedule": "MASKED"}
    return replace(shape, weights="AS_A", **folded)


def unfolded(shape: Shape, multiprocessors: int) -> Configuration:
    """Return what multiplies the groups of a folded shape whose scales do not fold: their codes as they are."""
    packed = replace(shape, weights="E2M1", scaling=shape.folded, folded="")
    every = [configure(packed, tile, 1, multiprocessors) for tile in tiles_of(packed)]
    return min(every, key=lambda found: estimate(found, multiprocessors))


def configure(shape: Shape, tile: Tile, splits: int, multiprocessors: int) -> Configuration:
    """Complete a tile to a configuration."""
    units = shape.groups * units_of(shape, tile) * splits // tile.cluster_k
    if shape.schedule != "DENSE":  # only the GPU knows how much there is to do
        units = multiprocessors
    at_once = units if tile.cluster_k > 1 else multiprocessors // tile.cluster  # what shares splits has one tile each
    blocks = min(units, at_once) * tile.cluster
    stages = stage_count(shape, tile)
    if shape.schedule == "DENSE" and shape.m <= tile.block_m <= 64 and units <= at_once:
        stages = min(stages, max(4, IN_FLIGHT[shape.weights] // stage_bytes(shape, tile)))
    return Configuration(shape, tile, stages, splits, band_of(shape, tile, blocks), blocks)


def band_of(shape: Shape, tile: Tile, blocks: int) -> int:
    """Return how many tile rows are walked together: what is read from device memory is least.

    The blocks that run at a time cover a band of rows by some columns. Where both stay in L2 until the next columns,
    A is read once and B once for each band; otherwise every such wave reads both anew.
    """
    rows = ceil_div(ceil_div(shape.m, tile.block_m), tile.cluster_m)
    columns = ceil_div(ceil_div(shape.n, tile.block_n), tile.cluster_n)
    height, width = tile.block_m * tile.cluster_m, tile.block_n * tile.cluster_n
    units = max(1, blocks // tile.cluster)
    row_bytes = shape.k * (1 if shape.element == "E4M3" else 2)

    def lines_read(band: int) -> int:
        covered = min(rows, band * ceil_div(units, band * columns))
        wave = covered * height + min(columns, ceil_div(units, band)) * width
        if wave * row_bytes <= KEPT_IN_L2:
            return rows * height + ceil_div(rows, band) * columns * width
        return ceil_div(rows * columns, units) * wave

    # of equals, the one that divides the rows most evenly, then the widest
    return min(range(1, min(rows, 32) + 1), key=lambda band: (lines_read(band), -rows % band, -band))


def estimate(candidate: Configuration, multiprocessors: int) -> float:
    """Return a launch's estimated clocks."""
    shape, tile, costs = candidate.shape, candidate.tile, costs_of(candidate.shape)
    turns, blocks = turns_of(candidate, multiprocessors), ceil_div(shape.blocks_of_k, candidate.splits)
    turn = blocks * mean_block_clocks(shape, tile) + store_clocks(shape, tile, candidate.splits, costs)
    streaming = streaming_clocks(shape, tile, costs)
    return costs.launch + max(turns * turn, streaming) + costs.overlap * min(turns * turn, streaming)


def turns_of(candidate: Configuration, multiprocessors: int) -> float:
    """Return how many units of work the busiest multiprocessor is expected to have, one after the other."""
    shape, tile = candidate.shape, candidate.tile
    likely = [units_of(shape, tile, rows) for rows in likely_rows(shape)]
    units = shape.groups * sum(likely) / len(likely) * candidate.splits / tile.cluster_k
    turns = units / max(1, min(units, multiprocessors // tile.cluster))
    return max(1.0, turns + 0.25) if len(set(likely)) > 1 else ceil(turns)


def moves_scales(candidate: Configuration, scattered: Sequence[int]) -> bool:
    """Say whether scales that no map can read are moved first, not read one by one as they lie.

    `scattered` says how many such scales a stage holds of each operand that has any. Few are read as fast as by a map.
    """
    shape, costs = candidate.shape, costs_of(candidate.shape)
    blocks = turns_of(candidate, candidate.blocks) * ceil_div(shape.blocks_of_k, candidate.splits)
    return costs.scattered * blocks * sum(scattered) > costs.moving * len(scattered)


def likely_rows(shape: Shape) -> list[int]:
    """Return how many rows a group may have, as likely as not: where they are masked, `m` is a mean over groups."""
    if shape.schedule != "MASKED" or shape.groups == 1:
        return [shape.m]
    return [max(1, min(shape.m * tenths // 10, shape.capacity or shape.m * 2)) for tenths in range(7, 14)]


def mean_block_clocks(shape: Shape, tile: Tile) -> float:
    """Return the clocks of one block of K, over the tiles of likely groups: the last one has fewer rows."""
    height = tile.block_m * tile.cluster_m  # the first block of a cluster has the most rows
    tiles = [min(tile.block_m, rows - top) for rows in likely_rows(shape) for top in range(0, rows, height)]
    clocks = {live: block_clocks(shape, tile, live, costs_of(shape)) for live in set(tiles)}
    return sum(clocks[live] for live in tiles) / len(tiles)
