"""Grouped products over rows and over K, with bits equal to dgref's references and padding left as promised."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import dgref.deep_gemm as deep_gemm
from dgref import reference
from dgref.deep_gemm.testing import assert_bitwise_equal, calc_diff
from dgref.errors import FormatError, InputError, ShapeError
from dgref.formats import quantize
from dgref.reference.operands import take

GROUPS, N, K, ALIGNMENT = 3, 64, 256, 16
COUNTS = (13, 0, 16)
STARTS = (0, 16, 16)
ROWS = 32


def fp8_rows(a):
    return deep_gemm.per_token_cast_to_fp8(a, False)


def fp8_weights(b):
    parts = [deep_gemm.per_block_cast_to_fp8(part, False) for part in b]
    return tuple(torch.stack([part[i].view(torch.uint8) if i == 0 else part[i] for part in parts]) for i in (0, 1))


def weights(b):
    codes, scales = fp8_weights(b)
    return codes.view(torch.float8_e4m3fn), scales


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    deep_gemm.set_mk_alignment_for_contiguous_layout(ALIGNMENT)
    return torch.randn(ROWS, K).bfloat16(), torch.randn(GROUPS, N, K).bfloat16()


def labels() -> torch.Tensor:
    made = torch.full((ROWS,), -1, dtype=torch.int32)
    for group, (start, count) in enumerate(zip(STARTS, COUNTS, strict=True)):
        made[start : start + count] = group
    return made


def ends() -> torch.Tensor:
    return torch.tensor([start + count for start, count in zip(STARTS, COUNTS, strict=True)], dtype=torch.int32)


def expected_rows(a, b) -> torch.Tensor:
    """Return every group's own dense product."""
    d = torch.zeros(ROWS, N, dtype=torch.bfloat16)
    for group, (start, count) in enumerate(zip(STARTS, COUNTS, strict=True)):
        part = slice(start, start + count)
        left, right = quantize(a[part], "deepseek_fp8"), quantize(b[group], "deepseek_fp8_weight")
        d[part] = reference.gemm(left, right, arithmetic="deep_gemm.sm90.fp8_1d2d")
    return d


