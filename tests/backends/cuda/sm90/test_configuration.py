"""Configurations: legal, complete, and a partition of the work."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.backends.cuda.sm90.arithmetic import arithmetic_of, split_boundaries
from dgref.backends.cuda.sm90.configuration import (
    configuration,
    configure,
    estimate,
    split_choices,
    split_count,
    tiles_of,
    unfolded,
    ways,
)
from dgref.backends.cuda.sm90.shape import SHARED_LIMIT, Shape, Tile
from tests.backends.cuda.sm90.walk import Work, walk

DENSE = st.builds(
    Shape,
    m=st.integers(1, 900),
    n=st.integers(1, 900),
    k=st.integers(1, 2000),
    groups=st.integers(1, 3),
    scaling=st.sampled_from(["BLOCK", "VECTOR"]),
)


def cover(work: list[Work], tile: Tile, n: int) -> Counter:
    """Count how often each written (group, tile row, tile column, block of K) is computed."""
    return Counter(
        (item.group, item.row, item.column, block)
        for item in work
        if item.rows > 0 and item.column < n
        for block in range(item.block_begin, item.block_end)
    )


@settings(max_examples=60, deadline=None)
@given(shape=DENSE, multiprocessors=st.sampled_from([1, 7, 78, 132]), data=st.data())
def test_every_tile_and_block_of_k_is_computed_exactly_once(shape, multiprocessors, data):
    tile = data.draw(st.sampled_from(list(tiles_of(shape))))
    if multiprocessors < tile.cluster:
        multiprocessors = tile.cluster
    splits = data.draw(st.sampled_from((tile.cluster_k,) if tile.cluster_k > 1 else split_choices(shape)))
    found = configure(shape, tile, splits, multiprocessors)
    counted = cover(list(walk(found)), tile, shape.n)
    rows, columns = range(0, shape.m, tile.block_m), range(0, shape.n, tile.block_n)
    wanted = {
        (g, r, c, b) for g in range(shape.groups) for r in rows for c in columns for b in range(shape.blocks_of_k)
    }
    assert set(counted) == wanted
    assert set(counted.values()) == {1}


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6), data=st.data())
def test_masked_groups_get_their_rows_and_nothing_more(sizes, data):
    shape = Shape(300, 320, 256, groups=len(sizes), schedule="MASKED")
    tile = data.draw(st.sampled_from(list(tiles_of(shape))))
    work = list(walk(configure(shape, tile, 1, 132), sizes))
    assert all(item.row + item.rows <= sizes[item.group] for item in work if item.rows)
    counted = cover(work, tile, shape.n)
    wanted = {
        (g, r, c, b)
        for g, size in enumerate(sizes)
        for r in range(0, size, tile.block_m)
        for c in range(0, shape.n, tile.block_n)
        for b in range(2)
    }
    assert set(counted) == wanted
    assert set(counted.values()) <= {1}


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 5).map(lambda blocks: blocks * 128), min_size=1, max_size=5), data=st.data())
def test_groups_of_k_are_each_summed_over_their_own_k(sizes, data):
    shape = Shape(200, 130, 256, groups=len(sizes), schedule="K_SIZES", scaling="VECTOR", output="F32", accumulate=True)
    tile = data.draw(st.sampled_from(list(tiles_of(shape))))
    counted = cover(list(walk(configure(shape, tile, 1, 132), sizes)), tile, shape.n)
    assert set(counted.values()) <= {1}
    assert Counter(key[0] for key in counted) == {
        g: size // 128 * -(-200 // tile.block_m) * -(-130 // tile.block_n) for g, size in enumerate(sizes) if size
    }


@settings(max_examples=60, deadline=None)
@given(shape=DENSE)
def test_slots_of_the_reduction_are_one_for_each_tile(shape):
    found = configure(shape, next(tiles_of(shape)), max(split_choices(shape)), 132)
    slots = {(item.group, item.row, item.column): item.slot for item in walk(found)}
    assert len(set(slots.values())) == len(slots)
    assert max(slots.values()) < found.tiles


@settings(max_examples=100, deadline=None)
@given(shape=DENSE)
def test_a_chosen_configuration_fits_shared_memory_and_has_a_pipeline(shape):
    found = configuration(shape, 132)
    assert found.shared_bytes <= SHARED_LIMIT
    assert found.stages >= 3
    assert 1 <= found.blocks <= 132
    assert found.blocks % found.tile.cluster == 0


@given(k=st.integers(1, 20000), splits=st.integers(1, 8), block_k=st.sampled_from([64, 128]))
def test_split_boundaries_ascend_from_zero_to_k(k, splits, block_k):
    bounds = split_boundaries(k, splits, block_k)
    assert bounds[0] == 0 and bounds[-1] == k and list(bounds) == sorted(bounds)
    assert all(bound % block_k == 0 for bound in bounds[:-1] if bound != k)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 9000), k=st.integers(1, 20000), rows=st.lists(st.integers(1, 9000), min_size=2, max_size=4))
def test_a_batch_invariant_split_never_depends_on_m(n, k, rows):
    found = [configuration(Shape(m, n, k, batch_invariant=True), 132) for m in rows]
    assert {arithmetic_of(item)["split_boundaries"] for item in found} == {split_boundaries(k, split_count(n, k), 128)}


def test_few_tiles_are_split_along_k():
    assert configuration(Shape(1, 2112, 7168), 132).splits > 1


@pytest.mark.parametrize("scaling", ["VECTOR", "VECTOR_32"])
def test_packed_weights_are_rows_of_wgmma_and_few_tokens_its_columns(scaling):
    kind = {"scaling": scaling, "weights": "E2M1"}
    few, more = (configuration(Shape(m, 7168, 16384, **kind), 132).tile for m in (1, 512))
    assert (few.block_m, more.block_m) == (16, 128)
    assert all(tile.block_n == 64 * tile.math_groups for tile in tiles_of(Shape(64, 256, 512, **kind)))


def test_many_rows_have_their_packed_weights_widened_before():
    kind = {"scaling": "VECTOR", "weights": "E2M1"}
    chosen = {m: configuration(Shape(m, 7168, 16384, **kind), 132).shape.weights for m in (1, 512, 4096)}
    assert chosen == {1: "E2M1", 512: "E2M1", 4096: "AS_A"}
    assert {way.weights for way in ways(Shape(4096, 1 << 20, 16384, **kind))} == {"E2M1"}  # 16 GiB of workspace


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9000), k=st.integers(1, 600).map(lambda blocks: blocks * 32))
def test_packed_weights_have_one_split_for_all_m_where_it_must_not_depend_on_it(n, k):
    kind = {"scaling": "VECTOR", "weights": "E2M1", "batch_invariant": True}
    found = [arithmetic_of(configuration(Shape(m, n, k, **kind), 132)) for m in (1, 100, 8000)]
    assert len({item["split_boundaries"] for item in found}) == 1


@pytest.mark.parametrize("scaling", ["POWERS", "POWERS_32"])
def test_many_rows_have_scales_that_are_powers_of_two_folded_into_blocks(scaling):
    kind = {"scaling": scaling, "weights": "E2M1"}
    chosen = {m: configuration(Shape(m, 7168, 16384, **kind), 132) for m in (1, 4096)}
    assert [found.shape.folded for found in chosen.values()] == ["", scaling]
    many = chosen[4096]
    assert (many.shape.scaling, many.shape.schedule, many.splits) == ("BLOCK", "MASKED", 1)
    rest = unfolded(many.shape, 132)
    assert (rest.shape, rest.splits) == (replace(Shape(4096, 7168, 16384, **kind), schedule="MASKED"), 1)
    assert arithmetic_of(many) == arithmetic_of(rest)  # which of the two runs changes no bit


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9000), k=st.integers(1, 600).map(lambda blocks: blocks * 32))
def test_folded_weights_have_one_split_for_all_m_where_it_must_not_depend_on_it(n, k):
    kind = {"scaling": "POWERS_32", "weights": "E2M1", "batch_invariant": True}
    found = [arithmetic_of(configuration(Shape(m, n, k, **kind), 132)) for m in (1, 100, 8000)]
    assert len({item["split_boundaries"] for item in found}) == 1


def test_splits_of_packed_weights_begin_at_whole_stages():
    bounds = arithmetic_of(configure(Shape(1, 256, 1280, scaling="VECTOR", weights="E2M1"), Tile(16, 64, 1), 2, 132))
    assert bounds["split_boundaries"] == (0, 512, 1280)


def test_many_tiles_are_not_split():
    assert configuration(Shape(4096, 7168, 16384), 132).splits == 1


def test_one_row_copies_few_rows_of_a():
    assert configuration(Shape(1, 24576, 1536), 132).tile.rows_copied == 16


def test_rows_of_several_groups_never_share_a_tile():
    shape = Shape(4096, 4096, 4096, schedule="LABELLED", alignment=128)
    assert all(tile.block_m <= 128 for tile in tiles_of(shape))


def test_a_grouped_launch_fills_the_card_because_only_the_gpu_knows_the_rows():
    assert configuration(Shape(1, 64, 128, groups=2, schedule="MASKED"), 132).blocks >= 131


@pytest.mark.parametrize("scaling", ["BLOCK", "VECTOR"])
def test_a_tile_meets_at_most_two_blocks_of_scales(scaling):
    for tile in tiles_of(Shape(4096, 4096, 4096, scaling=scaling)):
        for column in range(0, 4096, tile.block_n):
            blocks = (min(column + tile.block_n, 4096) - 1) // 128 - column // 128 + 1
            assert scaling == "VECTOR" or blocks <= 2


def test_more_work_is_never_estimated_to_take_less_time():
    times = [estimate(configuration(Shape(m, 4096, 7168), 132), 132) for m in (128, 512, 2048, 8192)]
    assert times == sorted(times)


def test_arithmetic_names_what_a_reference_must_follow():
    found = arithmetic_of(configure(Shape(1, 2112, 7168), Tile(64, 64, 1, load_m=16), 4, 132))
    assert found["split_boundaries"] == (0, 1792, 3584, 5376, 7168)
    assert (found["promotion"], found["instruction_k"], found["split_order"]) == (128, 32, "ascending")
