"""What a launch is expected to cost, in clocks: enough to rank configurations, not to predict times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgref.backends.cuda.sm90.shape import Shape, Tile


@dataclass(frozen=True)
class Costs:
    """Clocks at 1755 MHz, fitted to 4400 timed launches of FP8 on an H200 (docs/kernels-sm90.md)."""

    launch: float = 9_120  # an empty launch with cold caches
    block: float = 132  # of a block of K, whatever its size
    together: float = 172  # likewise where a warpgroup issues several of them at once
    column: float = 0.745  # of a slab, for each column: the wgmma of one warpgroup
    scale: float = 1.5  # likewise, where each column has its own scale
    blocks: float = 1.16  # times the tensor cores' own rate, with scales of 128 x 128
    between: float = 36  # of a block of K of that: what promotion leaves idle, whatever the tile
    select: float = 1.19  # times that where every column selects its scale
    vectors: float = 1.16  # with scales of 1 x 128
    vectors_between: float = 290  # of a block of K of that: what promotion of each slab leaves idle
    vectors_32: float = 4.2  # with scales of 1 x 32, promoted four times as often
    written: float = 1.08  # times 128 bytes per clock of shared memory: by copies
    read: float = 1.08  # and by wgmma
    l2: float = 57.7  # bytes per clock and multiprocessor
    power: float = 0.131  # of the time of a copy through L2: what it takes from the tensor cores' clock
    stream: float = 30.7  # bytes of B per clock and multiprocessor
    device: float = 3340  # bytes per clock of the whole card
    again: float = 1  # times that where B is read by several rows of tiles, and stays in L2
    overlap: float = 0.41  # of the shorter of computing and streaming that is not hidden
    store: float = 521  # of a tile, whatever its size
    stored: float = 61.7  # bytes per clock
    reduction: float = 2080
    arrival: float = 1250  # of each split
    reduced: float = 167  # bytes per clock
    exchange: float = 857  # of splits that are added up within a cluster
    exchanged: float = 27  # bytes per clock
    scattered: float = 0.6  # of each scale that is read by itself
    moving: float = 5_300  # of a launch that moves scales first


@dataclass(frozen=True)
class ChainCosts(Costs):
    """Likewise of BF16, whose sums are never promoted, fitted to 3100 launches."""

    launch: float = 10_000
    block: float = 137
    column: float = 0.642
    blocks: float = 0.915
    written: float = 0.143
    read: float = 1.29
    l2: float = 57.1
    power: float = 0.0448
    stream: float = 48.1
    device: float = 3050
    again: float = 1.45
    overlap: float = 0.506
    store: float = 382
    stored: float = 49.9
    reduction: float = 3300
    arrival: float = 2190
    reduced: float = 45.9
    exchange: float = 1500
    exchanged: float = 12.5


@dataclass(frozen=True)
class PackedCosts(Costs):
    """Likewise where weights are packed, fitted to 70 launches of few tokens: a block of K is 256 elements here."""

    launch: float = 10_750
    block: float = 348
    slab: float = 112  # of 64 weights, widened
    folded: float = 294  # likewise, with scales of 1 x 32 folded into the codes
    promoted: float = 5.65  # of a slab, for each row of A
    promoted_32: float = 13.8  # likewise, with scales of 1 x 32
    device: float = 1820
    overlap: float = 0.156
    store: float = 2350
    stored: float = 9.6
    reduction: float = 5220
    arrival: float = 264
    reduced: float = 42
    exchange: float = 690
    before: float = 5_000  # of a launch that widens everything first, beside its bytes
    rewritten: float = 1391  # bytes per clock of such a launch


H200 = Costs()
H200_CHAIN = ChainCosts()
H200_PACKED = PackedCosts()


def costs_of(shape: Shape) -> Costs:
    """Return the constants that were fitted to launches like this one."""
    return H200_PACKED if shape.weights == "E2M1" else H200 if shape.element == "E4M3" else H200_CHAIN


def widening_clocks(shape: Shape, costs: PackedCosts = H200_PACKED) -> float:
    """Return the clocks of a launch that widens all weights: each is read as half a byte and written as one.

    Where scales are folded, another launch follows for groups whose scales do not fold.
    """
    launches = 1 if shape.scaling in ("VECTOR", "VECTOR_32") else 2
    return launches * costs.before + 1.5 * shape.groups * shape.n * shape.k / costs.rewritten


def packed_block_clocks(shape: Shape, tile: Tile, costs: PackedCosts) -> float:
    """Return the clocks of a block of K whose weights are widened in registers by the warpgroups that multiply them."""
    promoted = costs.promoted_32 if shape.scaling == "VECTOR_32" else costs.promoted
    slab = costs.slab + (costs.folded if shape.scaling == "POWERS_32" else 0)
    return costs.block + tile.math_groups * (slab + promoted * tile.block_m)


def block_clocks(shape: Shape, tile: Tile, live: int, costs: Costs = H200) -> float:
    """Return the clocks of one block of K: the slowest of warpgroups, tensor cores, shared memory, L2 and device.

    Of the tile's rows only `live` count: slabs of 64 that have none are not multiplied where the GPU knows the rows; of
    BF16 all slabs of a warpgroup are one chain.
    """
    if isinstance(costs, PackedCosts):
        return packed_block_clocks(shape, tile, costs)
    copied = (tile.rows_copied / tile.cluster_n + tile.block_n / tile.cluster_m) * 128 / costs.l2
    extra = {"NONE": 0, "BLOCK": 0, "VECTOR": costs.scale, "VECTOR_32": 4 * costs.scale}[shape.scaling]
    waits = 4 if shape.scaling == "VECTOR_32" else 1
    start = costs.together if issues_together(shape, tile) else costs.block
    together = 64 * tile.slabs if shape.scaling == "NONE" else 64
    rows = -(-live // together) * together if shape.schedule == "MASKED" else tile.block_m
    idle = costs.between if shape.scaling == "BLOCK" and rows > 64 else 0
    slabs = min(tile.slabs, rows // 64)
    idle = costs.vectors_between * slabs if shape.scaling == "VECTOR" else idle
    # where a warpgroup promotes one slab after another, blocks of a cluster wait for each other and gain nothing
    power = 0 if shape.scaling == "VECTOR" and tile.slabs > 1 else costs.power
    return max(
        slabs * (start * waits + (costs.column + extra) * tile.block_n),
        tensor_factor(shape, tile, costs) * rows * tile.block_n / 32 + idle + power * copied,
        costs.written * (tile.rows_copied + tile.block_n) + costs.read * (rows + tile.block_n * rows / 64),
        copied,
        tile.block_n * 128 / costs.stream,
    )


def issues_together(shape: Shape, tile: Tile) -> bool:
    """Say whether a warpgroup issues several blocks of K at once, `Plan::TOGETHER` in plan.cuh."""
    selects = tile.block_m == 128 and tile.block_n < 128 and 128 % tile.block_n != 0
    return shape.scaling == "BLOCK" and shape.weights == "AS_A" and (tile.math_groups == 1 or selects)


def tensor_factor(shape: Shape, tile: Tile, costs: Costs = H200) -> float:
    """Return how much longer than their own rate the tensor cores take, by what happens between their runs."""
    factor = {"VECTOR": costs.vectors, "VECTOR_32": costs.vectors_32}.get(shape.scaling, costs.blocks)
    aligned = 128 % tile.block_n == 0 or tile.block_n == 192
    return factor * (1 if shape.scaling != "BLOCK" or aligned else costs.select)


def store_clocks(shape: Shape, tile: Tile, splits: int = 1, costs: Costs = H200) -> float:
    """Return the clocks between a tile's last wgmma and its last store."""
    elements = min(tile.block_m, shape.m) * tile.block_n
    width = (4 if shape.output == "F32" else 2) * (3 if shape.accumulate else 1)
    return costs.store + elements * width / costs.stored + reduction_clocks(tile, splits, elements * 4, costs)


def reduction_clocks(tile: Tile, splits: int, partial: int, costs: Costs) -> float:
    """Return the clocks in which the sums of the splits, `partial` bytes each, come together."""
    if splits == 1:
        return 0
    if tile.cluster_k > 1:
        return costs.exchange + (splits - 1) * partial / splits / costs.exchanged
    return costs.reduction + costs.arrival * splits + partial * (1 + splits) / costs.reduced


def streaming_clocks(shape: Shape, tile: Tile, costs: Costs) -> float:
    """Return the clocks in which the operands cross the memory bus."""
    several_rows = shape.m > tile.block_m * tile.cluster_m
    return device_bytes(shape) / costs.device * (costs.again if several_rows else 1)


def device_bytes(shape: Shape) -> float:
    """Return the bytes of operands that must cross the memory bus; FP32 scales per 32 are a quarter of FP4 weights."""
    packed = 0.625 if shape.scaling == "VECTOR_32" else 0.53
    columns = shape.n * (packed if shape.weights == "E2M1" else 1)
    return shape.groups * (shape.m + columns) * shape.k * (1 if shape.element == "E4M3" else 2)
