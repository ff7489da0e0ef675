"""A factor puts some element beyond its bound; one that does not is remarked on; no order of adding is ever wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dgref.compare.diagnosis import diagnose
from dgref.compare.gain import measured, unexplained
from dgref.compare.prediction import compute
from dgref.compare.verdict import judge
from dgref.ops import OPS
from dgref.ops.typical import limit_arithmetic, operands_of, published_arithmetics
from dgref.reference.limits import around
from tests.compare.test_diagnosis import gemm


def undeclared(state, outputs):
    limits, op = limit_arithmetic("gemm", operands_of(state.case), True), OPS["gemm"]
    return judge(
        outputs,
        exact=lambda: op.compute(state.case, state.inputs, "exact"),
        bound=lambda: op.bound(state.case, state.inputs, limits),
        peers=lambda: (op.compute(state.case, state.inputs, row) for row in published_arithmetics(limits)),
    )


@pytest.fixture(scope="module")
def rowwise():
    return gemm("per_row_fp8", shape={"m": 72, "n": 80, "k": 1024}, out="float32")


def exact_times(state, factor):
    exact = compute(replace(state, arithmetic="exact"))["d"]
    return {"d": (exact * factor).astype(exact.dtype)}


@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_a_gain_of_a_percent_is_beyond_the_bound(rowwise, factor):
    wrong = exact_times(rowwise, np.float32(factor))
    verdict = undeclared(rowwise, wrong)
    assert verdict.level == "wrong" and verdict.beyond_bound["d"] > 0
    found = diagnose(rowwise.case, rowwise.inputs, wrong, budget=300.0)
    assert (found.hypothesis, found.status, found.benign) == ("output_gain", "confirmed", False)
    assert f"multiplied by {factor:g}" in found.sentence


def test_a_gain_within_the_bound_is_remarked_on_and_no_fault():
    state = gemm("per_tensor_fp8", shape={"m": 40, "n": 48, "k": 4096}, out="float32")
    odd = exact_times(state, np.float32(1.01))
    verdict = undeclared(state, odd)
    assert verdict.level == "bounded" and abs(verdict.gains["d"].value - 1.01) < 1e-4
    found = diagnose(state.case, state.inputs, odd, budget=300.0)
    assert found.benign and "1.00% too large on average" in found.sentence


@pytest.mark.parametrize("core", ["sm89.mma", "sm90.wgmma", "sm100.mma"])
@pytest.mark.parametrize("interval", [0, 64, 128])
def test_the_bias_of_a_published_accumulator_is_no_gain(rowwise, core, interval):
    arithmetic = rowwise.arithmetic.but(core=f"{core}.float8_e4m3fn", interval=interval)
    outputs = compute(replace(rowwise, arithmetic=arithmetic))
    assert undeclared(rowwise, outputs).level == "bounded"
    assert diagnose(rowwise.case, rowwise.inputs, outputs).benign


def test_a_bias_that_a_right_output_shares_is_no_gain():
    exact = {"d": np.random.default_rng(0).standard_normal((40, 40))}
    biased = {"d": exact["d"] * 0.98}
    assert unexplained(biased, exact, {}, [])
    assert not unexplained(biased, exact, {}, [exact, {"d": exact["d"] * 0.985}])
    assert unexplained(biased, exact, {}, [{"d": exact["d"] * 1.02}])


def test_a_gain_of_one_group_gets_no_name(rowwise):
    wrong = exact_times(rowwise, np.float32(1.0))
    wrong["d"][36:] *= np.float32(1.02)
    assert undeclared(rowwise, wrong).level == "wrong"
    assert diagnose(rowwise.case, rowwise.inputs, wrong).status != "confirmed"


@pytest.fixture(scope="module")
def tensorwise():
    return gemm("per_tensor_fp8", shape={"m": 32, "n": 64, "k": 2048}, out="bfloat16")


def _alternating(outputs):
    outputs[::2] *= 1.012
    outputs[1::2] *= 0.988


def _one_row(outputs):
    outputs[0] *= 1.02


def _one_column(outputs):
    outputs[:, 5] *= 1.02


@pytest.mark.parametrize(("spoil", "k"), [(_alternating, 1024), (_one_row, 2048), (_one_column, 2048)])
def test_a_gain_of_a_line_that_the_whole_does_not_show_is_beyond_the_bound(spoil, k):
    state = gemm("per_tensor_fp8", shape={"m": 64, "n": 64, "k": k}, out="bfloat16")
    exact = compute(replace(state, arithmetic="exact"))["d"]
    wrong = exact.astype(np.float32)
    spoil(wrong)
    verdict = undeclared(state, {"d": wrong.astype(exact.dtype)})
    assert verdict.level == "wrong" and verdict.beyond_bound["d"] > 0


@pytest.mark.parametrize("core", ["sm89.mma", "sm90.wgmma", "sm100.mma"])
@pytest.mark.parametrize(("interval", "splits"), [(0, 1), (512, 1), (0, 4), (128, 2)])
def test_no_line_of_a_published_accumulator_has_a_gain(tensorwise, core, interval, splits):
    arithmetic = tensorwise.arithmetic.but(core=f"{core}.float8_e4m3fn", interval=interval, splits=splits)
    outputs = compute(replace(tensorwise, arithmetic=arithmetic))
    assert undeclared(tensorwise, outputs).level in ("bounded", "exact")


def test_a_gain_of_a_line_that_a_right_output_has_too_is_no_fault():
    exact = {"d": np.random.default_rng(0).standard_normal((64, 64))}
    wrong = {"d": exact["d"].copy()}
    wrong["d"][7] *= 1.02
    assert unexplained(wrong, exact, {}, [exact])["d"].part == "the elements of row 7 of those judged are"
    assert not unexplained(wrong, exact, {}, [exact, wrong])
    wrong["d"][7] /= 1.04
    assert not unexplained(wrong, exact, {}, [exact]), "toward zero, an order of K may explain it"


def test_few_or_equal_elements_tell_nothing():
    ones = np.ones((64, 64), np.float32)
    assert measured(ones * np.float32(1.1), ones) is None
    few = np.arange(1.0, 200.0)
    assert measured(few * 1.1, few) is None
    empty = np.zeros((4, 0))
    assert not unexplained({"d": empty}, {"d": empty}, {}, [])
    assert judge({"d": few * 1.1}, exact=lambda: {"d": few}, bound=lambda: {"d": around(few, 99.0)}).level == "bounded"
