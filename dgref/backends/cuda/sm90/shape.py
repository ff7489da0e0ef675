"""What a launch of the SM90 kernel is in numbers: the product, its tiles, the shared memory that they take."""

from __future__ import annotations

from dataclasses import dataclass

SHARED_LIMIT = 232_448  # bytes one block may have (CUDA C++ Programming Guide, compute capability 9.0)
MAX_STAGES = 24
OUTPUT_BYTES = {"BF16": 2, "F32": 4}
WORDS = {"VECTOR": "POWERS", "VECTOR_32": "POWERS_32"}  # where packed weights have UE8M0 scales, four to a word
GRANULES = {"VECTOR": 128, "VECTOR_32": 32, "POWERS": 128, "POWERS_32": 32}  # elements of K to a scale of one column
COUNT_BYTES, TILE_BYTES = 16, 128  # of shared memory: arrivals of splits, or their barrier; tiles on their way


@dataclass(frozen=True)
class Shape:
    """One launch in numbers. `m` is what is expected where only the GPU knows the rows; `k` likewise."""

    m: int
    n: int
    k: int
    groups: int = 1
    capacity: int = 0  # the most rows that a masked group has; 0: any number
    element: str = "E4M3"  # E4M3 | BF16
    scaling: str = "BLOCK"  # of B: BLOCK (128 x 128) | VECTOR (1 x 128) | VECTOR_32 (1 x 32) | NONE
    # where B is packed, also words of four UE8M0: POWERS (1 x 128) | POWERS_32 (1 x 32)
    weights: str = "AS_A"  # AS_A | E2M1: B is packed, two codes to a byte
    folded: str = ""  # packed weights that are widened first, with scales of this kind folded into blocks: as above
    schedule: str = "DENSE"
    major_a: str = "K"
    major_b: str = "K"
    output: str = "BF16"
    accumulate: bool = False
    alignment: int = 128  # of group starts along M, where rows of several groups share A
    batch_invariant: bool = False
    pointed: bool = False  # scales of rows lie so that only loads one by one reach them, which wide tiles do not do

    @property
    def block_k(self) -> int:
        """Return how many elements a stage holds of each row: 128 bytes of B."""
        return {"E4M3": 128, "BF16": 64}[self.element] * self.parts

    @property
    def parts(self) -> int:
        """Return how many scales of A that takes along K, where there are any."""
        return 2 if self.weights == "E2M1" else 1

    @property
    def blocks_of_k(self) -> int:
        return -(-self.k // self.block_k)


@dataclass(frozen=True)
class Tile:
    """The compile-time half of a configuration: block sizes and who shares what."""

    block_m: int
    block_n: int
    math_groups: int
    cluster_m: int = 1  # blocks along M that share one copy of B
    cluster_n: int = 1  # blocks along N that share one copy of A
    cluster_k: int = 1  # blocks that each take a split of K, and add up in the first one's shared memory
    load_m: int = 0  # rows of A that are copied; 0: all

    @property
    def rows_copied(self) -> int:
        return self.load_m or self.block_m

    @property
    def cluster(self) -> int:
        return self.cluster_m * self.cluster_n * self.cluster_k

    @property
    def slabs(self) -> int:
        """Return how many times 64 rows of A a warpgroup multiplies; packed weights have one slab of B instead."""
        return self.block_m // (64 * self.math_groups)


@dataclass(frozen=True)
class Configuration:
    """Everything that a launch needs beside the pointers."""

    shape: Shape
    tile: Tile
    stages: int
    splits: int
    band: int
    blocks: int

    @property
    def constants(self) -> dict[str, str | int | bool]:
        """Return the template arguments of `dgref::gemm`, in order."""
        shape, tile = self.shape, self.tile
        return {
            "element": f"dgref::Element::{shape.element}",
            "scaling": f"dgref::Scaling::{shape.scaling}",
            "schedule": f"dgref::Schedule::{shape.schedule}",
            "block_m": tile.block_m,
            "block_n": tile.block_n,
            "stages": self.stages,
            "math_groups": tile.math_groups,
            "cluster_m": tile.cluster_m,
            "cluster_n": tile.cluster_n,
            "cluster_k": tile.cluster_k,
            "load_m": tile.rows_copied,
            "major_a": f"dgref::Major::{shape.major_a}",
            "major_b": f"dgref::Major::{shape.major_b}",
            "weights": f"dgref::Weights::{shape.weights}",
            "output": f"dgref::Output::{shape.output}",
            "addend": f"dgref::Addend::{self.addend}",
        }

    @property
    def addend(self) -> str:
        """Return how C is added where the copy engine can reach it: whoever adds up splits must read it."""
        if not self.shape.accumulate:
            return "NONE"
        vectors = self.shape.scaling == "VECTOR" and self.shape.weights == "AS_A"
        return "IN_RING" if self.splits == 1 and vectors else "BY_POINTER"

    @property
    def wide(self) -> bool:
        return is_wide(self.shape, self.tile)

    @property
    def threads(self) -> int:
        """Return the threads of a block: a copying warpgroup, and those that multiply."""
        return 128 + 128 * self.tile.math_groups

    @property
    def shared_bytes(self) -> int:
        return fixed_bytes(self.shape, self.tile) + self.stages * stage_bytes(self.shape, self.tile)

    @property
    def tiles(self) -> int:
        """Return how many tiles D has, those that fill up a cluster included."""
        return self.shape.groups * units_of(self.shape, self.tile) * self.tile.cluster

    @property
    def partial_bytes(self) -> int:
        """Return the workspace for partial sums: none where K is not split, or within clusters."""
        split = self.splits > 1 and self.tile.cluster_k == 1
        return self.tiles * self.splits * self.tile.block_m * self.tile.block_n * 4 if split else 0


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def is_wide(shape: Shape, tile: Tile) -> bool:
    """Say whether sums and scales leave no registers to warps that copy scales, `Plan::WIDE` in plan.cuh."""
    return shape.scaling == "VECTOR" and shape.weights == "AS_A" and tile.block_m > 128


def stage_bytes(shape: Shape, tile: Tile) -> int:
    """Return the shared memory of one stage: a block of A, of B, and their scales, as `Plan` in plan.cuh has it."""
    parts, rows = shape.parts, tile.rows_copied
    scale_a = 0 if shape.scaling == "NONE" else ceil_div(parts * rows * 4, 128) * 128
    scale_b = 16 if shape.scaling == "BLOCK" else 4 * scales_deep(shape) * tile.block_n
    barriers = 24 if shape.scaling in WORDS.values() else 16
    folding = scale_b + parts * tile.math_groups * 4 if shape.scaling == "POWERS_32" else 0
    return (parts * rows + tile.block_n) * 128 + scale_a + scale_b + folding + barriers


def scales_deep(shape: Shape) -> int:
    """Return how many scales, or words, of a column of B a stage holds; those of 128 x 128 blocks belong to none."""
    return ceil_div(shape.block_k, scale_span(shape.scaling)) if shape.scaling in GRANULES else 0


def scale_span(scaling: str) -> int:
    """Return how many elements of K a number, or a word of four, of a column's scales covers."""
    return GRANULES[scaling] * (4 if scaling in WORDS.values() else 1)


def store_line(shape: Shape, tile: Tile) -> int:
    """Return the bytes of a row of D that one bulk store writes."""
    return 128 if tile.block_n * OUTPUT_BYTES[shape.output] % 128 == 0 else 64


def fixed_bytes(shape: Shape, tile: Tile) -> int:
    """Return the shared memory beside the stages: staging of every warp, arrival counts, tiles on their way."""
    store = 16 * store_line(shape, tile)
    of_a_tile = tile.slabs * 16 * tile.block_n * OUTPUT_BYTES[shape.output]
    of_a_warp = 1280 if shape.weights == "E2M1" else min(of_a_tile, 8192 // store * store)
    return 4 * tile.math_groups * of_a_warp + exchanged_bytes(shape, tile) + COUNT_BYTES + TILE_BYTES


def exchanged_bytes(shape: Shape, tile: Tile) -> int:
    """Return the shared memory for what the other blocks of a cluster send: the sums of some warps, 16 rows each."""
    packed = shape.weights == "E2M1"
    senders = 4 * tile.math_groups if packed else min(4 * tile.math_groups, ceil_div(tile.rows_copied, 16))
    sent = (tile.block_m if packed else tile.block_n) * 16 * 4
    return (tile.cluster_k - 1) * ceil_div(senders, tile.cluster_k) * sent


def stage_count(shape: Shape, tile: Tile) -> int:
    """Return how many stages fit, up to a limit."""
    return min(MAX_STAGES, (SHARED_LIMIT - fixed_bytes(shape, tile)) // stage_bytes(shape, tile))


def units_of(shape: Shape, tile: Tile, rows: int | None = None) -> int:
    """Return how many tiles one group of `rows` rows has, those that a cluster computes together counted as one."""
    rows = ceil_div(ceil_div(rows or shape.m, tile.block_m), tile.cluster_m)
    return rows * ceil_div(ceil_div(shape.n, tile.block_n), tile.cluster_n)
