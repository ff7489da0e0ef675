"""The kernels' bits: every configuration against one, splits against their slices, groups against dense, guards."""

from __future__ import annotations

import pytest

from dgref.backends.cuda.sm90.configuration import configure, split_choices, tiles_of
from dgref.backends.cuda.sm90.shape import Shape, Tile
from tests.conftest import VECTORS, needs_vectors

pytestmark = pytest.mark.gpu
PLAIN = Tile(64, 64, 1)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def mn_major(torch, scales):
    """Return the scales with rows contiguous and each line padded to 16 bytes; the padding is poison."""
    *groups, rows, lines = scales.shape
    buffer = torch.full((*groups, lines, -(-rows // 4) * 4), float("nan"), device="cuda")
    buffer[..., :rows] = scales.transpose(-1, -2)
    return buffer.transpose(-1, -2)[..., :rows, :]


def fp8_inputs(torch, m, n, k, scaling, seed=0):
    torch.manual_seed(seed)
    a, b = (torch.randn(rows, k, device="cuda").to(torch.float8_e4m3fn) for rows in (m, n))
    lines = -(-k // 128)
    a_scale = mn_major(torch, torch.rand(m, lines, device="cuda") + 0.5)
    b_scale = torch.rand(-(-n // 128) if scaling == "BLOCK" else n, lines, device="cuda") + 0.5
    return a, a_scale, b, b_scale if scaling == "BLOCK" else mn_major(torch, b_scale)


def fp8(torch, inputs, scaling, forced, out="float32"):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    rows, columns = inputs[0].shape[0], inputs[2].shape[0]
    guarded = torch.full((rows + 16, columns), float("nan"), dtype=getattr(torch, out), device="cuda")
    d = guarded[8 : rows + 8]
    fp8_gemm(*inputs, d, b_block=(128, 128) if scaling == "BLOCK" else (1, 128), forced=forced)
    assert guarded[:8].isnan().all() and guarded[rows + 8 :].isnan().all()
    return d


@pytest.mark.parametrize("scaling", ["BLOCK", "VECTOR"])
@pytest.mark.parametrize("size", [(64, 256, 1024), (7, 136, 400), (200, 264, 1152)])
def test_every_configuration_gives_the_same_bits(torch, scaling, size):
    shape = Shape(*size, scaling=scaling, output="F32")
    inputs = fp8_inputs(torch, *size, scaling)
    want = fp8(torch, inputs, scaling, configure(shape, PLAIN, 1, 132))
    for tile in tiles_of(shape):
        if tile.cluster_k == 1:
            assert torch.equal(fp8(torch, inputs, scaling, configure(shape, tile, 1, 132)), want), tile


@pytest.mark.parametrize("scaling", ["BLOCK", "VECTOR"])
@pytest.mark.parametrize("size", [(64, 256, 1024), (7, 136, 1040), (200, 264, 2176), (130, 2112, 7168)])
def test_splits_within_a_cluster_give_the_bits_of_those_through_memory(torch, scaling, size):
    shape = Shape(*size, scaling=scaling, output="F32")
    inputs = fp8_inputs(torch, *size, scaling)
    want = {splits: fp8(torch, inputs, scaling, configure(shape, PLAIN, splits, 132)) for splits in (2, 4)}
    for tile in (tile for tile in tiles_of(shape) if tile.cluster_k > 1):
        got = fp8(torch, inputs, scaling, configure(shape, tile, tile.cluster_k, 132))
        assert torch.equal(got, want[tile.cluster_k]), tile


@pytest.mark.parametrize("splits", [2, 3, 4])
def test_splits_are_added_in_ascending_order(torch, splits):
    m, n, k = 33, 200, 2048
    shape = Shape(m, n, k, output="F32")
    assert splits in split_choices(shape)
    a, a_scale, b, b_scale = fp8_inputs(torch, m, n, k, "BLOCK")
    total = None
    for split in range(splits):
        first, last = (bound * 16 // splits for bound in (split, split + 1))
        part = slice(first * 128, last * 128)
        inputs = (a[:, part], a_scale[:, first:last], b[:, part], b_scale[:, first:last])
        sliced = fp8(torch, inputs, "BLOCK", configure(Shape(m, n, (last - first) * 128, output="F32"), PLAIN, 1, 132))
        total = sliced if total is None else total + sliced
    for _ in range(3):
        split_launch = fp8(torch, (a, a_scale, b, b_scale), "BLOCK", configure(shape, PLAIN, splits, 132))
        assert torch.equal(split_launch, total)


def test_accumulation_is_one_fp32_addition(torch):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    m, n, k = 130, 192, 512
    inputs = fp8_inputs(torch, m, n, k, "VECTOR")
    product = fp8(torch, inputs, "VECTOR", None)
    c = torch.randn(m, n, device="cuda")
    d = c.clone()
    fp8_gemm(*inputs, d, d, b_block=(1, 128))
    assert torch.equal(d, c + product)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("out", ["float32", "bfloat16"])
@pytest.mark.parametrize("scaling", ["BLOCK", "VECTOR"])
def test_every_configuration_adds_c_once_wherever_it_lies(torch, scaling, out, offset):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    m, n, k = 200, 264, 1152
    inputs = fp8_inputs(torch, m, n, k, scaling)
    shape = Shape(m, n, k, scaling=scaling, output={"float32": "F32", "bfloat16": "BF16"}[out], accumulate=True)
    c = torch.randn(m * n + 8, device="cuda").to(getattr(torch, out))[offset : offset + m * n].view(m, n)
    for splits in (1, 2):
        plain = configure(Shape(m, n, k, scaling=scaling, output="F32"), PLAIN, splits, 132)
        want = (c.float() + fp8(torch, inputs, scaling, plain)).to(c.dtype)
        for tile in (tile for tile in tiles_of(shape) if tile.cluster_k in (1, splits)):
            d = torch.full_like(want, float("nan"))
            block = (128, 128) if scaling == "BLOCK" else (1, 128)
            fp8_gemm(*inputs, d, c, b_block=block, forced=configure(shape, tile, splits, 132))
            assert torch.equal(d, want), (tile, splits)


@pytest.mark.parametrize("major", ["nn", "tn", "tt"])
def test_mn_major_fp8_gives_the_bits_of_k_major(torch, major):
    m, n, k = 112, 160, 304
    a, a_scale, b, b_scale = fp8_inputs(torch, m, n, k, "BLOCK")
    want = fp8(torch, (a, a_scale, b, b_scale), "BLOCK", None)
    turned = lambda x: x.view(torch.uint8).t().contiguous().t()  # noqa: E731
    a = turned(a) if major in ("tn", "tt") else a.view(torch.uint8)
    b = turned(b) if major in ("nn", "tn") else b.view(torch.uint8)
    assert torch.equal(fp8(torch, (a, a_scale, b, b_scale), "BLOCK", None), want)


@pytest.mark.parametrize("transposed", ["", "a", "b", "ab"])
def test_bf16_layouts_give_the_same_bits(torch, transposed):
    from dgref.backends.cuda.sm90.gemm import bf16_gemm

    torch.manual_seed(1)
    a, b = (torch.randn(rows, 640, device="cuda").bfloat16() for rows in (192, 264))
    want, d = (torch.empty(192, 264, device="cuda") for _ in range(2))
    kind = {"element": "BF16", "scaling": "NONE", "output": "F32"}
    bf16_gemm(a, b, want, forced=configure(Shape(192, 264, 640, **kind), PLAIN, 1, 132))
    left = a.t().contiguous().t() if "a" in transposed else a
    right = b.t().contiguous().t() if "b" in transposed else b
    for tile in tiles_of(shape := Shape(192, 264, 640, **kind, major_a=_major(left), major_b=_major(right))):
        if tile.cluster_k == 1:
            bf16_gemm(left, right, d.fill_(float("nan")), forced=configure(shape, tile, 1, 132))
            assert torch.equal(d, want), tile


def _major(tensor) -> str:
    return "K" if tensor.stride(-1) == 1 else "MN"


def test_the_middle_of_each_head_is_left_alone(torch):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    left, middle, right, heads = 64, 32, 96, 3
    inputs = fp8_inputs(torch, 20, heads * (left + right), 256, "BLOCK")
    product = fp8(torch, inputs, "BLOCK", None).view(20, heads, left + right)
    d = torch.full((20, heads, left + middle + right), 7.0, device="cuda")
    fp8_gemm(*inputs, d.view(20, -1), head_splits=(left, middle, right))
    assert torch.equal(d[..., :left], product[..., :left])
    assert torch.equal(d[..., left + middle :], product[..., left:])
    assert (d[..., left : left + middle] == 7.0).all()


@pytest.mark.parametrize("zero_padding", [False, True])
@pytest.mark.parametrize("prefix_sum", [False, True])
def test_contiguous_groups_are_dense_products_and_padding_is_left_or_zeroed(torch, prefix_sum, zero_padding):
    from dgref.backends.cuda.sm90.grouped import gemm_grouped_contiguous

    # pairs of tiles: of two groups, of one group, of a group and padding, of padding and nothing
    counts, m, n, k = [100, 0, 128, 250, 37, 5], 896, 256, 384
    starts = [0, 128, 128, 256, 512, 640]
    a, a_scale, _, _ = fp8_inputs(torch, m, n, k, "BLOCK")
    weights = [fp8_inputs(torch, 1, n, k, "BLOCK", seed)[2:] for seed in range(len(counts))]
    labels = torch.full((m,), -1, dtype=torch.int32, device="cuda")
    want = torch.full((m, n), 0.0 if zero_padding else 7.0, dtype=torch.bfloat16, device="cuda")
    if prefix_sum:
        want[768:] = 7.0  # behind the last group's aligned end
    for group, (start, count) in enumerate(zip(starts, counts, strict=True)):
        rows = slice(start, start + count)
        labels[rows] = group
        if count:
            inputs = (a[rows], mn_major(torch, a_scale[rows].contiguous()), *weights[group])
            want[rows] = fp8(torch, inputs, "BLOCK", None, "bfloat16")
    ends = torch.tensor([x + y for x, y in zip(starts, counts, strict=True)], dtype=torch.int32, device="cuda")
    b = torch.stack([weight.view(torch.uint8) for weight, _ in weights])
    b_scale = torch.stack([scale for _, scale in weights])
    shape = Shape(m, n, k, schedule="PREFIX_SUM" if prefix_sum else "LABELLED")
    for tile in tiles_of(shape):
        d = torch.full((m, n), 7.0, dtype=torch.bfloat16, device="cuda")
        layout, forced = ends if prefix_sum else labels, configure(shape, tile, 1, 132)
        options = {"prefix_sum": prefix_sum, "zero_padding": zero_padding, "forced": forced}
        gemm_grouped_contiguous(a, b, d, layout, a_scale, b_scale, **options)
        assert torch.equal(d, want), tile


@pytest.mark.parametrize("accumulate", [False, True])
def test_groups_of_k_are_dense_products_and_an_empty_one_adds_nothing(torch, accumulate):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm
    from dgref.backends.cuda.sm90.grouped import gemm_grouped_k

    sizes, m, n = [256, 0, 640, 128], 192, 264
    parts = [fp8_inputs(torch, m, n, max(size, 128), "VECTOR", seed) for seed, size in enumerate(sizes)]
    c = torch.randn(4, m, n, device="cuda")
    want = c.clone() if accumulate else torch.zeros_like(c)
    for group, size in enumerate(sizes):
        if size:
            fp8_gemm(*parts[group], want[group], want[group] if accumulate else None, b_block=(1, 128))
    kept = [part for part, size in zip(parts, sizes, strict=True) if size]
    a, b = (torch.cat([part[i].view(torch.uint8).flatten() for part in kept]) for i in (0, 2))
    a_scale, b_scale = (torch.cat([part[i].t().contiguous() for part in kept]).t() for i in (1, 3))
    layout = torch.tensor(sizes, dtype=torch.int32, device="cuda")
    kind = {"scaling": "VECTOR", "output": "F32", "accumulate": accumulate}
    for tile in tiles_of(shape := Shape(m, n, 256, groups=4, schedule="K_SIZES", **kind)):
        d = c.clone() if accumulate else torch.full_like(c, float("nan"))
        forced = configure(shape, tile, 1, 132)
        gemm_grouped_k(a, b, d, layout, d if accumulate else None, a_scale, b_scale, sizes=sizes, forced=forced)
        assert torch.equal(d, want), tile


def test_bf16_groups_of_k_lie_one_behind_the_other(torch):
    from dgref.backends.cuda.sm90.gemm import bf16_gemm
    from dgref.backends.cuda.sm90.grouped import gemm_grouped_k

    sizes, m, n = [256, 0, 640, 128], 192, 256
    a, b = (torch.randn(sum(sizes), columns, device="cuda").bfloat16() for columns in (m, n))
    c = torch.randn(4, m, n, device="cuda")
    want, first = c.clone(), 0
    for group, size in enumerate(sizes):
        part = slice(first, first + size)
        kind = {
            "element": "BF16",
            "scaling": "NONE",
            "major_a": "MN",
            "major_b": "MN",
            "output": "F32",
            "accumulate": True,
        }
        if size:
            forced = configure(Shape(m, n, size, **kind), PLAIN, 1, 132)
            bf16_gemm(a[part].t(), b[part].t(), want[group], want[group], forced=forced)
        first += size
    d = c.clone()
    layout = torch.tensor(sizes, dtype=torch.int32, device="cuda")
    gemm_grouped_k(a, b, d, layout, d, sizes=sizes)
    assert torch.equal(d, want)


def test_masked_rows_are_the_dense_product_and_others_are_untouched(torch):
    from dgref.backends.cuda.sm90.grouped import gemm_grouped_masked

    counts, m, n, k = [3, 0, 200, 129], 200, 264, 384
    parts = [fp8_inputs(torch, m, n, k, "BLOCK", seed) for seed in range(4)]
    a, a_scale, b, b_scale = (torch.stack([part[i].float() for part in parts]) for i in range(4))
    want = torch.full((4, m, n), 7.0, dtype=torch.bfloat16, device="cuda")
    for group, count in enumerate(counts):
        want[group, :count] = fp8(torch, parts[group], "BLOCK", None, "bfloat16")[:count]
    rows = torch.tensor(counts, dtype=torch.int32, device="cuda")
    a, b, a_scale = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn), mn_major(torch, a_scale)
    for tile in tiles_of(shape := Shape(64, n, k, groups=4, schedule="MASKED")):
        d = torch.full_like(want, 7.0)
        gemm_grouped_masked(a, b, d, rows, 64, a_scale, b_scale, forced=configure(shape, tile, 1, 132))
        assert torch.equal(d, want), tile


def test_a_thousand_launches_of_a_split_give_the_same_bits(torch):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    inputs = fp8_inputs(torch, 16, 2112, 7168, "BLOCK")
    want = fp8(torch, inputs, "BLOCK", None, "bfloat16")
    d = torch.empty_like(want)
    for _ in range(1000):
        fp8_gemm(*inputs, d)
    assert torch.equal(d, want)


def test_a_stage_is_not_filled_again_before_its_scales_have_arrived(torch):
    from dgref.backends.cuda.sm90.grouped import gemm_grouped_k

    sizes, m, n = [640, 384] * 32, 1024, 768  # odd numbers of blocks end in a loop of their own
    torch.manual_seed(0)
    a, b = (torch.randn(rows * sum(sizes), device="cuda").to(torch.float8_e4m3fn) for rows in (m, n))
    a_scale, b_scale = (torch.rand(sum(sizes) // 128, rows, device="cuda").t() + 0.5 for rows in (m, n))
    layout = torch.tensor(sizes, dtype=torch.int32, device="cuda")
    d = torch.empty(len(sizes), m, n, device="cuda")
    sums = []
    for _ in range(500):
        gemm_grouped_k(a, b, d, layout, None, a_scale, b_scale, sizes=sizes)
        sums.append(d.view(torch.int32).sum(dtype=torch.int64))
    assert len(torch.stack(sums).unique()) == 1


@needs_vectors
@pytest.mark.parametrize("name", ["deep_gemm_fp8_1d2d", "deep_gemm_fp8_1d1d", "deep_gemm_bf16"])
def test_an_unsplit_launch_has_the_bits_that_deep_gemm_recorded(torch, name):
    import numpy as np

    from dgref.backends.cuda.sm90.gemm import bf16_gemm, fp8_gemm

    found = np.load(VECTORS / "h200" / f"{name}.npz")
    out = torch.bfloat16 if found["d"].dtype == np.uint16 else torch.float32
    d = torch.empty(found["d"].shape, dtype=out, device="cuda")
    m, k = found["a"].shape
    if name == "deep_gemm_bf16":
        a, b = (torch.from_numpy(found[key].view(np.int16)).cuda().view(torch.bfloat16) for key in "ab")
        shape = Shape(m, d.shape[1], k, element="BF16", scaling="NONE", output="F32")
        bf16_gemm(a, b, d, forced=configure(shape, PLAIN, 1, 132))
    else:
        vector = name.endswith("1d1d")
        a, b, a_scale, b_scale = (torch.from_numpy(found[key]).cuda() for key in ("a", "b", "sfa", "sfb"))
        b_scale = mn_major(torch, b_scale) if vector else b_scale
        kind = {"scaling": "VECTOR", "output": "F32"} if vector else {}
        forced = configure(Shape(m, d.shape[1], k, **kind), PLAIN, 1, 132)
        fp8_gemm(a, mn_major(torch, a_scale), b, b_scale, d, b_block=(1, 128) if vector else (128, 128), forced=forced)
    bits = d.view(torch.int16 if out == torch.bfloat16 else torch.int32).cpu().numpy()
    assert (bits.view(found["d"].dtype) == found["d"]).all()


def test_a_call_runs_on_the_gpu_of_its_tensors(torch):
    from dgref.backends.cuda.sm90.gemm import fp8_gemm

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = fp8_inputs(torch, 64, 256, 1024, "BLOCK")
    want = fp8(torch, inputs, "BLOCK", None)
    there = [tensor.to("cuda:1") for tensor in inputs]
    d = torch.empty(64, 256, device="cuda:1")
    for _ in range(2):
        fp8_gemm(*there, d.fill_(float("nan")))
        assert torch.cuda.current_device() == 0 and torch.equal(d.cpu(), want.cpu())
