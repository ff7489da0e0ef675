"""Packed weights whose scales are words of powers of two: folded into the codes or not, the bits are as declared."""

from __future__ import annotations

import numpy as np
import pytest

from dgref.backends.cuda.sm90.arithmetic import arithmetic_of
from dgref.backends.cuda.sm90.configuration import configure, splits_of, tiles_of, ways
from dgref.backends.cuda.sm90.shape import Shape
from dgref.formats import RECIPES, ScaledTensor
from dgref.reference.arithmetic import sm90_fp8
from dgref.reference.contraction import contract
from tests.backends.cuda.sm90.test_gemm_gpu import fp8_inputs, mn_major

pytestmark = pytest.mark.gpu
NAMES = {32: "POWERS_32", 128: "POWERS"}
RECIPE = {32: "mxfp4", 128: "deepseek_fp4_128_ue8m0"}
NEAR = {"low": 122, "high": 129, "wild": 0.0}  # exponents that all fold, in a row and in a block
FAR = {"low": 118, "high": 130, "wild": 0.02}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def kind(granule):
    return {"scaling": NAMES[granule], "weights": "E2M1", "output": "F32"}


def every(shape):
    """Yield what may be launched for a shape without splits of K."""
    for way in ways(shape):
        for tile in tiles_of(way):
            if tile.cluster_k == 1:
                yield configure(way, tile, 1, 132)


