"""Scales folded into codes: the bits of a direct account of the rule, whatever the scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.errors import FormatError, ShapeError
from dgref.formats import FORMATS, RECIPES, ScaledTensor
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic
from dgref.reference.bound import derived_limits
from dgref.reference.contraction import contract
from dgref.reference.engine import fma
from dgref.reference.folding import folded, octaves

FOLDING = ARITHMETICS["dgref.sm90.fp8_mxfp4"]
M, N = 3, 6
E4M3, E2M1, E8M0 = (FORMATS[name] for name in ("float8_e4m3fn", "float4_e2m1fn", "float8_e8m0fnu"))


def operands(k: int, exponents: np.ndarray, seed: int = 0) -> tuple[ScaledTensor, ScaledTensor]:
    rng = np.random.default_rng(seed)
    payload = E4M3.encode(np.ldexp(rng.standard_normal((M, k)), rng.integers(-6, 6, (M, k))).astype(np.float32))
    scale = np.ldexp(np.float32(1) + rng.random((M, -(-k // 128)), np.float32), rng.integers(-9, 9, (M, 1)))
    a = ScaledTensor(payload, E4M3.name, scale.astype(np.float32), RECIPES["deepseek_fp8"].scaling)
    codes = rng.integers(0, 16, (N, k), dtype=np.uint8)
    return a, ScaledTensor(codes, E2M1.name, exponents.astype(np.uint8), RECIPES["mxfp4"].scaling)


def directly(a: ScaledTensor, b: ScaledTensor, stops: tuple[int, ...] = ()) -> np.ndarray:
    """The rule as a kernel follows it: one chain of 128 for the rows that fold, four of 32 for the others."""
    x, y, k = E4M3.decode(a.data), E2M1.decode(b.data), a.shape[-1]
    scales = E8M0.decode(b.scale)
    splits = []
    for start, stop in zip((0, *stops), (*stops, k), strict=True):
        total = np.zeros((M, N), np.float32)
        for low in range(start, stop, 128):
            high = min(low + 128, stop)
            own = slice(low // 32, -(-high // 32))
            moved = b.scale[:, own].astype(int) - b.scale[:, own][:, :1].astype(int)
            folds = ((moved >= -5) & (moved <= 6)).all(1) & (b.scale[:, own] != 255).all(1)
            up = np.ldexp(np.float32(1), np.repeat(np.where(folds[:, None], moved, 0), 32, axis=1)[:, : high - low])
            row = a.scale[:, low // 128]
            together = _promoted(total, _chain(x[:, low:high], y[:, low:high] * up), row, scales[:, own][:, 0])
            apart = total
            for step in range(low, high, 32):
                chain = _chain(x[:, step : step + 32], y[:, step : step + 32])
                apart = _promoted(apart, chain, row, scales[:, step // 32])
            total = np.where(folds, together, apart)
        splits.append(total)
    for total in splits[1:]:
        splits[0] = splits[0] + total
    return splits[0]


def _chain(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    core, sum_ = FOLDING.tensor_core, np.zeros((len(x), len(y)), np.float32)
    for step in range(0, x.shape[1], core.k):
        part = slice(step, step + core.k)
        sum_ = core.dot(x[:, None, part], y[None, :, part], sum_, formats=(E4M3.name, E4M3.name))
    return sum_


def _promoted(total: np.ndarray, chain: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return fma(rows[:, None] * columns[None].astype(np.float32), chain, total)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    nan = np.isnan(left) & np.isnan(right)
    return bool(((left.view(np.uint32) == right.view(np.uint32)) | nan).all())


near = st.integers(120, 128)
anywhere = st.one_of(near, st.integers(0, 255))


@settings(max_examples=40, deadline=None)
@given(
    st.data(), st.sampled_from([32, 64, 96, 128, 160, 224, 288]), st.sampled_from([near, anywhere]), st.integers(0, 99)
)
def test_every_bit_is_that_of_one_chain_where_scales_fold_and_of_four_elsewhere(data, k, scales, seed):
    count = N * (k // 32)
    exponents = np.array(data.draw(st.lists(scales, min_size=count, max_size=count))).reshape(N, -1)
    a, b = operands(k, exponents, seed)
    assert same_bits(contract(a, b, FOLDING), directly(a, b))


@pytest.mark.parametrize("wild", [False, True])
def test_splits_keep_to_their_part_of_k(wild):
    exponents = np.full((N, 16), 126)
    if wild:
        exponents[2, 5], exponents[4, 15] = 0, 140
    a, b = operands(512, exponents)
    for stops in ((256,), (128, 384)):
        assert same_bits(contract(a, b, FOLDING.but(boundaries=stops)), directly(a, b, stops))
    assert same_bits(contract(a, b, FOLDING.but(splits=2, split_unit=256)), directly(a, b, (256,)))


@pytest.mark.parametrize("changes", [{"boundaries": (256,)}, {"boundaries": (512,)}, {"splits": 2, "split_unit": 256}])
def test_one_split_stays_one_where_scales_that_do_not_fold_make_k_longer(changes):
    exponents = np.full((N, 8), 126)
    exponents[1, 5] = 140
    a, b = operands(256, exponents)
    assert same_bits(contract(a, b, FOLDING.but(**changes)), directly(a, b))


@pytest.mark.parametrize("signs", [[1], [1, -1]])  # of a's scales
def test_a_sum_of_negative_zero_stays_one_beside_a_row_that_does_not_fold(signs):
    k = 128 * len(signs)
    exponents = np.zeros((N, k // 32), np.uint8)
    exponents[1, -2] = 20
    a, b = operands(k, exponents)
    codes = np.zeros((N, k), np.uint8)
    codes[:, 0] = E2M1.encode(np.float32(-0.5))
    scale = np.broadcast_to(np.float32(2.0**-22) * np.float32(signs), (M, len(signs)))
    a = replace(a, data=np.full((M, k), E4M3.encode(np.float32(2**-9))), scale=scale)
    b = replace(b, data=codes)
    found = contract(a, b, FOLDING)
    assert same_bits(found, directly(a, b)) and np.signbit(found[0, 0])


@pytest.mark.parametrize("k", [256, 288])
@pytest.mark.parametrize("strange", [np.inf, -np.inf, -3.0])
def test_infinite_and_negative_scales_of_a_meet_no_chain_that_is_not_there(k, strange):
    exponents = np.random.default_rng(1).integers(118, 134, (N, k // 32))
    exponents[0] = 126
    a, b = operands(k, exponents)
    a.scale[0, 1] = a.scale[2, 0] = strange
    want = directly(a, b)
    assert same_bits(contract(a, b, FOLDING), want) and not np.isnan(want[:, 0]).any()
    c = np.random.default_rng(2).standard_normal((M, N)).astype(np.float32)
    sampled = contract(a, b, FOLDING, c, rows=[2, 0], columns=[5, 0, 3], engine="readable")
    assert same_bits(sampled, (want + c)[[2, 0]][:, [5, 0, 3]])


def test_infinite_scales_of_a_in_a_batch_meet_each_matrix_of_b_as_if_alone():
    exponents = np.random.default_rng(3).integers(118, 134, (2, N, 4))
    (a, one), (_, two) = (operands(128, each, seed) for seed, each in enumerate(exponents))
    a.scale[1] = np.inf
    both = replace(one, data=np.stack([one.data, two.data]), scale=np.stack([one.scale, two.scale]))
    found = contract(a, both, FOLDING)
    assert all(same_bits(found[i], directly(a, b)) for i, b in enumerate((one, two)))


def test_nothing_to_sum_up_is_zero():
    a, b = (replace(t, data=t.data[:, :0], scale=t.scale[:, :0]) for t in operands(128, np.full((N, 4), 127)))
    assert same_bits(contract(a, b, FOLDING), np.zeros((M, N), np.float32))


def test_columns_have_the_bits_that_they_have_beside_all_others():
    exponents = np.random.default_rng(5).integers(118, 134, (N, 12))
    a, b = operands(384, exponents)
    c = np.ones((M, N), np.float32)
    seeded = FOLDING.but(c="core")
    for arithmetic, start in ((FOLDING, None), (FOLDING, c), (seeded, c)):
        whole = contract(a, b, arithmetic, start)
        assert same_bits(contract(a, b, arithmetic, start, rows=[2, 0], columns=[4, 1]), whole[np.ix_([2, 0], [4, 1])])


def test_the_readable_engine_gives_the_same_bits():
    a, b = operands(384, np.random.default_rng(9).integers(118, 134, (N, 12)))
    assert same_bits(contract(a, b, FOLDING, engine="readable"), directly(a, b))


def test_stacks_of_matrices_are_folded_one_by_one():
    exponents = np.random.default_rng(6).integers(116, 134, (2, N, 8))
    pairs = [operands(256, part, seed) for seed, part in enumerate(exponents)]
    stacked = [
        replace(side[0], data=np.stack([t.data for t in side]), scale=np.stack([t.scale for t in side]))
        for side in zip(*pairs, strict=True)
    ]
    for found, (a, b) in zip(contract(*stacked, FOLDING), pairs, strict=True):
        assert same_bits(found, directly(a, b))


def test_scales_that_all_fold_leave_k_as_it_is_and_others_add_to_it():
    exponents = np.full((N, 12), 120)
    a, b = operands(384, exponents)
    left, right, arithmetic = folded(a, b, FOLDING)
    assert left is a and right.shape == b.shape and right.format == E4M3.name and arithmetic == FOLDING.but(fold_b=None)
    exponents[1, 5] = 130
    left, right, _ = folded(*operands(384, exponents), FOLDING)
    assert left.shape == (M, 384 + 4 * 128) and right.shape == (N, 384 + 4 * 128)


def test_the_room_of_e4m3_beside_e2m1_is_what_the_kernel_has():
    assert octaves(E2M1, E4M3) == (-5, 6)


def test_an_interval_of_one_scale_is_folded_by_nothing():
    a, b = operands(256, np.random.default_rng(7).integers(0, 250, (N, 8)))
    plain = FOLDING.but(fold_b=None, interval=32)
    assert folded(a, b, FOLDING.but(interval=32)) == (a, b, plain)
    assert same_bits(contract(a, b, FOLDING.but(interval=32)), contract(a, b, plain))


def test_limits_hold_the_folded_product():
    exponents = np.random.default_rng(8).integers(117, 133, (N, 8))
    a, b = operands(256, exponents)
    got = contract(a, b, FOLDING)
    limits = derived_limits(a, b, FOLDING, out="float32")
    chosen = derived_limits(a, b, FOLDING, out="float32", columns=np.array([3, 5]))
    assert ((limits["low"] <= got) & (got <= limits["high"])).all()
    assert (chosen == limits[:, [3, 5]]).all()


@pytest.mark.parametrize(
    ("arithmetic", "changes", "error"),
    [
        (FOLDING, {"scaling": RECIPES["deepseek_fp4"].scaling}, FormatError),
        (FOLDING, {"format": "float8_e5m2"}, FormatError),
        (FOLDING.but(interval=48), {}, ShapeError),
        (FOLDING.but(interval=256), {}, ShapeError),
        (FOLDING.but(boundaries=(64,)), {}, ShapeError),
    ],
)
def test_what_cannot_be_folded_is_refused(arithmetic: Arithmetic, changes, error):
    a, b = operands(256, np.full((N, 8), 127))
    if changes:
        b = replace(b, scale=E8M0.decode(b.scale) if "scaling" in changes else b.scale, **changes)
    with pytest.raises(error):
        contract(a, b, arithmetic)