@pytest.mark.parametrize("psum", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_contiguous_fp8_is_each_groups_dense_product(rows, psum: bool, transposed: bool) -> None:
    a, b = rows
    d = torch.full((ROWS, N), 7.0, dtype=torch.bfloat16)
    right, run = weights(b), deep_gemm.m_grouped_fp8_gemm_nt_contiguous
    if transposed:
        right = tuple(t.transpose(1, 2).contiguous() for t in right)
        run = deep_gemm.m_grouped_fp8_gemm_nn_contiguous
    run(fp8_rows(a), right, d, ends() if psum else labels(), use_psum_layout=psum)
    assert_bitwise_equal(d, expected_rows(a, b))


def test_padding_rows_are_left_alone_when_zeros_are_not_asked_for(rows) -> None:
    a, b = rows
    d = torch.full((ROWS, N), 7.0, dtype=torch.bfloat16)
    options = {"use_psum_layout": True, "ensure_zero_padding": False}
    deep_gemm.m_grouped_bf16_gemm_nt_contiguous(a, b, d, ends(), **options)
    used = labels() >= 0
    assert (d[~used] == 7).all()
    need = torch.cat([a[:13] @ b[0].t(), a[16:] @ b[2].t()])
    assert calc_diff(d[used], need) < 1e-4


def test_rows_without_a_label_are_zero(rows) -> None:
    a, b = rows
    d = torch.full((ROWS, N), 7.0, dtype=torch.bfloat16)
    deep_gemm.m_grouped_bf16_gemm_nt_contiguous(a, b, d, labels(), ensure_zero_padding=False)
    assert not d[labels() < 0].any() and d[labels() >= 0].any(dim=1).all()


def test_scales_of_padding_rows_are_never_read(rows) -> None:
    deep_gemm.configure("sm100")
    a, b = rows
    left = deep_gemm.per_token_cast_to_fp8(a, True)
    right = tuple(t.clone() for t in weights(b))
    right[1].copy_(deep_gemm.utils.math.ceil_to_ue8m0(right[1]))
    d = torch.empty(ROWS, N, dtype=torch.bfloat16)
    left[1][13:16] = float("nan")
    deep_gemm.m_grouped_fp8_fp4_gemm_nt_contiguous(left, right, d, labels())
    assert d.isfinite().all()


def test_masked_rows_are_each_groups_dense_product_and_others_untouched() -> None:
    a, b = torch.randn(GROUPS, 16, K).bfloat16(), torch.randn(GROUPS, N, K).bfloat16()
    codes, scales = fp8_rows(a.reshape(-1, K))
    left = (codes.reshape(GROUPS, 16, K), scales.reshape(GROUPS, 16, -1))
    d, counts = torch.full((GROUPS, 16, N), 7.0, dtype=torch.bfloat16), torch.tensor(COUNTS, dtype=torch.int32)
    deep_gemm.fp8_m_grouped_gemm_nt_masked(left, weights(b), d, counts, 10)
    tensor = quantize(a, "deepseek_fp8")
    for group, count in enumerate(COUNTS):
        dense = reference.gemm(
            take(tensor, group), quantize(b[group], "deepseek_fp8_weight"), arithmetic="deep_gemm.sm90.fp8_1d2d"
        )
        assert_bitwise_equal(d[group, :count], dense[:count])
        assert (d[group, count:] == 7).all()


def test_masked_bf16_writes_the_same_rows() -> None:
    a, b = torch.randn(GROUPS, 16, K).bfloat16(), torch.randn(GROUPS, N, K).bfloat16()
    d = torch.zeros(GROUPS, 16, N, dtype=torch.bfloat16)
    deep_gemm.m_grouped_bf16_gemm_nt_masked(a, b, d, torch.tensor(COUNTS, dtype=torch.int32), 10)
    need = torch.where((torch.arange(16) < torch.tensor(COUNTS)[:, None])[..., None], a @ b.mT, 0)
    assert calc_diff(d, need) < 1e-4


SIZES = [128, 0, 256]


def k_operands(m: int = 24, n: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    k = sum(SIZES)
    return torch.randn(k, m).bfloat16(), torch.randn(k, n).bfloat16(), torch.randn(len(SIZES), m, n)


def by_group(a, b, c):
    spans = np.cumsum([0, *SIZES])
    return torch.stack([c[g] + a[i:j].float().t() @ b[i:j].float() for g, (i, j) in enumerate(pairwise(spans))])


def flat(codes: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.t().reshape(-1) for part in codes.view(torch.uint8).split(SIZES)]).view(torch.float8_e4m3fn)


def test_groups_of_k_agree_in_every_form_and_with_c_in_place() -> None:
    a, b, c = k_operands()
    layout = torch.tensor(SIZES, dtype=torch.int32)
    left, right = (deep_gemm.per_channel_cast_to_fp8(x, False) for x in (a, b))
    tn, nt, plain = c.clone(), torch.empty_like(c), torch.empty_like(c)
    deep_gemm.k_grouped_fp8_gemm_tn_contiguous(left, right, tn, SIZES, layout, tn)
    deep_gemm.k_grouped_fp8_gemm_nt_contiguous(
        (flat(left[0]), left[1].t()), (flat(right[0]), right[1].t()), nt, SIZES, layout, c
    )
    deep_gemm.k_grouped_bf16_gemm_tn_contiguous(a, b, plain, SIZES, layout, c)
    assert_bitwise_equal(tn, nt)
    assert_bitwise_equal(tn[1], c[1], "an empty group")
    assert calc_diff(tn, by_group(a, b, c)) < 1e-3
    assert calc_diff(plain, by_group(a, b, c)) < 1e-5


def test_groups_of_k_take_packed_scales_and_running_ends() -> None:
    deep_gemm.configure("sm100")
    a, b, c = k_operands()
    layout = torch.tensor(SIZES, dtype=torch.int32)
    operands = [deep_gemm.per_channel_cast_to_fp8(x, True, 32) for x in (a, b)]
    pack = deep_gemm.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor
    words = [(codes, pack(scales, layout, SIZES, 32, 128)) for codes, scales in operands]
    results = torch.empty(3, *c.shape)
    recipe = (1, 1, 32)
    deep_gemm.k_grouped_fp8_gemm_tn_contiguous(*operands, results[0], SIZES, layout, c, recipe)
    deep_gemm.k_grouped_fp8_gemm_tn_contiguous(*words, results[1], SIZES, layout, c, recipe)
    running = torch.tensor([128, 128, 384], dtype=torch.int32)
    deep_gemm.k_grouped_fp8_gemm_tn_contiguous(*operands, results[2], None, running, c, recipe, use_psum_layout=True)
    assert_bitwise_equal(results[0], results[1], "packed")
    assert_bitwise_equal(results[0], results[2], "running ends")
    longer = [(codes, torch.cat([scales, scales[:1]])) for codes, scales in operands]
    deep_gemm.k_grouped_fp8_gemm_tn_contiguous(*longer, results[1], None, running, c, recipe, use_psum_layout=True)
    assert_bitwise_equal(results[0], results[1], "a scale more than the groups have")
    assert calc_diff(results[0], by_group(a, b, c)) < 1e-3


def test_a_wrong_group_layout_is_named(rows) -> None:
    a, b = rows
    d = torch.empty(ROWS, N, dtype=torch.bfloat16)
    with pytest.raises(ShapeError, match=r"grouped_layout shape: got \[31\], need \[32\]"):
        deep_gemm.m_grouped_bf16_gemm_nt_contiguous(a, b, d, labels()[1:])
    with pytest.raises(FormatError, match=r"grouped_layout: got torch\.int64"):
        deep_gemm.m_grouped_bf16_gemm_nt_contiguous(a, b, d, labels().long())
    with pytest.raises(InputError, match=r"grouped_layout\[0\]: got 3, need <= 2"):
        deep_gemm.m_grouped_bf16_gemm_nt_contiguous(a, b, d, torch.full((ROWS,), 3, dtype=torch.int32))


def test_the_two_descriptions_of_groups_of_k_must_agree() -> None:
    a, b, c = k_operands()
    with pytest.raises(InputError, match="as in ks_cpu"):
        deep_gemm.k_grouped_bf16_gemm_tn_contiguous(a, b, c, [256, 0, 128], torch.tensor(SIZES, dtype=torch.int32), c)
    with pytest.raises(InputError, match="ks_cpu: got None"):
        deep_gemm.k_grouped_bf16_gemm_tn_contiguous(a, b, c, None, torch.tensor(SIZES, dtype=torch.int32), c)


def test_legacy_names_gather_rows() -> None:
    a, b = torch.randn(20, K).bfloat16(), torch.randn(GROUPS, N, K).bfloat16()
    order = torch.randint(0, 20, (ROWS,), dtype=torch.int32)
    plain, gathered = torch.empty(2, ROWS, N, dtype=torch.bfloat16)
    deep_gemm.m_grouped_bf16_gemm_nt_contiguous(a[order.long()], b, plain, labels())
    deep_gemm.legacy.a_fused_m_grouped_bf16_gemm_nn_contiguous_tl(a, b.mT, gathered, (labels(), order))
    assert_bitwise_equal(plain, gathered)


def test_legacy_groups_of_k_add_to_d_when_asked() -> None:
    a, b, c = k_operands()
    spans = torch.tensor(np.cumsum([0, *SIZES]), dtype=torch.int32)
    everything = torch.arange(len(a), dtype=torch.int32)
    d = c.clone()
    handle = (everything, spans[:-1].contiguous(), spans[1:].contiguous())
    deep_gemm.legacy.b_fused_k_grouped_bf16_gemm_tn_contiguous_tl(a, b, d, handle, True)
    assert calc_diff(d, by_group(a, b, c)) < 1e-5