def weights(n, k, granule, low, high, wild, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n, -(-k // granule))
    exponents = np.where(rng.random(shape) < wild, rng.integers(0, 250, shape), rng.integers(low, high, shape))
    codes = rng.integers(0, 16, (n, k), dtype=np.uint8)
    return ScaledTensor(codes, "float4_e2m1fn", exponents.astype(np.uint8), RECIPES[RECIPE[granule]].scaling)


def placed(tensors):
    """Return packed codes and words of scales, of one matrix or of several."""
    from dgref.backends.cuda.placement import payload, vector_scale

    codes, scales = (np.stack([getattr(tensor, name) for tensor in tensors]) for name in ("data", "scale"))
    if len(tensors) == 1:
        codes, scales = codes[0], scales[0]
    return payload(ScaledTensor(codes, "float4_e2m1fn")), vector_scale(scales, "packed_ue8m0")


def declared(torch, a, a_scale, b, granule, boundaries=()):
    """Return what the arithmetic says, on the CPU."""
    left = ScaledTensor(
        a.view(torch.uint8).cpu().numpy(),
        "float8_e4m3fn",
        a_scale.contiguous().cpu().numpy(),
        RECIPES["deepseek_fp8"].scaling,
    )
    fold = "float8_e4m3fn" if granule == 32 else None
    return torch.from_numpy(contract(left, b, sm90_fp8(boundaries, fold_b=fold))).cuda()


@pytest.mark.parametrize("granule", [32, 128])
@pytest.mark.parametrize("scales", [NEAR, FAR], ids=["near", "far"])
@pytest.mark.parametrize(("rows", "k"), [(1, 1152), (40, 1184), (200, 1024)])
def test_every_way_and_tile_gives_the_declared_bits(torch, granule, scales, rows, k):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    n = 264
    a, a_scale, _, _ = fp8_inputs(torch, rows, n, k, "VECTOR")
    b = weights(n, k, granule, **scales)
    codes, words = placed([b])
    want, d = declared(torch, a, a_scale, b, granule), torch.empty(rows, n, device="cuda")
    for forced in every(Shape(rows, n, k, **kind(granule))):
        fp8_gemm(a, a_scale, codes, words, d.fill_(float("nan")), b_block=(1, granule), packed=True, forced=forced)
        assert torch.equal(d.view(torch.int32), want.view(torch.int32)), forced


@pytest.mark.parametrize("scales", [NEAR, FAR], ids=["near", "far"])
@pytest.mark.parametrize("k", [1184, 1216, 1248])  # the last 128 of K hold one chain of 32, two or three
def test_an_infinite_scale_meets_no_chain_beyond_the_end_of_k(torch, scales, k):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    rows, n = 3, 264
    a, a_scale, _, _ = fp8_inputs(torch, rows, n, k, "VECTOR")
    a_scale[0, -1] = float("inf")
    b = weights(n, k, 32, **scales)
    codes, words = placed([b])
    want, d = declared(torch, a, a_scale, b, 32), torch.empty(rows, n, device="cuda")
    assert torch.isinf(want[0]).any()
    for forced in every(Shape(rows, n, k, **kind(32))):
        fp8_gemm(a, a_scale, codes, words, d.zero_(), b_block=(1, 32), packed=True, forced=forced)
        assert torch.equal(d.isnan(), want.isnan()) and torch.equal(d.nan_to_num(), want.nan_to_num()), forced


@pytest.mark.parametrize("granule", [32, 128])
def test_splits_are_the_declared_ones_in_a_cluster_and_through_memory(torch, granule):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    rows, n, k = 5, 72, 4352
    a, a_scale, _, _ = fp8_inputs(torch, rows, n, k, "VECTOR")
    b = weights(n, k, granule, **FAR)
    codes, words = placed([b])
    shape, d, want = Shape(rows, n, k, **kind(granule)), torch.empty(rows, n, device="cuda"), {}
    for tile in tiles_of(shape):
        for splits in splits_of(shape, tile, 132):
            forced = configure(shape, tile, splits, 132)
            edges = tuple(edge for edge in arithmetic_of(forced)["split_boundaries"] if 0 < edge < k)
            if edges not in want:
                want[edges] = declared(torch, a, a_scale, b, granule, edges)
            fp8_gemm(a, a_scale, codes, words, d.fill_(7), b_block=(1, granule), packed=True, forced=forced)
            assert torch.equal(d, want[edges]), forced
    assert len(want) == 4


def test_exponents_from_both_ends_of_their_range_do_not_fold(torch):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    rows, n, k = 3, 72, 256
    a, a_scale, _, _ = fp8_inputs(torch, rows, n, k, "VECTOR")
    a_scale = mn_major(torch, a_scale * 2.0**-40)
    b = weights(n, k, 32, 0, 1, 0.0)
    b.scale[:, 1::4] = 251  # in a byte, 251 - 0 + 5 is 0: as far as the least that folds
    codes, words = placed([b])
    want, d = declared(torch, a, a_scale, b, 32), torch.empty(rows, n, device="cuda")
    assert want.abs().max() > 2.0**60
    for forced in every(Shape(rows, n, k, **kind(32))):
        fp8_gemm(a, a_scale, codes, words, d.fill_(7), b_block=(1, 32), packed=True, forced=forced)
        assert torch.equal(d, want), forced


@pytest.mark.parametrize("granule", [32, 128])
@pytest.mark.parametrize("exponent", [-60, 60])
def test_scales_of_activations_that_could_leave_the_normal_numbers_change_no_bit(torch, granule, exponent):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    rows, n, k = 70, 136, 512
    a, a_scale, _, _ = fp8_inputs(torch, rows, n, k, "VECTOR")
    a_scale = mn_major(
        torch, a_scale * torch.where(torch.arange(rows, device="cuda") == 7, 2.0**exponent, 1.0)[:, None]
    )
    low = 127 - 47 if exponent < 0 else 127 + 40
    b = weights(n, k, granule, low, low + 5, 0.0)
    codes, words = placed([b])
    want, d = declared(torch, a, a_scale, b, granule), torch.empty(rows, n, device="cuda")
    for forced in every(Shape(rows, n, k, **kind(granule))):
        fp8_gemm(a, a_scale, codes, words, d, b_block=(1, granule), packed=True, forced=forced)
        assert torch.equal(d, want), forced


@pytest.mark.parametrize("granule", [32, 128])
@pytest.mark.parametrize("schedule", ["LABELLED", "PREFIX_SUM", "MASKED"])
def test_each_group_has_the_bits_of_its_own_product(torch, schedule, granule):
    from dgref.backends.cuda.sm90.grouped import gemm_grouped_contiguous, gemm_grouped_masked

    counts, n, k = [100, 0, 128, 5], 200, 384  # K ends in the middle of a stage, behind which the next group begins
    each = [weights(n, k, granule, **(NEAR if group == 2 else FAR), seed=group) for group in range(4)]
    codes, words = placed(each)
    a, a_scale, _, _ = fp8_inputs(torch, 512, n, k, "VECTOR")
    starts = [0, 128, 128, 256] if schedule == "PREFIX_SUM" else [0, 128, 256, 384]
    labels, want = torch.full((512,), -1, dtype=torch.int32, device="cuda"), torch.full((512, n), 7.0, device="cuda")
    for group, (start, count) in enumerate(zip(starts, counts, strict=True)):
        rows = slice(start, start + count)
        labels[rows] = group
        want[rows] = declared(torch, a[rows], a_scale[rows], each[group], granule) if count else 0
    layout = torch.tensor(counts, dtype=torch.int32, device="cuda")
    if schedule == "PREFIX_SUM":
        layout += torch.tensor(starts, dtype=torch.int32, device="cuda")
    options = {"b_block": (1, granule), "packed": True}
    shape = Shape(128, n, k, groups=4 if schedule == "MASKED" else 1, schedule=schedule, **kind(granule))
    for forced in every(shape):
        d = torch.full((512, n), 7.0, device="cuda")
        if schedule == "MASKED":
            stacks = a.view(4, 128, k), codes, d.view(4, 128, n)
            scales = mn_major(torch, a_scale.reshape(4, 128, -1)), words
            gemm_grouped_masked(*stacks, layout, 40, *scales, forced=forced, **options)
        else:
            by = labels if schedule == "LABELLED" else layout
            options["prefix_sum"] = schedule == "PREFIX_SUM"
            gemm_grouped_contiguous(a, codes, d, by, a_scale, words, forced=forced, **options)
        assert torch.equal(d, want), forced
