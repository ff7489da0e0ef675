"""A ScaledTensor explains itself and refuses parts that do not fit."""

import numpy as np
import pytest
import torch

from dgref.errors import FormatError, ShapeError, UnknownNameError
from dgref.formats import RECIPES, ScaledTensor, Scaling, quantize

MX = Scaling((1, 32), "float8_e8m0fnu", "floor_amax")
X = np.random.default_rng(0).standard_normal((3, 5, 70)).astype(np.float32)


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        ("mxfp4", "ScaledTensor(3x5x70 float4_e2m1fn, 1x32 float8_e8m0fnu floor_amax)"),
        ("per_tensor_fp8", "ScaledTensor(3x5x70 float8_e4m3fn, allxall float32 amax_over_max)"),
        ("bfloat16", "ScaledTensor(3x5x70 bfloat16, unscaled)"),
        (
            "nvfp4",
            "ScaledTensor(3x5x70 float4_e2m1fn, 1x16 float8_e4m3fn amax_over_max_times_global, "
            "global scale (multiply))",
        ),
    ],
)
def test_a_repr_is_one_line_that_a_person_can_read(recipe, text):
    assert repr(quantize(X, recipe)) == text


def test_each_element_gets_the_scale_of_its_block():
    t = quantize(X, "deepseek_fp8_weight")
    assert np.array_equal(t.expanded_scale(), np.broadcast_to(t.scale, X.shape))
    t = quantize(X, "mxfp8")
    for index in [(0, 0, 0), (1, 2, 31), (1, 2, 32), (2, 4, 69)]:
        assert t.expanded_scale()[index] == t.scale_values()[*index[:2], index[2] // 32]


def test_fp4_packs_the_even_index_into_the_low_nibble():
    t = ScaledTensor(np.array([[1, 2, 3, 15]], np.uint8), "float4_e2m1fn")
    assert np.array_equal(t.packed(), [[0x21, 0xF3]])


def test_a_format_of_whole_bytes_is_packed_already():
    t = quantize(X, "mxfp8")
    assert t.packed() is t.data


def test_transposing_twice_is_nothing_and_copies_nothing():
    t = quantize(X, "deepseek_fp8")
    back = t.transposed().transposed()
    assert t.transposed().shape == (3, 70, 5) and t.transposed().scaling.block == (128, 1)
    assert back.scaling == t.scaling and np.shares_memory(back.data, t.data) and np.shares_memory(back.scale, t.scale)
    assert np.array_equal(t.transposed().expanded_scale(), t.expanded_scale().swapaxes(-1, -2))


def test_other_scales_leave_the_payload_alone():
    t = quantize(X, "mxfp8")
    doubled = t.with_scale(t.scale + np.uint8(1))
    assert doubled.data is t.data and np.array_equal(doubled.scale_values(), 2 * t.scale_values())


def test_torch_data_stays_torch_without_a_copy():
    codes = torch.zeros((4, 64), dtype=torch.uint8)
    t = ScaledTensor(codes, "float8_e4m3fn", torch.full((4, 2), 127, dtype=torch.uint8), MX).validate()
    assert isinstance(t.values(), torch.Tensor) and isinstance(t.expanded_scale(), torch.Tensor)
    assert t.transposed().data.data_ptr() == codes.data_ptr()


def tensor(**changes) -> ScaledTensor:
    parts = {
        "data": np.zeros((4, 64), np.uint8),
        "format": "float4_e2m1fn",
        "scale": np.full((4, 2), 127, np.uint8),
        "scaling": MX,
    }
    return ScaledTensor(**{**parts, **changes})


FP32 = Scaling((1, 32))
NV = Scaling((1, 16), "float8_e4m3fn", "amax", global_scale="multiply")
UNFIT = [
    (tensor(data=np.zeros((4, 64), np.float32)), FormatError, "b.data: got float32, need codes as uint8"),
    (tensor(data=np.full((4, 64), 0x21, np.uint8)), FormatError, "b.data: got 0x21, need codes below 0x10"),
    (tensor(scale=None), FormatError, "b.scale: got None, need a grid of"),
    (tensor(scale=np.full((4, 3), 127, np.uint8)), ShapeError, r"b.scale: got \(4, 3\), need \(4, 2\)"),
    (tensor(scale=np.full((2, 4), 127, np.uint8)), ShapeError, r"b.scale: got \(2, 4\), need \(4, 2\)"),
    (tensor(scale=np.ones((4, 2), np.float32)), FormatError, "b.scale: got float32, need uint8"),
    (tensor(scaling=FP32, scale=-np.ones((4, 2), np.float32)), FormatError, "negative scale at"),
    (tensor(scaling=RECIPES["mxfp4"]), FormatError, "b.scaling: got Recipe, need a Scaling"),
    (tensor(scaling=None), FormatError, "b.scaling: got None beside scales"),
    (tensor(global_scale=np.float32(1)), FormatError, "b.global_scale: got a global scale, need none"),
    (tensor(scaling=NV, scale=np.zeros((4, 4), np.uint8)), FormatError, "b.global_scale: got none, need one"),
    (
        tensor(scaling=NV, scale=np.zeros((4, 4), np.uint8), global_scale=np.ones(3, np.float32)),
        ShapeError,
        "b.global_scale: got shape",
    ),
]


@pytest.mark.parametrize(("unfit", "error", "message"), UNFIT)
def test_parts_that_do_not_fit_are_named(unfit, error, message):
    with pytest.raises(error, match=message):
        unfit.validate("b")


def test_a_tensor_is_made_of_an_array_and_a_format_that_exist():
    with pytest.raises(FormatError, match="data: got list, need a NumPy array"):
        tensor(data=[[1, 2]])
    with pytest.raises(UnknownNameError, match="format: got 'e2m1x', need e2m1"):
        tensor(format="e2m1x")
    assert tensor(format="e2m1").format == "float4_e2m1fn"


def test_a_vector_cannot_be_transposed():
    with pytest.raises(ShapeError, match="two axes"):
        ScaledTensor(np.zeros(4, np.uint8), "float8_e4m3fn").transposed()
