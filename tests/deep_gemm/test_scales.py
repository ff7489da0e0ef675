"""Layout transforms give the buffers of dgref's layouts, as strided views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dgref.deep_gemm as deep_gemm
from dgref.deep_gemm.testing import assert_bitwise_equal
from dgref.errors import FormatError, InputError, ShapeError, UnsupportedError
from dgref.formats import LAYOUTS


def powers(*shape: int) -> torch.Tensor:
    return torch.exp2(torch.randint(-20, 20, shape).float())


@pytest.mark.parametrize("shape", [(7, 5), (3, 9, 4), (128, 1), (0, 3)])
def test_mn_major_is_a_view_of_the_padded_columns(shape: tuple[int, ...]) -> None:
    scales = torch.rand(shape)
    made = deep_gemm.get_mn_major_tma_aligned_tensor(scales)
    assert torch.equal(made, scales)
    assert made.stride()[-2:] == (1, deep_gemm.get_tma_aligned_size(shape[-2], 4)) or not scales.numel()
    assert deep_gemm.get_mn_major_tma_aligned_tensor(made) is made or shape[-1] == 1 or not scales.numel()


@pytest.mark.parametrize("shape", [(7, 5), (2, 9, 4)])
def test_packed_words_hold_four_exponents(shape: tuple[int, ...]) -> None:
    scales = powers(*shape)
    made = deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor(scales)
    buffer = LAYOUTS["packed_ue8m0"].pack(scales)
    assert_bitwise_equal(made, buffer[..., : shape[-2]].transpose(-1, -2))
    assert made.stride(-2) == 1 and made.stride(-1) % 4 == 0


def test_words_of_rows_between_groups_are_zero() -> None:
    scales = powers(40, 8)
    scales[10:16] = 3.0  # no power of two: never read
    deep_gemm.set_mk_alignment_for_contiguous_layout(16)
    ends = torch.tensor([10, 40], dtype=torch.int32)
    made = deep_gemm.get_mn_major_tma_aligned_packed_ue8m0_tensor(scales, ends)
    assert not made[10:16].any() and made[:10].all() and made[16:].all()


def test_required_layouts_follow_the_architecture() -> None:
    rows, blocks = powers(20, 3), powers(1, 3)
    transform = deep_gemm.transform_sf_into_required_layout
    assert transform(rows, 20, 384, (1, 128, 128), is_sfa=True).stride() == (1, 20)
    assert transform(blocks, 20, 384, (1, 128, 128), is_sfa=False) is blocks
    deep_gemm.configure("sm100")
    words = transform(blocks, 20, 384, (128, 128))
    assert words.shape == (20, 1) and words.dtype == torch.int32
    assert bool((words == words[0]).all())
    assert transform(words, 20, 384, (1, 128)) is words
    assert transform(rows, 20, 384, (1, 128), disable_ue8m0_cast=True).dtype == torch.float32


def test_a_layout_that_no_kernel_reads_is_refused() -> None:
    with pytest.raises(
        UnsupportedError, match=r"float32 scales of 1x32 blocks.*; get_mn_major_tma_aligned_packed_ue8m0"
    ):
        deep_gemm.transform_sf_into_required_layout(powers(8, 4), 8, 128, (1, 32))
    with pytest.raises(ShapeError, match=r"sf shape: got \[8, 4\], need \[8, 1\]"):
        deep_gemm.transform_sf_into_required_layout(powers(8, 4), 8, 128, (1, 128))
    with pytest.raises(InputError, match="recipe: got"):
        deep_gemm.transform_sf_into_required_layout(powers(8, 1), 8, 128, (1, 128, 128))
    with pytest.raises(FormatError, match=r"sf: got torch\.float64"):
        deep_gemm.get_mn_major_tma_aligned_tensor(torch.ones(4, 4, dtype=torch.float64))


def test_groups_of_k_start_new_words() -> None:
    sizes, scales = [256, 0, 640], powers(7, 8)
    layout = torch.tensor(sizes, dtype=torch.int32)
    made = deep_gemm.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor(scales, layout, sizes, 128, 128)
    need = LAYOUTS["packed_ue8m0_k_grouped"].pack(scales.numpy(), extents=[2, 0, 5])
    assert np.array_equal(made.numpy(), need)
    with pytest.raises(InputError, match="ks_cpu: got None"):
        deep_gemm.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor(scales, layout, None, 128, 128)


def test_running_ends_of_k_take_more_scales_and_give_as_many_rows_of_words_as_deep_gemm() -> None:
    pack = deep_gemm.get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor
    real, aligned = [160, 0, 96], [224, 0, 224]  # 5, 0 and 3 blocks of 32; each group starts at a multiple of 224
    ends = torch.tensor([160, 224, 320], dtype=torch.int32)
    scales = powers(10, 8)  # two more than the groups have
    need = torch.from_numpy(LAYOUTS["packed_ue8m0_k_grouped"].pack(scales[:8].numpy(), extents=[5, 0, 3]).view("i4"))
    for sizes, rows in ((real, 3), (aligned, 4), (None, (10 + 9) // 4), ([], 4)):
        made = pack(scales, ends, sizes, 32, 224, use_psum_layout=True)
        assert made.shape == (rows, 8) and torch.equal(made[:3], need) and not made[3:].any()
    with pytest.raises(InputError, match=r"ks_cpu: got \[32, 0, 32\], need at least \[160, 0, 96\]"):
        pack(scales, ends, [32, 0, 32], 32, 224, use_psum_layout=True)


def test_settings_keep_what_is_set_and_refuse_what_is_not_possible() -> None:
    for name, value in (("num_sms", 40), ("tc_util", 50), ("pdl", True)):
        default = getattr(deep_gemm, f"get_{name}")()
        getattr(deep_gemm, f"set_{name}")(value)
        assert getattr(deep_gemm, f"get_{name}")() == value
        getattr(deep_gemm, f"set_{name}")(default)
    deep_gemm.set_num_sms(0)
    deep_gemm.set_tc_util(0)
    assert deep_gemm.get_tc_util() == 100
    deep_gemm.set_block_size_multiple_of((16, 8))
    deep_gemm.set_ignore_compile_dims(True)
    with pytest.raises(InputError, match=r"^set_tc_util: new_tc_util: got 101, need an integer from 0 to 100"):
        deep_gemm.set_tc_util(101)
    with pytest.raises(InputError, match=r"^set_mk_alignment_for_contiguous_layout: new_value: got 0"):
        deep_gemm.set_mk_alignment_for_contiguous_layout(0)


def test_theoretical_alignment_follows_the_architecture() -> None:
    assert deep_gemm.get_theoretical_mk_alignment_for_contiguous_layout(20) == 128
    deep_gemm.configure("sm100")
    assert deep_gemm.get_theoretical_mk_alignment_for_contiguous_layout() == 224
    assert deep_gemm.get_theoretical_mk_alignment_for_contiguous_layout(expected_m=20) == 32
