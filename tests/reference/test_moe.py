"""The fused expert layer against a loop over tokens and routes in fractions and decimals."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from dgref import reference
from dgref.errors import InputError, ShapeError
from dgref.formats import LAYOUTS, quantize
from dgref.reference.rational import round_once
from tests.reference import plain

MODEL = "deep_gemm.sm100.fp8_fp4"
RANKS, TOKENS, HIDDEN, INNER, EXPERTS, TOPK = 2, 3, 32, 32, 4, 2


def bf16(value) -> float:
    return round_once(value, "bfloat16")


def dot(x, y) -> Fraction:
    return sum((Fraction(float(p)) * Fraction(float(q)) for p, q in zip(x, y, strict=True)), Fraction(0))


def silu_product(gate: float, up: float, gain: float) -> float:
    with localcontext() as context:
        context.prec = 60
        g = Decimal(gate)
        return round_once(Fraction(g / (1 + (-g).exp()) * Decimal(up) * Decimal(gain)), "float32")


def requantized(values: list[float]) -> list[Fraction]:
    """Return one group of values as E4M3 times the power of two that amax * fp32(1/448) rounds up to."""
    scaled = np.float32(max(abs(v) for v in values)) * np.float32(1 / 448)
    if scaled == 0:
        return [Fraction(0)] * len(values)
    fraction, power = np.frexp(scaled)
    exponent = int(power) - (1 if fraction == 0.5 else 0)
    codes = np.array([v * 2.0**-exponent for v in values]).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
    return [Fraction(float(code)) * Fraction(2) ** exponent for code in codes]


def one_route(x, l1, l2, gain: float, clamp, granularity: int) -> list[float]:
    hidden = [bf16(dot(x, row)) for row in l1]
    gate, up = hidden[:INNER], hidden[INNER:]
    if clamp is not None:
        gate, up = [min(g, clamp) for g in gate], [max(min(u, clamp), -clamp) for u in up]
    active = [silu_product(g, u, gain) for g, u in zip(gate, up, strict=True)]
    groups = [active[i : i + granularity] for i in range(0, INNER, granularity)]
    inner = [value for group in groups for value in requantized(group)]
    return [bf16(dot(inner, row)) for row in l2]


def layer(seed: int = 0, scale: float = 0.5):
    rng = np.random.default_rng(seed)
    x = quantize(rng.standard_normal((RANKS, TOKENS, HIDDEN)).astype(np.float32), "mxfp8")
    l1 = quantize((scale * rng.standard_normal((EXPERTS, 2 * INNER, HIDDEN))).astype(np.float32), "mxfp4")
    l2 = quantize(rng.standard_normal((EXPERTS, HIDDEN, INNER)).astype(np.float32), "mxfp4")
    routes = np.stack([rng.permutation(EXPERTS)[:TOPK] for _ in range(RANKS * TOKENS)]).reshape(RANKS, TOKENS, TOPK)
    gains = rng.standard_normal(routes.shape).astype(np.float32)
    return x, routes, gains, l1, l2


@pytest.mark.parametrize(("clamp", "granularity"), [(None, 32), (2.0, 16)])
def test_every_bit_of_the_exact_layer_is_that_of_the_definition(clamp, granularity):
    x, routes, gains, l1, l2 = layer()
    routes[0, 1, 0], routes[1, 2, :] = -1, -1
    y = reference.mega_moe(x, routes, gains, l1, l2, activation_clamp=clamp, granularity=granularity)["y"]
    values, first, second = plain.values(x), plain.values(l1), plain.values(l2)
    for rank, token in np.ndindex(RANKS, TOKENS):
        total = [Fraction(0)] * HIDDEN
        for slot in range(TOPK):
            expert = routes[rank, token, slot]
            if expert >= 0:
                gain = float(gains[rank, token, slot])
                part = one_route(values[rank, token], first[expert], second[expert], gain, clamp, granularity)
                total = [t + Fraction(p) for t, p in zip(total, part, strict=True)]
        np.testing.assert_array_equal(y[rank, token].astype(np.float64), [bf16(t) for t in total])


def test_the_model_differs_from_exact_by_a_few_last_bits():
    x, routes, gains, l1, l2 = layer(1)
    exact = reference.mega_moe(x, routes, gains, l1, l2)["y"].astype(np.float32)
    model = reference.mega_moe(x, routes, gains, l1, l2, arithmetic=MODEL)["y"].astype(np.float32)
    largest = np.abs(exact).max()
    assert np.abs(exact - model).max() <= largest * 2.0**-6


def test_ranks_share_out_tokens_and_experts_but_not_values():
    x, routes, gains, l1, l2 = layer(2)
    two = reference.mega_moe(x, routes, gains, l1, l2)
    flat = replace(x, data=x.data.reshape(1, -1, HIDDEN), scale=x.scale.reshape(1, RANKS * TOKENS, -1))
    one = reference.mega_moe(flat, routes.reshape(1, -1, TOPK), gains.reshape(1, -1, TOPK), l1, l2)
    plain.assert_same_bits(two["y"].reshape(1, -1, HIDDEN), one["y"])
    np.testing.assert_array_equal(two["recv_stats"].ravel(), one["recv_stats"].ravel())


def test_statistics_count_what_each_expert_received_on_top_of_before():
    x, routes, gains, l1, l2 = layer(3)
    routes[0, 0] = -1
    before = np.arange(EXPERTS, dtype=np.int32).reshape(RANKS, -1)
    stats = reference.mega_moe(x, routes, gains, l1, l2, before)["recv_stats"]
    expected = before.ravel() + [int((routes == expert).sum()) for expert in range(EXPERTS)]
    assert stats.dtype == np.int32
    np.testing.assert_array_equal(stats.ravel(), expected)


@pytest.mark.parametrize("arithmetic", ["exact", MODEL])
def test_tokens_without_a_route_are_zero(arithmetic):
    x, routes, gains, l1, l2 = layer(4)
    result = reference.mega_moe(x, np.full_like(routes, -1), gains, l1, l2, arithmetic=arithmetic)
    assert not result["y"].astype(np.float32).any() and not result["recv_stats"].any()


def test_bf16_layers_round_the_activation_to_bf16():
    rng = np.random.default_rng(5)
    x, l1, l2 = (
        rng.choice(plain.INTEGERS, shape).astype(ml_dtypes.bfloat16) for shape in ((1, 2, 8), (2, 8, 8), (2, 8, 4))
    )
    routes, gains = np.array([[[0], [1]]]), np.ones((1, 2, 1), np.float32)
    for arithmetic in ("exact", "deep_gemm.sm100.bf16"):
        y = reference.mega_moe(x, routes, gains, l1, l2, arithmetic=arithmetic)["y"]
        for token in range(2):
            hidden = l1[token].astype(np.float64) @ x[0, token].astype(np.float64)
            active = [bf16(Fraction(silu_product(g, u, 1.0))) for g, u in zip(hidden[:4], hidden[4:], strict=True)]
            expected = [bf16(dot(active, row)) for row in l2[token]]
            np.testing.assert_array_equal(y[0, token].astype(np.float64), expected)


def test_weights_are_transformed_as_the_layouts_say():
    rng = np.random.default_rng(6)
    l1 = quantize(rng.standard_normal((2, 128, 256)).astype(np.float32), "mxfp4")
    l2 = quantize(rng.standard_normal((2, 256, 64)).astype(np.float32), "mxfp4")
    result = reference.mega_moe_transform_weights(l1, l2)
    gate, up = np.split(l1.data, 2, axis=1)
    for r in range(64):
        at = 16 * (r // 8) + r % 8
        np.testing.assert_array_equal(result["l1"].view(np.uint8)[:, at], gate[:, r])
        np.testing.assert_array_equal(result["l1"].view(np.uint8)[:, at + 8], up[:, r])
    np.testing.assert_array_equal(result["l2"].view(np.uint8), l2.data)
    for g, m, k in [(0, 0, 0), (1, 37, 5), (1, 255, 1), (0, 129, 0)]:
        row = (m & ~127) + (m & 31) * 4 + ((m >> 5) & 3)
        word = int(result["l2_scale"].view(np.uint32)[g, k // 4, row]) if k < l2.scale.shape[2] else None
        assert word is None or (word >> 8 * (k % 4)) & 255 == l2.scale[g, m, k]
    back = LAYOUTS["mega_moe_l1_scale"].unpack(result["l1_scale"], l1.scale.shape, codes=True)
    np.testing.assert_array_equal(back, l1.scale)


def test_unscaled_weights_have_no_scale_buffers():
    w = np.ones((1, 16, 128), ml_dtypes.bfloat16)
    assert set(reference.mega_moe_transform_weights(w, np.ones((1, 128, 8), ml_dtypes.bfloat16))) == {"l1", "l2"}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"topk_idx": np.full((RANKS, TOKENS, TOPK), 4)}, InputError, "topk_idx[0, 0, 0]: got 4, need <= 3"),
        (
            {"l1_weights": plain.integers(0, (EXPERTS, 60, HIDDEN), block=(1, 32))},
            ShapeError,
            "l1_weights axis 1: got 60, need 64",
        ),
        ({"granularity": 24}, ShapeError, "intermediate: got 32, need a multiple of the granularity 24"),
        ({"granularity": 0}, InputError, "granularity: got 0, need an integer from 1"),
        ({"activation_clamp": -1.0}, InputError, "activation_clamp: got -1.0, need a number of at least 0"),
        ({"activation_clamp": float("nan")}, InputError, "activation_clamp: got nan, need a number of at least 0"),
        ({"recv_stats": np.zeros(4, np.int32)}, ShapeError, "recv_stats shape: got [4], need [2, 2]"),
    ],
)
def test_errors_name_what_does_not_fit(change, error, words):
    names = ("x", "topk_idx", "topk_weights", "l1_weights", "l2_weights")
    with pytest.raises(error) as caught:
        reference.mega_moe(**{**dict(zip(names, layer(), strict=True)), **change})
    assert words in str(caught.value)
