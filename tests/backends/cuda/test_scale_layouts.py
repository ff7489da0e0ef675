from __future__ import annotations

import numpy as np
import pytest
import torch

from dgref.backends.cuda import scale_layouts
from dgref.errors import FormatError, ShapeError, UnsupportedError
from dgref.formats.layouts import LAYOUTS

SHAPES = [(300, 7), (128, 56), (2, 260, 33), (64, 130), (5, 4)]


def test_the_host_packs_what_the_kernel_reads():
    assert scale_layouts._PROBLEM.size == 64  # static_assert in scale_layouts.cu


def test_every_kernel_is_for_a_layout_that_exists():
    assert all(LAYOUTS[name].name == name for name in scale_layouts.PACKERS)


def test_a_layout_without_a_kernel_is_an_error_that_lists_the_others():
    with pytest.raises(UnsupportedError, match=r"swizzle_8x4.*need one of mn_major_tma"):
        scale_layouts.pack("swizzle_8x4", torch.zeros(8, 4))
    with pytest.raises(UnsupportedError, match="others are only packed"):
        scale_layouts.unpack("mn_major_tma", torch.zeros(8, 4), (8, 4))


def test_a_grid_on_the_cpu_is_an_error():
    with pytest.raises(ShapeError, match="on a GPU"):
        scale_layouts.pack("mn_major_tma", torch.zeros(8, 4))


def powers(shape: tuple[int, ...]) -> np.ndarray:
    return np.exp2(np.random.default_rng(5).integers(-127, 127, shape)).astype(np.float32)


def codes(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(6).integers(0, 255, shape).astype(np.uint8)


CASES = [
    *((name, make, shape, {}) for shape in SHAPES for name, make in (
        ("mn_major_tma", powers),
        ("packed_ue8m0", powers),
        ("packed_ue8m0", codes),
        ("utccp_4x32_packed_ue8m0", powers),
        ("swizzle_128x4", codes),
        ("utccp_4x32", codes),
        ("utccp_4x32", powers),
    )),
    ("packed_ue8m0_broadcast_128", powers, (3, 56), {}),
    ("packed_ue8m0_psum", powers, (1000, 9), {"ends": [100, 128, 300, 1000]}),
    ("packed_ue8m0_psum", powers, (1000, 8), {"ends": [0, 256, 700], "row_alignment": 256}),
    ("packed_ue8m0_k_grouped", powers, (30, 300), {"extents": [5, 0, 8, 1, 16]}),
    ("packed_ue8m0_k_grouped", codes, (400, 33), {"extents": [3] * 100 + [100]}),
]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(("name", "make", "shape", "parameters"), CASES)
def test_a_packed_buffer_equals_the_cpus_in_every_bit(name, make, shape, parameters, check):
    scales = make(shape)
    expected = np.asarray(LAYOUTS[name].pack(scales, **parameters))
    actual = scale_layouts.pack(name, torch.from_numpy(scales).cuda(), check=check, **parameters).cpu().numpy()
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.view(np.uint8), expected.view(np.uint8))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_unswizzling_undoes_swizzling(shape):
    scales = torch.from_numpy(codes(shape)).cuda()
    assert torch.equal(
        scale_layouts.unpack("swizzle_128x4", scale_layouts.pack("swizzle_128x4", scales), shape), scales
    )


@pytest.mark.gpu
def test_a_scale_that_is_no_power_of_two_is_found_on_request_only():
    scales = torch.full((40, 4), 2.0, device="cuda")
    scales[3, 2] = 3.0
    scale_layouts.pack("packed_ue8m0", scales)
    with pytest.raises(FormatError, match=r"3\.0 at \(3, 2\)"):
        scale_layouts.pack("packed_ue8m0", scales, check=True)


@pytest.mark.gpu
def test_padding_rows_of_a_prefix_sum_may_hold_anything():
    scales = torch.full((256, 4), 2.0, device="cuda")
    scales[100:128] = float("nan")
    words = scale_layouts.pack("packed_ue8m0_psum", scales, check=True, ends=[100, 256])
    assert (words[0, 100:128] == 0).all()


@pytest.mark.gpu
def test_words_are_permuted_as_rows_are():
    words = torch.randint(0, 2**31 - 1, (6, 256), dtype=torch.int32, device="cuda")
    expected = words.view(6, 2, 4, 32).transpose(2, 3).reshape(6, 256)
    assert torch.equal(scale_layouts.utccp_words(words), expected)
