"""The drop-in on a Hopper GPU: every call has the bits of the same call on CPU tensors, and touches as little of d.

K is too short to be split here, except where the arithmetic of the split is what is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import dgref.deep_gemm as deep_gemm
from dgref.deep_gemm.testing import assert_bitwise_equal

pytestmark = pytest.mark.gpu
M, N, K = 48, 144, 320
LAYOUTS = ("nt", "nn", "tn", "tt")


def to_gpu(value: Any, copies: dict[int, torch.Tensor]) -> Any:
    """Return a copy of an argument on the GPU; what is one tensor here is one tensor there."""
    if isinstance(value, torch.Tensor):
        return copies.setdefault(id(value), value.cuda())
    return tuple(to_gpu(part, copies) for part in value) if isinstance(value, tuple) else value


def assert_same(call: Callable, *arguments: Any, **options: Any) -> None:
    """Run a call on both devices, and compare all of d, its third argument."""
    copies: dict[int, torch.Tensor] = {}
    on_gpu = to_gpu(arguments, copies)
    call(*on_gpu, **{name: to_gpu(value, copies) for name, value in options.items()})
    call(*arguments, **options)
    assert_bitwise_equal(on_gpu[2].cpu(), arguments[2])


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape).bfloat16()


def filled(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.full(shape, 7.0, dtype=dtype)


def by_token(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x[..., rows, k] in FP8 with scales per 1x128."""
    codes, scales = deep_gemm.per_token_cast_to_fp8(x.reshape(-1, x.shape[-1]), False)
    return codes.reshape(x.shape), scales.reshape(*x.shape[:-1], -1)


