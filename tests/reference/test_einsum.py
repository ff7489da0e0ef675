"""Every expression against numpy.einsum on values that every order of adding gives exactly."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import reference
from dgref.errors import InputError, ShapeError
from dgref.reference.einsum import roles
from tests.reference import plain

EXPRESSIONS = [
    "bmk,bnk->mn",
    "bhr,hdr->bhd",
    "bhd,hdr->bhr",
    "bhd,bhr->hdr",
    "bmk,bnk->nm",
    "mk,nk->mn",
]
MODELS = {"bf16": "deep_gemm.sm90.bf16", "fp8": "deep_gemm.sm90.fp8_1d1d"}


def shapes(expression: str, sizes: dict[str, int]) -> list[tuple[int, ...]]:
    operands = expression.split("->")[0].split(",")
    return [tuple(sizes[letter] for letter in operand) for operand in operands]


@settings(max_examples=30, deadline=None)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    sizes=st.lists(st.sampled_from([0, 1, 2, 5, 16]), min_size=6, max_size=6),
    seed=st.integers(0, 9),
)
def test_plain_arrays_follow_the_order_of_the_expression(expression, sizes, seed):
    extent = dict(zip("bmknhdr", [*sizes, 3], strict=True))
    (a_shape, b_shape), rng = shapes(expression, extent), np.random.default_rng(seed)
    a, b = (rng.choice(plain.INTEGERS, shape).astype(ml_dtypes.bfloat16) for shape in (a_shape, b_shape))
    expected = np.einsum(expression, a.astype(np.float64), b.astype(np.float64))
    for arithmetic in ("exact", MODELS["bf16"]):
        d = reference.einsum(expression, a, b, arithmetic=arithmetic, out="float32")
        np.testing.assert_array_equal(d, plain.rounded(expected, "float32"))
    c = rng.integers(-9, 9, expected.shape).astype(np.float32)
    summed = reference.einsum(expression, a, b, c, out="float32")
    np.testing.assert_array_equal(summed, plain.rounded(expected + c, "float32"))


@pytest.mark.parametrize("expression", EXPRESSIONS[:4])
@pytest.mark.parametrize("arithmetic", ["exact", MODELS["fp8"]])
def test_scaled_operands_come_with_what_is_summed_over_last(expression, arithmetic):
    role, extent = roles(expression), dict(b=4, m=5, n=6, h=3, d=256, r=256, k=256)
    if expression == "bhd,bhr->hdr":
        extent |= dict(b=256, d=5, r=6)
    a, b = (
        plain.integers(seed, tuple(extent[x] for x in last), block=(1, 128))
        for seed, last in enumerate((role.a_last, role.b_last))
    )
    expected = np.einsum(f"{role.a_last},{role.b_last}->{role.out}", plain.values(a), plain.values(b))
    d = reference.einsum(expression, a, b, arithmetic=arithmetic, out="float32")
    plain.assert_same_bits(d, plain.rounded(expected, "float32"))


def test_weights_in_square_blocks_serve_every_head():
    a, b = plain.integers(0, (3, 4, 200), block=(1, 128)), plain.integers(1, (3, 130, 200), block=(128, 128))
    d = reference.einsum("bhr,hdr->bhd", a, b, out="float32")  # [h, b, r] and [h, d, r]
    expected = np.einsum("hbr,hdr->bhd", plain.values(a), plain.values(b))
    plain.assert_same_bits(d, plain.rounded(expected, "float32"))


def test_a_batch_in_the_sum_is_one_long_k():
    a, b = plain.integers(2, (5, 3, 128), block=(1, 128)), plain.integers(3, (6, 3, 128), block=(1, 128))
    flat = [replace(t, data=t.data.reshape(len(t.data), -1), scale=t.scale.reshape(len(t.data), -1)) for t in (a, b)]
    model = MODELS["fp8"]
    d = reference.einsum("bmk,bnk->mn", a, b, arithmetic=model)
    plain.assert_same_bits(d, reference.gemm(*flat, arithmetic=model))


@pytest.mark.parametrize(
    "expression", ["bhr,hdr", "bhr->bh", "bb,bk->k", "mk,nk->mnk", "bk,bk->b", "mk,nk->m", "mk,nk->mnx", None, 5]
)
def test_an_expression_that_is_no_product_is_refused(expression):
    a = np.zeros((2, 2), np.float32)
    with pytest.raises(InputError, match="expression: got"):
        reference.einsum(expression, a, a)


def test_partial_scale_blocks_cannot_be_joined_into_one_k():
    a = plain.integers(0, (5, 3, 100), block=(1, 128))
    with pytest.raises(ShapeError, match=r"a scale block: got \(1, 128\), need whole blocks of one row"):
        reference.einsum("bmk,bnk->mn", a, a)


def test_an_axis_has_one_extent_everywhere():
    a, b = np.zeros((2, 3, 4), np.float32), np.zeros((3, 5, 6), np.float32)
    with pytest.raises(ShapeError, match=r"b shape: got \[3, 5, 6\], need r = 4, as in a"):
        reference.einsum("bhr,hdr->bhd", a, b)
    with pytest.raises(ShapeError, match=r"a shape: got \[2, 3\], need 3 axes \[b h r\]"):
        reference.einsum("bhr,hdr->bhd", a[..., 0], b)
