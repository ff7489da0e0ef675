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


@pytest.mark.parametrize("recipes", [("float8_e4m3fn", "per_row_fp8"), ("mxfp4", "mxfp4"), ("bfloat16", "bfloat16")])
@pytest.mark.parametrize("params", [{"keys": "ragged"}, {"keys": "full", "per_token": False, "clean": True}])
def test_logits_on_a_paged_cache_show_what_the_longest_sequence_does(recipes, params):
    shape = {"batch": 3, "next_n": 2, "h": 32, "d": 64, "page": 16, "max_context_len": 72}
    operands = {name: OperandChoice(recipe) for name, recipe in zip(("q", "kv_cache"), recipes, strict=True)}
    case = Case("p", "a test", "paged_mqa_logits", shape, operands, params, "float32", InputChoice("normal", 3))
    state = state_of(case)
    outputs = compute(state)
    found = infer_arithmetic(case, state.inputs, outputs)
    assert found.arithmetic is not None and found.evidence[0].startswith("sequence ")
    again = compute(replace(state, arithmetic=found.arithmetic))
    defined = np.isfinite(outputs["logits"])
    assert again["logits"][defined].tobytes() == outputs["logits"][defined].tobytes()


def test_an_empty_paged_cache_shows_nothing():
    shape = {"batch": 2, "next_n": 1, "h": 32, "d": 64, "page": 16, "max_context_len": 16}
    operands = {"q": OperandChoice("bfloat16"), "kv_cache": OperandChoice("bfloat16")}
    case = Case("p", "a test", "paged_mqa_logits", shape, operands, {"keys": "none"}, "float32", InputChoice())
    state = state_of(case)
    with pytest.raises(InputError, match="no visible key in any row"):
        infer_arithmetic(case, state.inputs, compute(state))


def test_an_expert_layer_shows_one_arithmetic_for_both_layers():
    state = state_of(PROBLEMS["moe"].case(np.random.default_rng(1)))
    found = inferred(state, state.arithmetic)
    assert found.arithmetic is not None and found.arithmetic.core == state.arithmetic.core
    assert found.evidence[0].startswith("linear 1 and 2 as one")
