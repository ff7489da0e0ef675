"""Near overflow the limits hold every order's result, finite, infinite or NaN, and refuse what none of them gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import reference
from dgref.formats.element import FORMATS
from dgref.formats.scaling import FULL, Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import ARITHMETICS
from dgref.reference.bound import derived_limits
from dgref.reference.contraction import contract, finish
from dgref.reference.dispatch import product, using
from dgref.reference.limits import MINUS, NAN, PLUS, around, half_widths, within

BF16 = "deep_gemm.sm90.bf16"
SCALINGS = {"product": (Scaling((1, 32)),) * 2, "each": (Scaling((1, 32)),) * 2, "epilogue": (Scaling((1, FULL)),) * 2}
HUGE = (  # (arithmetic, format of the operands, exponents of the payload, of the scales)
    (ARITHMETICS[BF16], "bfloat16", (40, 64), None),
    (ARITHMETICS[BF16].but(splits=3, reduction="tree", partial="bfloat16"), "bfloat16", (50, 63), None),
    (ARITHMETICS[BF16].but(splits=3, partial="float16"), "bfloat16", (0, 8), None),
    (ARITHMETICS["deep_gemm.sm90.hc_prenorm"], "float32", (58, 65), None),
    (ARITHMETICS["dgref.sm90.fp8_fp4"], "float8_e4m3fn", (-2, 8), (40, 62)),
    (ARITHMETICS["dgref.sm90.fp8_fp4"].but(scales="each"), "float8_e4m3fn", (-2, 8), (-140, 127)),
    (ARITHMETICS["dgref.sm90.fp8_fp4"].but(promotion="multiply_add"), "float8_e4m3fn", (-2, 8), (-140, 127)),
    (ARITHMETICS["cublaslt.fp8_fast"], "float8_e4m3fn", (-2, 8), (50, 64)),
)


def tensor(generator, format, exponents, scaling, scale_exponents, shape):
    signs = generator.choice([-1.0, 1.0], shape) if generator.random() < 0.7 else 1.0
    values = signs * generator.uniform(1, 2, shape) * np.exp2(generator.integers(*exponents, shape))
    values[generator.random(shape) < 0.1] = 0
    if generator.random() < 0.1:
        values[0, 0] = generator.choice([np.inf, -np.inf, np.nan])
    with np.errstate(over="ignore", invalid="ignore"):
        codes = FORMATS[format].encode(values.astype(np.float32))
    if scaling is None:
        return ScaledTensor(codes, format)
    scale = np.exp2(generator.uniform(*scale_exponents, scaling.grid(shape))).astype(np.float32)
    return ScaledTensor(codes, format, scale, scaling, np.float32(2.0) ** generator.integers(-40, 40))


def shuffled(a, b, generator):
    """Return both operands with K in another order; only where no scale belongs to a place along K."""
    order = generator.permutation(a.shape[-1])
    return [ScaledTensor(t.data[:, order], t.format, t.scale, t.scaling, t.global_scale) for t in (a, b)]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, len(HUGE) - 1), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_the_result_of_every_order_near_overflow_is_inside(seed, row, out):
    generator = np.random.default_rng(seed)
    arithmetic, format, exponents, scales = HUGE[row]
    scalings = SCALINGS.get(arithmetic.scales, (None, None))
    a, b = (tensor(generator, format, exponents, s, scales, (n, 96)) for s, n in zip(scalings, (5, 6), strict=True))
    with np.errstate(all="ignore"):
        c = None if seed % 2 else generator.standard_normal((5, 6)).astype(np.float32) * np.float32(2.0**126)
        alpha = float(generator.choice([1.0, -1.0, 2.0**-30, 0.0]))
        with using("bound"):
            limits = product(a, b, c, arithmetic=arithmetic, out=out, alpha=alpha)
        orders = [(a, b), (a, b) if arithmetic.scales in ("product", "each") else shuffled(a, b, generator)]
        cut = {"splits": 2, "split_unit": 32} if arithmetic.splits == 1 else {}
        for (x, y), changes in zip(orders, ({}, cut), strict=True):
            if x is not a and (arithmetic.tensor_core.fraction_bits < 23 or arithmetic.splits > 1):
                continue  # a narrow accumulator walks along K, and declared splits hold what they hold
            accumulator = contract(x, y, arithmetic.but(**changes))
            assert within(finish(accumulator, c, out, None if alpha == 1.0 else alpha), limits).all()
        assert within(product(a, b, c, arithmetic="exact", out=out, alpha=alpha), limits).all()


def limits_of(a, b, **options):
    a, b = np.atleast_2d(np.float32(a)), np.atleast_2d(np.float32(b))
    return derived_limits(a, b, ARITHMETICS["deep_gemm.sm90.hc_prenorm"].but(round_b=None), order="any", **options)


def held(limits, *values):
    return [bool(within(np.full(limits.shape, value, np.float32), limits).all()) for value in values]


BIG = 2.0**126


@pytest.mark.parametrize(
    ("a", "near", "wrong"),
    [
        ([BIG, BIG, BIG], [1.5 * 2.0**127, np.inf][:1], [0.0, 1e38, -np.inf, np.nan, np.inf]),
        ([BIG, BIG, BIG, BIG, BIG], [np.inf], [0.0, 1e38, 3.4e38, -np.inf, np.nan]),
        ([-BIG, -BIG, -BIG, -BIG, -BIG], [-np.inf], [0.0, -1e38, np.inf, np.nan]),
        ([BIG] * 5 + [-BIG] * 3, [2.0**127, np.inf], [0.0, -np.inf, np.nan]),
        ([BIG] * 5 + [-BIG] * 5, [0.0, np.inf, -np.inf, np.nan], [1e38, -1e38]),
        ([BIG, -BIG], [0.0], [1e38, np.inf, -np.inf, np.nan]),
    ],
)
def test_what_no_order_gives_is_refused_next_to_overflow(a, near, wrong):
    limits = limits_of(a, np.ones(len(a)))
    assert all(held(limits, *near)) and not any(held(limits, *wrong))


def test_an_infinity_that_came_in_stays_unless_one_of_the_other_sign_can_arise():
    alone, beside = limits_of([np.inf, 1.0], [1, 1]), limits_of([np.inf] + [-BIG] * 5, np.ones(6))
    assert held(alone, np.inf, np.nan, 3e38) == [True, False, False]
    assert held(beside, np.inf, np.nan, 3e38) == [True, True, False]


def test_nan_allows_only_nan():
    limits = limits_of([np.nan, 1.0], [1, 1])
    assert held(limits, np.nan, np.inf, 0.0) == [True, False, False] and np.isnan(half_widths(limits)).all()


def test_a_format_that_ends_earlier_overflows_earlier():
    limits = limits_of([65519.0, 0.5], [1, 1], out="float16")
    assert held(limits, 65504.0, np.inf, 60000.0, -np.inf) == [True, True, False, False]


def test_sums_of_squares_may_overflow_upwards_only():
    a = np.full((1, 5), 2.0**63, np.float32)
    with using("bound"):
        found = reference.hc_prenorm(a, a, arithmetic="deep_gemm.sm90.hc_prenorm")["sqr_sum"]
    assert held(found, np.inf, 0.0, -np.inf, np.nan) == [True, False, False, False]


@pytest.mark.parametrize(("weight", "allowed"), [(1.0, np.inf), (-1.0, -np.inf)])
def test_a_score_that_overflows_keeps_the_sign_of_its_weight(weight, allowed):
    q, kv = np.full((1, 2, 8), 2.0**64, np.float32), np.full((3, 8), 2.0**62, np.float32)
    weights = np.full((1, 2), weight, np.float32)
    with using("bound"):
        found = reference.mqa_logits(q, kv, weights, [0], [3], arithmetic="deep_gemm.sm90.mqa_logits")
    assert held(found, allowed, 0.0, -allowed, np.nan) == [True, False, False, False]


def test_limits_around_a_value_know_infinite_distances():
    limits = around(np.array([1.0, np.nan, np.inf]), np.array([np.inf, 0.0, 0.0]))
    assert limits["besides"].tolist() == [PLUS | MINUS | NAN, NAN, 0]
    assert within(np.array([-np.inf, np.nan, np.inf]), limits).all()
    assert within(np.array([np.nan, 0.0, 0.0]), limits).tolist() == [True, False, False]