def by_block(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x[..., rows, k] in FP8 with scales per 128x128."""
    if x.dim() == 2:
        return deep_gemm.per_block_cast_to_fp8(x, False)
    parts = [deep_gemm.per_block_cast_to_fp8(part, False) for part in x]
    return stacked([codes for codes, _ in parts]), torch.stack([scales for _, scales in parts])


def packed(x: torch.Tensor, granule: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x[..., rows, k] in packed FP4 with scales per 1 x granule, powers of two."""
    codes, scales = deep_gemm.per_token_cast_to_fp4(x.reshape(-1, x.shape[-1]), True, granule)
    return codes.reshape(*x.shape[:-1], -1), scales.reshape(*x.shape[:-1], -1)


def stacked(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([part.view(torch.uint8) for part in parts]).view(parts[0].dtype)


def transposed(operand: Any) -> Any:
    if isinstance(operand, tuple):
        return tuple(map(transposed, operand))
    return operand.transpose(-1, -2).contiguous()


def given(layout: str, a: Any, b: Any) -> tuple[Any, Any]:
    """Return the operands as a call of this layout takes them."""
    return (a if layout[0] == "n" else transposed(a), b if layout[1] == "t" else transposed(b))


# -- dense ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("recipe", [None, (1, 1, 128)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fp8(layout: str, recipe: Any, out: torch.dtype) -> None:
    right = by_token(normal(N, K)) if recipe else by_block(normal(N, K))
    a, b = given(layout, by_token(normal(M, K)), right)
    assert_same(getattr(deep_gemm, f"fp8_gemm_{layout}"), a, b, filled(M, N, dtype=out), recipe=recipe)


@pytest.mark.parametrize("shape", [(1, 136, 128), (37, 137, 400), (130, 8, 16)])
def test_fp8_tails(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    assert_same(deep_gemm.fp8_gemm_nt, by_token(normal(m, k)), by_block(normal(n, k)), filled(m, n))


@pytest.mark.parametrize("out", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("in_place", [False, True])
def test_fp8_adds_to_c(in_place: bool, out: torch.dtype) -> None:
    a, b, c = by_token(normal(M, K)), by_token(normal(N, K)), torch.randn(M, N).to(out)
    assert_same(deep_gemm.fp8_gemm_nt, a, b, c if in_place else filled(M, N, dtype=out), c=c, recipe=(1, 1, 128))


def test_scales_that_are_ready_and_scales_that_lie_oddly_give_the_same_bits() -> None:
    a, b, d = by_token(normal(M, K)), by_block(normal(N, K)), filled(M, N)
    ready = deep_gemm.get_mn_major_tma_aligned_tensor(a[1])
    odd = torch.stack([a[1], a[1]], -1)[..., 0]
    for scales in (a[1], ready, odd):
        copy = torch.empty(0, device="cuda").new_empty(M, N, dtype=d.dtype)
        moved = torch.empty_strided(scales.shape, scales.stride(), device="cuda").copy_(scales)
        deep_gemm.fp8_gemm_nt((a[0].cuda(), moved), tuple(x.cuda() for x in b), copy)
        deep_gemm.fp8_gemm_nt((a[0], scales), b, d)
        assert_bitwise_equal(copy.cpu(), d)


@pytest.mark.parametrize("granule", [32, 128])
def test_fp4_weights(granule: int) -> None:
    recipes = {"recipe_a": (1, 128), "recipe_b": (1, granule)}
    a, b = by_token(normal(M, 384)), packed(normal(N, 384), granule)
    assert_same(deep_gemm.fp8_fp4_gemm_nt, a, b, filled(M, N), **recipes)


def test_the_middle_of_each_head_is_left_alone() -> None:
    a, b = by_token(normal(M, K)), by_block(normal(4 * 96, K))
    assert_same(deep_gemm.fp8_gemm_nt_skip_head_mid, a, b, filled(M, 4 * 128), (64, 32, 32))


@pytest.mark.parametrize("out", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("library", ["bf16", "cublaslt"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bf16(layout: str, library: str, out: torch.dtype) -> None:
    call, c = getattr(deep_gemm, f"{library}_gemm_{layout}"), torch.randn(M, N).to(out)
    a, b = given(layout, normal(M, K), normal(N, K))
    assert_same(call, a, b, filled(M, N, dtype=out))
    assert_same(call, a, b, c, c=c)


@pytest.mark.parametrize("multiprocessors", [0, 64])
def test_a_split_of_k_is_the_declared_one(multiprocessors: int) -> None:
    from dgref.backends.cuda.sm90.arithmetic import arithmetic_of
    from dgref.backends.cuda.sm90.configuration import configuration
    from dgref.backends.cuda.sm90.shape import Shape
    from dgref.reference.arithmetic import sm90_fp8

    deep_gemm.set_num_sms(multiprocessors)
    m, n, k = 16, 256, 7168
    described = arithmetic_of(configuration(Shape(m, n, k), deep_gemm.get_num_sms()))
    assert described["splits"] > 1
    deep_gemm.configure(arithmetic=sm90_fp8(described["split_boundaries"][1:-1]))
    assert_same(deep_gemm.fp8_gemm_nt, by_token(normal(m, k)), by_block(normal(n, k)), filled(m, n))


# -- groups of rows ---------------------------------------------------------------------------------------------------

COUNTS, GROUPS, ROWS = (100, 0, 128, 37), 4, 384


def rows_of_groups(alignment: int, psum: bool) -> torch.Tensor:
    """Return the labels of `ROWS` rows, or the ends of the groups."""
    starts, start = [], 0
    for count in COUNTS:
        starts.append(start)
        start = -(-(start + count) // alignment) * alignment
    if psum:
        return torch.tensor([start + count for start, count in zip(starts, COUNTS, strict=True)], dtype=torch.int32)
    labels = torch.full((ROWS,), -1, dtype=torch.int32)
    for group, (start, count) in enumerate(zip(starts, COUNTS, strict=True)):
        labels[start : start + count] = group
    return labels


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("psum", [False, True])
@pytest.mark.parametrize("layout", ["nt", "nn"])
@pytest.mark.parametrize("kind", ["fp8", "bf16"])
def test_contiguous_rows(kind: str, layout: str, psum: bool, zero: bool) -> None:
    a, b = normal(ROWS, K), normal(GROUPS, N, K)
    if kind == "fp8":
        a, b = by_token(a), by_block(b)
    call = getattr(deep_gemm, f"m_grouped_{kind}_gemm_{layout}_contiguous")
    options = {"use_psum_layout": psum, "ensure_zero_padding": zero}
    _, b = given(layout, a, b)
    assert_same(call, a, b, filled(ROWS, N), rows_of_groups(128, psum), **options)


@pytest.mark.parametrize("psum", [False, True])
def test_contiguous_rows_in_small_tiles(psum: bool) -> None:
    deep_gemm.set_mk_alignment_for_contiguous_layout(64)
    a, b = by_token(normal(ROWS, K)), by_block(normal(GROUPS, N, K))
    layout = rows_of_groups(64, psum)
    assert_same(deep_gemm.m_grouped_fp8_gemm_nt_contiguous, a, b, filled(ROWS, N), layout, use_psum_layout=psum)


@pytest.mark.parametrize("granule", [32, 128])
def test_contiguous_rows_by_fp4_weights(granule: int) -> None:
    a, b = by_token(normal(ROWS, 384)), packed(normal(GROUPS, N, 384), granule)
    recipes = {"recipe_a": (1, 128), "recipe_b": (1, granule)}
    call = deep_gemm.m_grouped_fp8_fp4_gemm_nt_contiguous
    assert_same(call, a, b, filled(ROWS, N), rows_of_groups(128, False), **recipes)


@pytest.mark.parametrize("kind", ["fp8", "fp4", "bf16"])
def test_masked_rows(kind: str) -> None:
    a, b = normal(GROUPS, 128, 384), normal(GROUPS, N, 384)
    counts, recipes = torch.tensor(COUNTS, dtype=torch.int32), {}
    if kind != "bf16":
        a, b = by_token(a), by_block(b) if kind == "fp8" else packed(b, 32)
    if kind == "fp4":
        recipes = {"recipe_a": (1, 128), "recipe_b": (1, 32)}
    call = deep_gemm.m_grouped_bf16_gemm_nt_masked if kind == "bf16" else deep_gemm.m_grouped_fp8_fp4_gemm_nt_masked
    assert_same(call, a, b, filled(GROUPS, 128, N), counts, 64, **recipes)


def test_legacy_names() -> None:
    a, b, labels = normal(64, K), normal(GROUPS, N, K), rows_of_groups(128, False)
    order = torch.randint(-1, 64, (ROWS,), dtype=torch.int32)
    call = deep_gemm.legacy.a_fused_m_grouped_bf16_gemm_nt_contiguous_tl
    assert_same(call, a, b, filled(ROWS, N), (labels, order))


# -- groups of K ------------------------------------------------------------------------------------------------------

SIZES = [128, 0, 384, 256]


def k_layout(psum: bool) -> tuple[list[int] | None, torch.Tensor]:
    """Return the sizes on the host and on the device; ends leave a gap after the third group."""
    if not psum:
        return SIZES, torch.tensor(SIZES, dtype=torch.int32)
    return None, torch.tensor([128, 128, 412, 768], dtype=torch.int32)


def k_operands(psum: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a[k, m], b[k, n] with zeros between groups, and c."""
    a, b = normal(sum(SIZES), M), normal(sum(SIZES), N)
    if psum:
        a[412:512] = b[412:512] = 0
    return a, b, torch.randn(len(SIZES), M, N)


@pytest.mark.parametrize("psum", [False, True])
@pytest.mark.parametrize("kind", ["fp8", "bf16"])
def test_groups_of_k(kind: str, psum: bool) -> None:
    a, b, c = k_operands(psum)
    if kind == "fp8":
        a, b = (deep_gemm.per_channel_cast_to_fp8(x, False) for x in (a, b))
    call = getattr(deep_gemm, f"k_grouped_{kind}_gemm_tn_contiguous")
    sizes, layout = k_layout(psum)
    for d, start in ((c.clone(), None), (torch.empty_like(c), c), (c, c)):
        assert_same(call, a, b, d, sizes, layout, start, use_psum_layout=psum)


def test_groups_of_k_in_matrices_of_their_own() -> None:
    a, b, c = k_operands(False)
    operands = []
    for x in (a, b):
        codes, scales = deep_gemm.per_channel_cast_to_fp8(x, False)
        parts = [part.t().reshape(-1) for part in codes.view(torch.uint8).split(SIZES)]
        operands.append((torch.cat(parts).view(codes.dtype), scales.t()))
    sizes, layout = k_layout(False)
    assert_same(deep_gemm.k_grouped_fp8_gemm_nt_contiguous, *operands, c, sizes, layout, c)


def test_groups_of_k_that_are_all_empty_leave_c() -> None:
    c, none = torch.randn(2, M, N), torch.zeros(2, dtype=torch.int32)
    a, b = normal(0, M), normal(0, N)
    assert_same(deep_gemm.k_grouped_bf16_gemm_tn_contiguous, a, b, torch.empty_like(c), [0, 0], none, c)


# -- scales and settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(130, 7), (1, 3), (3, 130, 8), (2, 4096, 56)])
def test_transforms_of_scales(shape: tuple[int, ...]) -> None:
    scales = torch.randint(-20, 20, shape).float().exp2()
    calls = [deep_gemm.get_mn_major_tma_aligned_tensor, deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor]
    rows, blocks = shape[-2:]
    groups = shape[0] if len(shape) == 3 else None
    calls += [
        lambda sf: deep_gemm.transform_sf_into_required_layout(sf, rows, blocks * 128, (1, 128), groups),
    ]
    for call in calls:
        made, need = call(scales.cuda()), call(scales)
        assert made.stride() == need.stride()
        assert_bitwise_equal(made.cpu(), need)


def test_transforms_of_scales_in_groups() -> None:
    scales, counts = torch.randint(-20, 20, (6, 96)).float().exp2(), [128, 0, 384, 256]
    sizes = torch.tensor(counts, dtype=torch.int32)
    pack = deep_gemm.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor
    made = pack(scales.cuda(), sizes.cuda(), counts, 128, 128)
    assert_bitwise_equal(made.cpu(), pack(scales, sizes, counts, 128, 128))
    rows, ends = torch.randint(-20, 20, (ROWS, 5)).float().exp2(), rows_of_groups(128, True)
    pack = deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor
    assert_bitwise_equal(pack(rows.cuda(), ends.cuda()).cpu(), pack(rows, ends))


@pytest.mark.parametrize("cast", ["per_token_cast_to_fp8", "per_channel_cast_to_fp8", "per_block_cast_to_fp8"])
def test_casts(cast: str) -> None:
    """With powers of two: on a GPU, torch divides by a number by multiplying with its reciprocal."""
    x, call = normal(256, 384), getattr(deep_gemm, cast)
    for made, need in zip(call(x.cuda(), True), call(x, True), strict=True):
        assert_bitwise_equal(made.cpu().view(torch.uint8), need.view(torch.uint8))


@pytest.mark.parametrize("multiprocessors", [1, 7, 132])
def test_fewer_multiprocessors_give_the_same_bits(multiprocessors: int) -> None:
    deep_gemm.set_num_sms(multiprocessors)
    a, b = by_token(normal(300, K)), by_block(normal(520, K))
    assert_same(deep_gemm.fp8_gemm_nt, a, b, filled(300, 520))
    test_masked_rows("fp8")


def test_overlapping_launches_wait_for_what_they_read() -> None:
    """Each product reads what the one before wrote, a thousand times over."""
    first, weight = normal(256, 256).cuda(), (normal(256, 256) / 16).cuda()

    def chain() -> torch.Tensor:
        values = [first.clone(), torch.empty_like(first)]
        for step in range(1000):
            deep_gemm.bf16_gemm_nt(values[step % 2], weight, values[1 - step % 2])
            if step % 7 == 0:
                values[1 - step % 2].clamp_(-4, 4)
        return values[0]

    need = chain()
    deep_gemm.set_pdl(True)
    assert need.abs().max() > 0
    assert_bitwise_equal(chain(), need)
