"""The bound of the expert layer: nothing that it covers gets outside, and it is tight where accumulators are wide."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from dgref import reference
from dgref.formats import FORMATS, ScaledTensor, dequantize
from dgref.ops import OPS
from dgref.ops.typical import limit_arithmetic, operands_of
from dgref.reference import activation, moe_bounds
from dgref.reference.arithmetic import ARITHMETICS
from dgref.reference.contraction import contract
from dgref.reference.dispatch import size_limits, using
from dgref.reference.exact import contract_exact
from dgref.reference.limits import half_widths, unbounded, within
from dgref.suite import InputChoice, load
from tests.reference.test_moe import MODEL, layer

HOPPER = "dgref.sm90.fp8_fp4"  # promotes every 32 of K, so that it takes scales of 1x32 blocks


def limits(*inputs, arithmetic=MODEL, **options) -> np.ndarray:
    with using("bound"):
        return half_widths(reference.mega_moe(*inputs, arithmetic=arithmetic, **options)["y"])


def all_inside(inputs, arithmetic, **options) -> bool:
    """Return whether what an arithmetic gives, and what is exact, lie within the limits that are derived for it."""
    with using("bound"):
        found = reference.mega_moe(*inputs, arithmetic=arithmetic, **options)["y"]
    given = (reference.mega_moe(*inputs, arithmetic=a, **options)["y"] for a in ("exact", arithmetic))
    return all(within(y, found).all() for y in given)


@pytest.mark.parametrize("arithmetic", [MODEL, HOPPER])
@pytest.mark.parametrize("options", [{}, {"activation_clamp": 1.5}])
def test_every_arithmetic_stays_inside(arithmetic, options):
    assert all(all_inside(layer(seed), arithmetic, **options) for seed in range(4))


@pytest.mark.parametrize("kind", ["cancelling", "wide"])
def test_hostile_inputs_stay_inside_on_either_architecture(kind):
    for case in (case for case in load("moe").cases if case.op == "mega_moe"):
        case = replace(case, inputs=InputChoice(kind, 3))
        inputs = case.make_inputs()
        for narrow in (False, True):
            arithmetic = limit_arithmetic(case.op, operands_of(case), narrow)
            found = OPS[case.op].bound(case, inputs, arithmetic)["y"]
            assert within(OPS[case.op].compute(case, inputs, arithmetic)["y"], found).all(), (case.id, arithmetic.name)


@pytest.mark.parametrize("clamp", [None, 2.0])
@pytest.mark.parametrize("relative", [0.0, 2.0**-12])
def test_an_activation_with_a_sloppy_exponential_stays_inside(monkeypatch, relative, clamp):
    rng, right = np.random.default_rng(5), activation.exponential
    hidden = (rng.standard_normal((200, 64)) * np.exp2(rng.integers(-6, 5, (200, 1)))).astype(ml_dtypes.bfloat16)
    gains, off = rng.standard_normal(200).astype(np.float32), np.abs(hidden.astype(np.float64)) * relative
    interval = hidden.astype(np.float64) - off, hidden.astype(np.float64) + off
    exact, (low, high) = moe_bounds.activation_interval(hidden, interval, gains, clamp)
    monkeypatch.setattr(activation, "exponential", lambda x: right(x) * np.float32(1 + rng.choice([-3, 3]) * 2.0**-23))
    largest = 0.0
    for _ in range(10):
        near = (hidden.astype(np.float64) + off * rng.choice([-1, 1], off.shape)).astype(np.float32)
        computed = activation.swiglu(near, gains, clamp, exact=False).astype(np.float64)
        assert ((low <= computed) & (computed <= high)).all()
        largest = max(largest, (np.abs(computed - exact) / np.maximum(high - exact, exact - low)).max())
    assert largest > 0.1


def test_no_gate_between_two_others_leaves_their_interval() -> None:
    """The activation falls before it rises: its least value may lie inside, and at neither end."""
    gate = np.linspace(-3, 0.5, 200)
    hidden = np.stack([np.full(gate.size, -1.0), np.full(gate.size, 1.5)], axis=1).astype(ml_dtypes.bfloat16)
    interval = np.array([[-3.0, 1.5]]).repeat(gate.size, 0), np.array([[0.5, 1.5]]).repeat(gate.size, 0)
    _, (low, high) = moe_bounds.activation_interval(hidden, interval, np.ones(gate.size, np.float32), None)
    near = np.stack([gate, np.full(gate.size, 1.5)], axis=1).astype(np.float32)
    computed = activation.swiglu(near, np.ones(gate.size, np.float32), None, exact=False).astype(np.float64)
    assert ((low <= computed) & (computed <= high)).all()
    assert np.isclose(low.max(), computed.min(), rtol=1e-3) and np.isclose(high.min(), computed.max(), rtol=1e-3)


def test_bf16_layers_stay_inside():
    rng = np.random.default_rng(0)
    x, l1, l2 = (rng.standard_normal(s).astype(ml_dtypes.bfloat16) for s in ((1, 6, 64), (3, 64, 64), (3, 64, 32)))
    inputs = (x, rng.integers(-1, 3, (1, 6, 1)), rng.standard_normal((1, 6, 1)).astype(np.float32), l1, l2)
    assert all_inside(inputs, "deep_gemm.sm100.bf16")


def test_a_wide_accumulator_leaves_a_limit_of_a_few_last_bits():
    inputs = layer(1)
    y = np.abs(reference.mega_moe(*inputs)["y"].astype(np.float64))
    assert np.median(limits(*inputs)) <= np.median(y) * 2.0**-5


def test_an_error_of_a_twentieth_in_one_element_is_seldom_let_pass():
    passed = []
    for seed in range(6):
        inputs = layer(seed)
        with using("bound"):
            found = reference.mega_moe(*inputs, arithmetic=MODEL)["y"]
        y = reference.mega_moe(*inputs)["y"].astype(np.float64)
        off = [within((y * factor).astype(ml_dtypes.bfloat16), found) for factor in (0.95, 1.05)]
        passed.append(np.mean([mask[y != 0] for mask in off]))
    assert np.mean(passed) < 0.01


def test_tokens_without_a_route_are_off_by_nothing():
    x, routes, gains, l1, l2 = layer(2)
    limit = limits(x, np.full_like(routes, -1), gains, l1, l2)
    assert (limit <= 2.0**-133).all()


@pytest.mark.parametrize("relative", [0.0, 2.0**-20, 2.0**-6, 0.5])
def test_stored_values_of_an_interval_lie_within_the_limit(relative):
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((40, 64)) * np.exp2(rng.integers(-9, 9, (40, 1)))).astype(np.float32)
    off = np.abs(values).astype(np.float64) * relative
    own, largest, (low, high) = moe_bounds.stored_interval(values, (values - off, values + off), 32)
    kept, top = dequantize(own).astype(np.float64), dequantize(largest).astype(np.float64)
    assert ((low <= kept) & (kept <= high)).all()
    for _ in range(20):
        inside = (values + off * rng.uniform(-1, 1, values.shape) * (1 - 2.0**-20)).astype(np.float32)
        stored = dequantize(activation.requantize(inside, 32)).astype(np.float64)
        assert ((low <= stored) & (stored <= high)).all() and (np.abs(stored) <= top).all()
    assert relative or (low == high).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_has_no_finite_limit(poison):
    x, routes, gains, l1, l2 = layer(4)
    gains[0, 0, 0] = poison
    limit = limits(x, routes, gains, l1, l2)
    assert not np.isfinite(limit[0, 0]).any() and np.isfinite(limit[1]).all()


def test_what_adding_may_lose_covers_operands_of_smaller_magnitudes_and_other_signs():
    rng, row = np.random.default_rng(6), FORMATS["float8_e4m3fn"]
    largest = np.abs(rng.standard_normal((12, 256))) * np.where(np.arange(256) < 32, 64.0, 1.0)
    a, b = (ScaledTensor(row.encode(v.astype(np.float32)), row.name) for v in (largest, np.ones((4, 256))))
    arithmetic = ARITHMETICS["cublaslt.fp8_fast"].but(scales="none")
    off = half_widths(size_limits(a, b, arithmetic))
    for shrink, signs in ((0.0, 0), (0.0, 0x80), (0.5, 0x80)):
        data = np.where(rng.random(a.shape) < shrink, 0, a.data) | rng.choice([0, signs], a.shape)
        near = replace(a, data=data.astype(np.uint8))
        lost = contract(near, b, arithmetic).astype(np.float64) - contract_exact(near, b, out="float64")
        assert (np.abs(lost) <= off).all()
    with using("bound"):
        own = half_widths(reference.gemm(a, b, arithmetic=arithmetic, out="float32"))
    whole = contract(a, b, arithmetic).astype(np.float64) - contract_exact(a, b, out="float64")
    assert (np.abs(whole) > own).any(), "the limits of one product are not centred on it, and hold for no other"


@pytest.mark.parametrize(("gain", "free"), [(1e36, False), (3e36, True)])
def test_only_elements_whose_sums_may_overflow_have_no_bound(gain, free):
    x, routes, gains, l1, l2 = layer(4)
    gains[0, 0, 0] = gain
    with using("bound"):
        found = reference.mega_moe(x, routes, gains, l1, l2, arithmetic=MODEL)["y"]
    y = reference.mega_moe(x, routes, gains, l1, l2, arithmetic=MODEL)["y"].astype(np.float64)
    assert np.abs(y[0, 0]).max() > 1e38 and within(y, found).all()
    assert unbounded(found)[0, 0].any() == free and not unbounded(found)[0, 0].all() and not unbounded(found)[1].any()
