"""Packed FP4 weights: the bits of their widened codes, dense and in groups, whatever the tile."""

from __future__ import annotations

import pytest

from dgref.backends.cuda.sm90.configuration import configure, split_choices, tiles_of, ways
from dgref.backends.cuda.sm90.shape import Configuration, Shape
from tests.backends.cuda.sm90.test_gemm_gpu import PLAIN, fp8_inputs, mn_major

pytestmark = pytest.mark.gpu
NAMES = {32: "VECTOR_32", 128: "VECTOR"}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def weights(torch, n, k, granule, seed=0):
    """Return packed codes, the same as E4M3, and their scales."""
    torch.manual_seed(seed)
    codes = torch.randint(0, 16, (n, k), device="cuda")
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], device="cuda")[codes % 8] * torch.where(codes < 8, 1.0, -1.0)
    packed = (codes[:, ::2] | codes[:, 1::2] << 4).to(torch.uint8)
    return packed, values.to(torch.float8_e4m3fn), torch.rand(n, -(-k // granule), device="cuda") + 0.5


def kind(granule):
    return {"scaling": NAMES[granule], "weights": "E2M1"}


def every(shape: Shape) -> list[Configuration]:
    return [configure(way, tile, 1, 132) for way in ways(shape) for tile in tiles_of(way) if tile.cluster_k == 1]


@pytest.mark.parametrize("granule", [32, 128])
@pytest.mark.parametrize(("rows", "k"), [(1, 1152), (40, 1184), (200, 1024)])
def test_packed_weights_give_the_bits_of_their_widened_codes(torch, granule, rows, k):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    n = 264
    a, a_scale, _, _ = fp8_inputs(torch, rows, n, k, "VECTOR")
    packed, widened, scale = weights(torch, n, k, granule)
    scale = mn_major(torch, scale)
    want, d = (torch.empty(rows, n, device="cuda") for _ in range(2))
    unsplit = configure(Shape(rows, n, k, scaling=NAMES[granule], output="F32"), PLAIN, 1, 132)
    fp8_gemm(a, a_scale, widened, scale, want, b_block=(1, granule), forced=unsplit)
    for forced in every(Shape(rows, n, k, **kind(granule), output="F32")):
        fp8_gemm(a, a_scale, packed, scale, d.fill_(float("nan")), b_block=(1, granule), packed=True, forced=forced)
        assert torch.equal(d, want), forced
    exact = (a.float() * a_scale.repeat_interleave(128, 1)[:, :k]) @ (
        widened.float() * scale.repeat_interleave(granule, 1)[:, :k]
    ).T
    assert torch.allclose(want, exact, rtol=2e-2, atol=2.0)


def test_an_infinite_scale_meets_no_chain_beyond_the_end_of_k(torch):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    rows, n, k = 3, 264, 1184  # the last 128 of K hold one chain of 32
    a, a_scale, _, _ = fp8_inputs(torch, rows, n, k, "VECTOR")
    a_scale[0, -1] = float("inf")
    packed, widened, scale = weights(torch, n, k, 32)
    scale = mn_major(torch, scale)
    want, d = (torch.empty(rows, n, device="cuda") for _ in range(2))
    unsplit = configure(Shape(rows, n, k, scaling="VECTOR_32", output="F32"), PLAIN, 1, 132)
    fp8_gemm(a, a_scale, widened, scale, want, b_block=(1, 32), forced=unsplit)
    assert torch.isinf(want[0]).all()
    assert torch.isfinite(want[1:]).all()
    for forced in every(Shape(rows, n, k, **kind(32), output="F32")):
        fp8_gemm(a, a_scale, packed, scale, d.zero_(), b_block=(1, 32), packed=True, forced=forced)
        assert torch.equal(d, want), forced


def test_splits_of_packed_weights_are_added_in_ascending_order(torch):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    rows, n, k = 5, 200, 2048
    a, a_scale, _, _ = fp8_inputs(torch, rows, n, k, "VECTOR")
    packed, _, scale = weights(torch, n, k, 128)
    options = {"b_block": (1, 128), "packed": True}
    whole = Shape(rows, n, k, **kind(128), output="F32")
    assert 2 in split_choices(whole)
    total = None
    for part in (slice(0, 1024), slice(1024, 2048)):
        scales = slice(part.start // 128, part.stop // 128)
        codes = packed[:, part.start // 2 : part.stop // 2]
        d = torch.empty(rows, n, device="cuda")
        fp8_gemm(
            a[:, part], a_scale[:, scales], codes, mn_major(torch, scale[:, scales]), d, batch_invariant=True, **options
        )
        total = d if total is None else total + d
    for tile in (tile for tile in tiles_of(whole) if tile.cluster_k in (1, 2)):
        fp8_gemm(a, a_scale, packed, mn_major(torch, scale), d, forced=configure(whole, tile, 2, 132), **options)
        assert torch.equal(d, total), tile


@pytest.mark.parametrize("granule", [32, 128])
@pytest.mark.parametrize("schedule", ["LABELLED", "PREFIX_SUM", "MASKED"])
def test_groups_of_packed_weights_give_the_bits_of_their_widened_codes(torch, schedule, granule):
    from dgref.backends.cuda.sm90.grouped import gemm_grouped_contiguous, gemm_grouped_masked

    counts, n, k = [100, 0, 128, 5], 200, 384  # K ends in the middle of a stage, behind which the next group begins
    parts = [weights(torch, n, k, granule, seed) for seed in range(4)]
    packed, widened, scale = (
        torch.stack([part[i].float() if i == 2 else part[i].view(torch.uint8) for part in parts]) for i in range(3)
    )
    scale = mn_major(torch, scale)
    a, a_scale, _, _ = fp8_inputs(torch, 512, n, k, "VECTOR")
    layout = torch.tensor(counts, dtype=torch.int32, device="cuda")
    options = {"b_block": (1, granule)}
    if schedule == "LABELLED":
        layout = torch.full((4, 128), -1, dtype=torch.int32, device="cuda")
        for group, count in enumerate(counts):
            layout[group, :count] = group
        layout = layout.flatten()
    if schedule == "PREFIX_SUM":
        starts = [0, 128, 128, 256]
        layout = torch.tensor([x + y for x, y in zip(starts, counts, strict=True)], dtype=torch.int32, device="cuda")
    if schedule == "MASKED":
        a = a.view(4, 128, k)
        a_scale = mn_major(torch, a_scale.reshape(4, 128, -1))

    def run(b, d, **more):
        if schedule == "MASKED":
            gemm_grouped_masked(a, b, d, layout, 40, a_scale, scale, **options, **more)
        else:
            gemm_grouped_contiguous(
                a, b, d, layout, a_scale, scale, prefix_sum=schedule == "PREFIX_SUM", **options, **more
            )
        return d

    rows = (4, 128, n) if schedule == "MASKED" else (512, n)
    fresh = lambda: torch.full(rows, 7.0, dtype=torch.bfloat16, device="cuda")  # noqa: E731
    want = run(widened.view(torch.float8_e4m3fn), fresh())
    assert (want == 7.0).any() and (want != 7.0).any()
    shape = Shape(128, n, k, groups=4 if schedule == "MASKED" else 1, schedule=schedule, **kind(granule))
    for forced in every(shape):
        assert torch.equal(run(packed, fresh(), packed=True, forced=forced), want), forced
