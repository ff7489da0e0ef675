"""Ops that hold several products are inferred as well: groups of K, einsums and the fused expert layer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dgref.compare import infer_arithmetic
from dgref.compare.prediction import compute
from dgref.errors import InputError
from dgref.faults.problems import PROBLEMS, state_of
from dgref.ops.einsum import EXPRESSIONS
from dgref.reference.arithmetic import ARITHMETICS
from dgref.suite import Case, InputChoice, OperandChoice

BF16 = ARITHMETICS["deep_gemm.sm90.bf16"]


def inferred(state, arithmetic):
    state = replace(state, arithmetic=arithmetic)
    return infer_arithmetic(state.case, state.inputs, compute(state))


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("name", ["deep_gemm.sm90.fp8_1d2d", "dgref.sm90.fp8_fp4"])
def test_groups_of_k_show_what_their_largest_one_does(seed, name):
    state = state_of(PROBLEMS["k-grouped"].case(np.random.default_rng(seed)))
    found = inferred(state, ARITHMETICS[name])
    assert found.arithmetic is not None and found.arithmetic.interval == ARITHMETICS[name].interval
    assert found.evidence[0].startswith("group ")


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("accumulate", [False, True])
def test_an_einsum_shows_how_it_adds_whatever_the_order_of_its_axes(expression, accumulate):
    shape, operand = {"batch": 3, "m": 24, "n": 40, "k": 256}, OperandChoice("bfloat16")
    params = {"expression": expression, "accumulate": accumulate}
    case = Case("e", "a test", "einsum", shape, {"a": operand, "b": operand}, params, "float32", InputChoice("wide", 2))
    state = replace(state_of(case), arithmetic=BF16.but(splits=2, split_unit=128))
    outputs = compute(state)
    found = infer_arithmetic(case, state.inputs, outputs)
    assert found.arithmetic is not None and found.evidence[0] == "known arithmetics: none of 4 agreed"
    assert compute(replace(state, arithmetic=found.arithmetic))["d"].tobytes() == outputs["d"].tobytes()


def test_an_einsum_without_its_expression_is_refused():
    a = np.ones((2, 3, 4), np.float32)
    with pytest.raises(InputError, match="parameter expression of einsum: got nothing, need a value"):
        infer_arithmetic("einsum", {"a": a, "b": a}, a)


def test_an_expert_layer_shows_one_arithmetic_for_both_layers():
    state = state_of(PROBLEMS["moe"].case(np.random.default_rng(1)))
    found = inferred(state, state.arithmetic)
    assert found.arithmetic is not None and found.arithmetic.core == state.arithmetic.core
    assert found.evidence[0].startswith("linear 1 and 2 as one")
