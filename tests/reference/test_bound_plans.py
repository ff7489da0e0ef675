"""Where nothing is declared, every right way to compute a product is inside its limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.formats import FORMATS, ScaledTensor, dequantize, quantize
from dgref.ops.typical import limit_arithmetic
from dgref.reference import gemm
from dgref.reference.arithmetic import ARITHMETICS
from dgref.reference.bound import derived_limits
from dgref.reference.contraction import contract, finish
from dgref.reference.dispatch import using
from dgref.reference.limits import within

SHORT = ["mxfp8", "mxfp4", "nvfp4"]
PAIRS = [(recipe, recipe) for recipe in SHORT] + [
    ("mxfp8", "mxfp4"),
    ("deepseek_fp8", "deepseek_fp8_weight"),
    ("deepseek_fp8", "mxfp4"),
    ("per_tensor_fp8", "per_tensor_fp8"),
]


def tensors(recipes, rng, k, kind):
    x, y = (rng.standard_normal((rows, k)) for rows in (6, 8))
    if kind == "positive, then negative":
        x, y = np.abs(x) * np.where(np.arange(k) < k // 2, 1, -1), np.abs(y)
    elif kind == "wide":
        x, y = x * 2.0 ** rng.integers(-9, 9, k), y * 2.0 ** rng.integers(-9, 9, k)
    elif kind == "small":
        x, y = x * 2.0 ** -rng.integers(0, 120), y * 2.0 ** -rng.integers(0, 60)
    return [quantize(v.astype(np.float32), recipe) for v, recipe in zip((x, y), recipes, strict=True)]


def allowed(a, b, narrow, c=None, out="float32"):
    operands = [(tensor.format, tensor.scaling) for tensor in (a, b)]
    with using("bound"):
        return gemm(a, b, c, arithmetic=limit_arithmetic("gemm", operands, narrow), out=out)


def spread(tensor):
    """Return the payload, the scale of each element and the global factor as fp32."""
    height, width = tensor.scaling.extents(tensor.shape)
    scales = np.asarray(tensor.scale_values(), np.float32).repeat(height, 0).repeat(width, 1)
    factor = tensor.global_factor()
    payload = FORMATS[tensor.format].decode(tensor.data).astype(np.float32)
    return payload, scales[: tensor.shape[0], : tensor.shape[1]], np.float32(1 if factor is None else factor)


def one_by_one(x, y, order, c=None):
    total = np.zeros((len(x), len(y)), np.float32) if c is None else c.copy()
    for k in order:
        total = total + x[:, k, None] * y[:, k]
    return total


def by_blocks(a, b):
    """Return sums over blocks times the product of their scales, rounded at every step."""
    (x, of_x, factor_x), (y, of_y, factor_y) = spread(a), spread(b)
    width = min(tensor.scaling.extents(tensor.shape)[1] for tensor in (a, b))
    total = np.zeros((len(x), len(y)), np.float32)
    for start in range(0, x.shape[1], width):
        block = slice(start, start + width)
        chain = one_by_one(x[:, block], y[:, block], range(x[:, block].shape[1]))
        total = total + chain * (of_x[:, start, None] * of_y[:, start])
    return total * (factor_x * factor_y)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(PAIRS),
    st.sampled_from([16, 64, 128, 256]),
    st.sampled_from(["normal", "positive, then negative", "wide", "small"]),
    st.booleans(),
)
def test_dequantised_operands_and_block_sums_are_right_in_any_order(seed, recipes, k, kind, narrow):
    rng = np.random.default_rng(seed)
    a, b = tensors(recipes, rng, k, kind)
    (x, of_x, factor_x), (y, of_y, factor_y) = spread(a), spread(b)
    ways = [
        (torch.from_numpy(dequantize(a)) @ torch.from_numpy(dequantize(b)).T).numpy(),
        one_by_one(x * (of_x * factor_x), y * (of_y * factor_y), rng.permutation(k)),
        one_by_one(x * of_x, y * of_y, range(k)) * (factor_x * factor_y),
        by_blocks(a, b),
    ]
    for found in ways:
        assert within(found, allowed(a, b, narrow)).all()


@pytest.mark.parametrize("recipe", SHORT)
def test_a_tensor_core_may_add_products_of_16_bits(recipe):
    a, b = tensors((recipe, recipe), np.random.default_rng(1), 256, "positive, then negative")
    (x, of_x, factor_x), (y, of_y, factor_y) = spread(a), spread(b)
    pair = [ScaledTensor(FORMATS["bfloat16"].encode(v), "bfloat16") for v in (x * of_x, y * of_y)]
    found = finish(contract(*pair, "deep_gemm.sm90.bf16"), None, "float32") * (factor_x * factor_y)
    assert within(found, allowed(a, b, False)).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([("mxfp8", "mxfp8"), ("nvfp4", "nvfp4")]), st.integers(-6, 6), st.booleans()
)
def test_c_may_be_the_first_term_or_the_last(seed, recipes, exponent, narrow):
    rng = np.random.default_rng(seed)
    a, b = tensors(recipes, rng, 128, "positive, then negative")
    x, y = (np.asarray(dequantize(tensor), np.float32) for tensor in (a, b))
    c = (rng.standard_normal((6, 8)) * np.abs(x @ y.T).max() * 2.0**exponent).astype(np.float32)
    for found in (one_by_one(x, y, range(128), c), one_by_one(x, y, range(128)) + c):
        assert within(found, allowed(a, b, narrow, c)).all()


def test_c_may_begin_the_sum_of_a_bf16_core():
    rng = np.random.default_rng(0)
    a, b = (ScaledTensor(FORMATS["bfloat16"].encode(rng.random((n, 64))), "bfloat16") for n in (16, 24))
    c = np.full((16, 24), -40.0, np.float32)
    arithmetic = ARITHMETICS["deep_gemm.sm90.bf16"].but(c="core")
    assert within(finish(contract(a, b, arithmetic, c), None, "float32"), allowed(a, b, False, c)).all()


def test_a_product_of_scales_may_vanish_before_it_multiplies():
    a, b = tensors(("mxfp8", "mxfp4"), np.random.default_rng(3), 96, "normal")
    a, b = (replace(tensor, scale=np.maximum(tensor.scale.astype(int) - 72, 0).astype(np.uint8)) for tensor in (a, b))
    exact, found = gemm(a, b, out="float32"), by_blocks(a, b)
    assert (found != exact).any() and within(found, allowed(a, b, False)).all()


def test_a_declared_arithmetic_keeps_its_own_bound():
    a, b = tensors(("nvfp4", "nvfp4"), np.random.default_rng(0), 256, "normal")
    arithmetic = ARITHMETICS["cublaslt.sm100.nvfp4"]
    with using("bound"):
        own = gemm(a, b, arithmetic=arithmetic, out="float32")
    assert (own == derived_limits(a, b, arithmetic, out="float32", order="any")).all()
    wide = allowed(a, b, False)
    assert np.median((wide["high"] - wide["low"]) / (own["high"] - own["low"])) > 4


@pytest.mark.parametrize(("recipe", "least"), [("nvfp4", 2.0**-10), ("deepseek_fp8", 2.0**-10), ("mxfp8", 2.0**-10)])
def test_normal_data_leave_little_room_where_sums_are_fp32(recipe, least):
    a, b = (quantize(np.random.default_rng(i).standard_normal((48, 1024)).astype(np.float32), recipe) for i in (0, 1))
    limits = allowed(a, b, False)
    exact = np.abs(gemm(a, b, out="float32").astype(np.float64))
    assert ((limits["high"] - limits["low"]) / 2 / exact).min() < least
