"""The scheduler of kernels/sm90/scheduler.cuh, retold in Python so that its partition can be checked without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dgref.backends.cuda.sm90.shape import Configuration, ceil_div


@dataclass(frozen=True)
class Work:
    """One tile of one block: rows and columns of D in its group, and its blocks of K."""

    group: int
    row: int
    column: int
    rows: int
    split: int
    block_begin: int
    block_end: int
    slot: int


def walk(configuration: Configuration, sizes: list[int] | None = None) -> Iterator[Work]:
    """Yield what every block of a launch does; `sizes` are the rows or the K of each group, as the GPU reads them."""
    for block in range(configuration.blocks):
        yield from walk_block(configuration, block, sizes)


def walk_block(configuration: Configuration, block: int, sizes: list[int] | None) -> Iterator[Work]:
    shape, tile = configuration.shape, configuration.tile
    rank, cluster = block % tile.cluster, tile.cluster
    columns = ceil_div(ceil_div(shape.n, tile.block_n), tile.cluster_n)
    group, before, index = 0, 0, block // cluster
    groups = len(sizes) if sizes is not None else shape.groups

    def units(which: int) -> int:
        rows = sizes[which] if sizes is not None and shape.schedule == "MASKED" else shape.m
        return ceil_div(ceil_div(rows, tile.block_m), tile.cluster_m) * columns

    while True:
        unit, split = index // configuration.splits, index % configuration.splits
        if tile.cluster_k > 1:
            unit, split = index, rank
        while group < groups and unit >= before + units(group):
            before, group = before + units(group), group + 1
        if group >= groups:
            return
        yield _place(configuration, sizes, group, unit - before, columns, units(group) // columns, rank, split, unit)
        index += configuration.blocks // cluster


def _place(configuration, sizes, group, unit, columns, unit_rows, rank, split, slot) -> Work:
    shape, tile = configuration.shape, configuration.tile
    first = unit // (configuration.band * columns) * configuration.band
    height = min(configuration.band, unit_rows - first)
    within = unit % (configuration.band * columns)
    row = ((first + within % height) * tile.cluster_m + (rank if tile.cluster_m > 1 else 0)) * tile.block_m
    column = (within // height * tile.cluster_n + (rank if tile.cluster_n > 1 else 0)) * tile.block_n
    total_rows = sizes[group] if sizes is not None and shape.schedule == "MASKED" else shape.m
    k = sizes[group] if sizes is not None and shape.schedule == "K_SIZES" else shape.k
    blocks = ceil_div(k, shape.block_k)
    return Work(
        group,
        row,
        column,
        max(0, min(tile.block_m, total_rows - row)),
        split,
        split * blocks // configuration.splits,
        (split + 1) * blocks // configuration.splits,
        slot * tile.cluster + rank,
    )
