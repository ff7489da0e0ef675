"""Every instantiation compiles for sm_90a without a GPU and without spills."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from dgref.backends.cuda.disassembly import disassemble
from dgref.backends.cuda.jit import compile_only, load_or_compile, request_for
from dgref.backends.cuda.sm90.configuration import configuration, configure, tiles_of
from dgref.backends.cuda.sm90.rearrange import RUNS
from dgref.backends.cuda.sm90.shape import Configuration, Shape, Tile, fixed_bytes
from tests.backends.cuda.test_disassembly import has_cuobjdump

WIDE = [  # the most registers of each kind
    configure(Shape(4096, 4096, 4096), Tile(256, 128, 2, cluster_n=2), 1, 132),
    configure(Shape(4096, 4096, 4096), Tile(128, 192, 2, cluster_m=2), 1, 132),
    configure(Shape(4096, 4096, 4096, accumulate=True, output="F32"), Tile(128, 160, 2), 1, 132),
    configure(Shape(4096, 4096, 4096, scaling="VECTOR", accumulate=True, output="F32"), Tile(128, 128, 2), 1, 132),
    configure(Shape(4096, 4096, 4096, scaling="VECTOR", accumulate=True, output="F32"), Tile(256, 128, 2, 2), 1, 132),
    configure(Shape(4096, 4096, 4096, scaling="VECTOR", accumulate=True, output="F32"), Tile(256, 128, 2, 2), 2, 132),
    configure(Shape(4096, 4096, 4096, scaling="VECTOR", accumulate=True, output="F32"), Tile(192, 96, 3), 1, 132),
    configure(
        Shape(512, 512, 512, scaling="VECTOR", groups=4, schedule="MASKED"), Tile(256, 128, 2, cluster_n=2), 1, 132
    ),
    configure(
        Shape(512, 512, 512, element="BF16", scaling="NONE", accumulate=True, major_a="MN", major_b="MN"),
        Tile(128, 256, 2),
        1,
        132,
    ),
    configure(Shape(512, 512, 512, groups=4, schedule="MASKED"), Tile(256, 128, 2, cluster_n=2), 1, 132),
    configure(Shape(512, 512, 512, schedule="LABELLED"), Tile(128, 192, 2, cluster_n=2), 1, 132),
    configure(Shape(512, 512, 512, scaling="VECTOR_32", weights="E2M1"), Tile(64, 128, 2), 1, 132),
    configure(Shape(512, 512, 512, scaling="VECTOR", weights="E2M1"), Tile(128, 128, 2), 1, 132),
    configure(Shape(512, 512, 512, scaling="POWERS", weights="E2M1"), Tile(128, 128, 2), 1, 132),
    configure(Shape(512, 512, 512, scaling="POWERS_32", weights="E2M1"), Tile(64, 128, 2), 1, 132),
    configure(Shape(16, 512, 8192, scaling="POWERS_32", weights="E2M1"), Tile(16, 256, 4, cluster_k=4), 4, 132),
    configure(Shape(32, 512, 8192, scaling="POWERS_32", weights="E2M1"), Tile(32, 256, 4, cluster_k=4), 4, 132),
]


def spilled(found: Configuration) -> int:
    return load_or_compile(request_for("sm90/gemm.cu", "dgref::gemm", found.constants)).spill_bytes


@pytest.mark.parametrize("found", WIDE, ids=lambda found: f"{found.shape.schedule}-{found.tile}-{found.splits}")
def test_the_widest_tiles_keep_everything_in_registers(found):
    assert spilled(found) == 0


INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\d+ )?(.*?);", re.MULTILINE)


def overwritten(machine_code: str) -> list[str]:
    """Return what writes a register from which a wgmma reads its rows, before that is waited for."""
    reading, found = set(), []
    for text in INSTRUCTION.findall(machine_code):
        multiply = re.match(r"QGMMA\S*\s+R\d+, R(\d+), gdesc", text)
        target = re.match(r"(?!ST|SYNCS|R2UR|UTMA)\S+\s+(?:P\d+, )?R(\d+)\b", text)
        if multiply:
            reading |= {int(multiply[1]) + i for i in range(4)}
        elif text.startswith("WARPGROUP.DEPBAR"):
            reading = set()
        elif target and int(target[1]) in reading:
            found.append(text)
    return found


def test_overwritten_rows_are_found():
    code = "        /*0010*/    QGMMA.64x16x32.F32.E4M3.E4M3 R24, R32, gdesc[UR4], RZ ;\n"
    late, early = ("        /*0030*/    WARPGROUP.DEPBAR.LE gsb0, 0x0 ;\n", "        /*0020*/    LDS.U16 R33, [R2] ;\n")
    assert overwritten(code + early + late) == ["LDS.U16 R33, [R2] "]
    assert overwritten(code + late + early) == []


@pytest.mark.skipif(not has_cuobjdump(), reason="no cuobjdump on this machine")
@pytest.mark.parametrize(
    ("scaling", "tile"),
    [
        *product(("VECTOR", "VECTOR_32", "POWERS", "POWERS_32"), (Tile(16, 128, 2), Tile(64, 128, 2))),
        *product(("POWERS_32",), (Tile(16, 256, 4), Tile(32, 256, 4))),
    ],
    ids=str,
)
def test_no_register_that_wgmma_reads_is_written_before_it_is_done(scaling, tile):
    found = configure(Shape(tile.block_m, 2112, 2048, scaling=scaling, weights="E2M1"), tile, 1, 132)
    code = disassemble(load_or_compile(request_for("sm90/gemm.cu", "dgref::gemm", found.constants)).cubin)
    assert code.count("QGMMA") >= 8
    assert overwritten(code) == []


ROWS, GROUPS_OF_K = ("LABELLED", "PREFIX_SUM", "MASKED"), ("K_SIZES", "K_PREFIX_SUM")


def kinds() -> Iterator[Shape]:
    """Yield a shape of every kind that a call can ask for."""
    for schedule, output, accumulate in product(("DENSE", *ROWS, *GROUPS_OF_K), ("BF16", "F32"), (False, True)):
        if accumulate and schedule in ROWS:
            continue
        same = {"schedule": schedule, "output": output, "accumulate": accumulate}
        groups = 4 if schedule in ("MASKED", *GROUPS_OF_K) else 1
        alike = (("K", "K"), ("MN", "MN"))
        majors = alike if schedule in GROUPS_OF_K else product(("K", "MN"), repeat=2)
        pairs = [{"element": "BF16", "scaling": "NONE", "major_a": a, "major_b": b} for a, b in majors]
        scalings = ("VECTOR",) if schedule in GROUPS_OF_K else ("BLOCK", "VECTOR", "VECTOR_32")
        pairs += [{"scaling": scaling} for scaling in scalings]
        packed = () if schedule in GROUPS_OF_K else ("VECTOR", "VECTOR_32", "POWERS", "POWERS_32")
        pairs += [{"scaling": scaling, "weights": "E2M1"} for scaling in packed]
        for pair, m, alignment in product(pairs, (1, 32, 512, 4096), (128, 64)):
            yield Shape(m, 2112, 2048, groups=groups, alignment=alignment, **same, **pair)


def widest() -> list[Configuration]:
    """Return the configuration of most columns for each kind and each number of rows that the heuristics can pick."""
    found: dict[tuple, Configuration] = {}
    for kind in kinds():
        for tile in tiles_of(kind):
            key = (replace(kind, m=0, alignment=0), tile.block_m, tile.math_groups)
            held = found.get(key)
            if held is None or (tile.block_n, tile.cluster) > (held.tile.block_n, held.tile.cluster):
                found[key] = configure(kind, tile, 1, 132)
    return list(found.values())


@pytest.mark.slow
@pytest.mark.skipif("not config.getoption('-m')", reason="minutes: ask for it with -m slow")
def test_the_widest_tile_of_every_kind_compiles_and_keeps_everything_in_registers():
    assert {(item.shape, item.tile): spilled(item) for item in widest() if spilled(item)} == {}


def test_the_transposing_kernel_compiles():
    assert compile_only("sm90/transpose.cu", "dgref::transpose", {"side": 64}).spill_bytes == 0


def test_the_widening_kernel_compiles():
    assert compile_only("sm90/widen.cu", "dgref::widen_rows", {"runs": RUNS}).spill_bytes == 0


@pytest.mark.parametrize("granule", [32, 128])
def test_the_folding_kernel_compiles(granule):
    assert compile_only("sm90/fold.cu", "dgref::fold", {"granule": granule}).spill_bytes == 0


def test_the_host_reserves_the_shared_memory_that_the_kernel_lays_out():
    # Plan::SHARED_BYTES in plan.cuh, written out: staging, stages, scales, barriers, counts, tiles
    found = configuration(Shape(4096, 7168, 16384), 132)
    tile, stages = found.tile, found.stages
    staging = tile.block_m * tile.block_n * 2
    stage = (tile.block_m + tile.block_n) * 128 + tile.block_m * 4 + 16 + 16
    assert found.shared_bytes == staging + stages * stage + 16 + 128
    # packed weights: two blocks of A with their scales, words of scales for both
    found = configure(Shape(16, 7168, 16384, scaling="POWERS_32", weights="E2M1"), Tile(16, 128, 2), 1, 132)
    stage = (2 * 16 + 128) * 128 + 2 * 16 * 4 + 2 * (2 * 128) * 4 + 24 + 2 * 2 * 4
    assert found.shared_bytes == 8 * 1280 + found.stages * stage + 16 + 128


@pytest.mark.parametrize(
    ("m", "tile", "exchanged"),  # lines of 16 rows by all columns, of the warps that a block owns, for each other block
    [
        (16, Tile(64, 32, 1, cluster_k=2, load_m=16), 16 * 32 * 4),
        (64, Tile(64, 96, 1, cluster_k=4), 3 * 16 * 96 * 4),
        (128, Tile(128, 64, 2, cluster_k=2), 4 * 16 * 64 * 4),
    ],
)
def test_blocks_that_share_splits_have_room_for_what_the_others_send(m, tile, exchanged):
    split = configure(Shape(m, 2112, 7168), tile, tile.cluster_k, 132)
    alone = configure(Shape(m, 2112, 7168), replace(tile, cluster_k=1), 1, 132)
    stage = (alone.shared_bytes - fixed_bytes(alone.shape, alone.tile)) // alone.stages
    assert split.shared_bytes == fixed_bytes(alone.shape, alone.tile) + exchanged + split.stages * stage
    assert spilled(split) == 0
