"""What operations accept: native arrays, torch tensors and ScaledTensors, taken apart with the scales they had."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import reference
from dgref.errors import FormatError, InputError, ShapeError
from dgref.formats import quantize
from dgref.reference.operands import bind, integers, permute, scaled, take, take_columns, take_rows, values
from tests.reference import plain


@settings(max_examples=30, deadline=None)
@given(
    block=st.sampled_from([(1, 4), (3, 4), (0, 4), (3, 0), (0, 0), (1, 1)]),
    rows=st.lists(st.integers(0, 9), max_size=6),
)
def test_rows_keep_the_scales_that_governed_them(block, rows):
    tensor = plain.integers(1, (10, 9), block=block)
    taken = take_rows(tensor, np.array(rows, np.int64))
    np.testing.assert_array_equal(plain.values(taken), plain.values(tensor)[rows])


def test_groups_keep_their_scales_and_their_own_global_scale():
    tensor = quantize(np.random.default_rng(0).standard_normal((3, 4, 32)).astype(np.float32), "nvfp4")
    for group in range(3):
        part = take(tensor, group)
        np.testing.assert_array_equal(part.data, tensor.data[group])
        own = np.asarray(tensor.global_scale)
        np.testing.assert_array_equal(part.global_scale, own if own.ndim == 0 else own[group])


def test_columns_come_with_a_range_of_scale_columns():
    tensor = plain.integers(2, (4, 12), block=(1, 4))
    part = take_columns(tensor, slice(4, 12), slice(1, 3))
    np.testing.assert_array_equal(plain.values(part), plain.values(tensor)[:, 4:])


def test_permuting_a_tensor_permutes_its_scale_grid():
    tensor = plain.integers(3, (2, 3, 8), block=(1, 4))
    turned = permute(tensor, (1, 0, 2))
    np.testing.assert_array_equal(plain.values(turned), np.transpose(plain.values(tensor), (1, 0, 2)))
    swapped = permute(plain.integers(4, (2, 6, 8), block=(3, 4)), (0, 2, 1))
    assert swapped.scaling.block == (4, 3)
    np.testing.assert_array_equal(
        plain.values(swapped), np.swapaxes(plain.values(plain.integers(4, (2, 6, 8), block=(3, 4))), 1, 2)
    )
    with pytest.raises(ShapeError, match="an order that keeps blocks"):
        permute(tensor, (2, 0, 1))


def test_torch_scaled_tensors_give_torch_results_of_the_same_bits():
    import torch

    x, y = (np.random.default_rng(seed).standard_normal((5, 64)).astype(np.float32) for seed in (0, 1))
    a, b = (quantize(v, "mxfp8") for v in (x, y))
    ta, tb = (quantize(torch.from_numpy(v), "mxfp8") for v in (x, y))
    d = reference.gemm(ta, tb, out="bfloat16")
    assert isinstance(d, torch.Tensor) and d.dtype == torch.bfloat16
    np.testing.assert_array_equal(d.view(torch.int16).numpy(), reference.gemm(a, b).view(np.int16))


def test_several_torch_outputs_come_back_as_torch():
    import torch

    result = reference.hc_prenorm(torch.ones(2, 64, dtype=torch.bfloat16), torch.ones(3, 64))
    assert {name: value.tolist() for name, value in result.items()} == {"d": [[64.0] * 3] * 2, "sqr_sum": [64.0, 64.0]}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_the_dtype_of_a_plain_array_says_its_format(dtype):
    array = np.ones((2, 3), dtype)
    assert scaled(array, "x").format == str(np.dtype(dtype))
    np.testing.assert_array_equal(values(array, "x"), np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: scaled(np.ones(3), "a"), FormatError, "a dtype: got float64, need one of"),
        (lambda: scaled(None, "a"), FormatError, "a: got nothing, need an array whose dtype says its format"),
        (lambda: scaled([[1.0]], "a"), FormatError, "a: got a list, need an array whose dtype says its format"),
        (lambda: integers(None, "ends"), InputError, "ends: got nothing, need an integer dtype"),
        (lambda: integers([[0], [1, 2]], "ends"), InputError, "ends: got rows of unequal length, need an array"),
        (
            lambda: integers(np.array([2**64 - 1], np.uint64), "ends", -1),
            InputError,
            "ends[0]: got 184467440",
        ),
        (lambda: bind({"ends": ("m", "x")}), InputError, "ends: got a str, need an integer dtype"),
        (
            lambda: scaled(np.ones(3, np.int8), "a"),
            FormatError,
            "a: got an array of int8, need a ScaledTensor: integers do not say",
        ),
        (lambda: integers([[1, -2]], "table", 0), InputError, "table[0, 1]: got -2, need >= 0"),
        (lambda: integers(np.ones(2), "ends"), InputError, "ends: got dtype float64, need an integer dtype"),
        (lambda: bind({"a": ("m k", np.ones(3))}), ShapeError, "a shape: got [3], need 2 axes [m k]"),
        (
            lambda: bind({"a": ("m k", np.ones((3, 4))), "b": ("n k", np.ones((3, 5)))}),
            ShapeError,
            "b shape: got [3, 5], need k = 4, as in a [n k]",
        ),
    ],
)
def test_errors_name_the_operand(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


def test_torch_tensors_without_dense_data_are_refused():
    import torch

    dense = torch.ones(2, 2, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"operand: got a tensor without data \(meta\), need a dense tensor"):
        reference.gemm(dense.to("meta"), dense)
    with pytest.raises(InputError, match=r"operand: got a tensor of layout torch\.sparse_coo, need a dense tensor"):
        reference.gemm(dense, dense.to_sparse())


def test_memory_order_and_views_change_no_bit():
    a, b = (np.random.default_rng(seed).standard_normal((6, 64)).astype(ml_dtypes.bfloat16) for seed in (0, 1))
    spread = np.zeros((12, 128), b.dtype)
    spread[::2, ::2] = b
    a.flags.writeable = False
    for arithmetic in ("exact", "deep_gemm.sm90.bf16"):
        right = reference.gemm(a, b, arithmetic=arithmetic).tobytes()
        assert reference.gemm(np.asfortranarray(a), spread[::2, ::2], arithmetic=arithmetic).tobytes() == right


MALFORMED = {
    "scale.shape": (lambda t: replace(t, scale=np.repeat(t.scale, 2, 1)), ShapeError, "kv.scale: got (16, 2)"),
    "one scale for all rows": (lambda t: replace(t, scale=t.scale[:1]), ShapeError, "kv.scale: got (1, 1)"),
    "scale.dtype": (lambda t: replace(t, scale=t.scale.astype(np.float64)), FormatError, "kv.scale: got float64"),
    "no scaling": (lambda t: replace(t, scaling=None), FormatError, "kv.scaling: got None beside scales"),
    "wide codes": (lambda t: replace(t, data=t.data.astype(np.uint16)), FormatError, "kv.data: got uint16"),
    "signed codes": (lambda t: replace(t, data=t.data.view(np.int8)), FormatError, "kv.data: got int8"),
    "values as codes": (lambda t: replace(t, data=t.values()), FormatError, "kv.data: got float32"),
    "packed codes": (lambda t: replace(t, format="float4_e2m1fn"), FormatError, "packed bytes must be unpacked"),
    "global scale": (lambda t: replace(t, global_scale=np.float32(2)), FormatError, "kv.global_scale: got a global"),
}


@pytest.mark.parametrize("arithmetic", ["exact", "deep_gemm.sm90.mqa_logits"])
@pytest.mark.parametrize("name", MALFORMED)
def test_tensors_whose_parts_do_not_fit_are_refused_not_computed(name, arithmetic):
    change, error, words = MALFORMED[name]
    rng = np.random.default_rng(0)
    q, kv = (quantize(rng.standard_normal((16, 128)).astype(np.float32), r) for r in ("float8_e4m3fn", "deepseek_fp8"))
    q = replace(q, data=q.data.reshape(2, 8, 128))
    with pytest.raises(error) as caught:
        reference.mqa_logits(q, change(kv), np.ones((2, 8), np.float32), [0, 0], [16, 16], arithmetic=arithmetic)
    assert words in str(caught.value)


def test_a_negative_scale_is_a_factor_like_any_other():
    a, b = (plain.integers(seed, (4, 64), block=(1, 32)) for seed in (0, 1))
    turned = replace(a, scale=-a.scale)
    np.testing.assert_array_equal(reference.gemm(turned, b, out="float32"), -reference.gemm(a, b, out="float32"))
