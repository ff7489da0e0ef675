"""Wrong outputs as people meet them, made by hand: each gets its name, its place, or none; never a wrong one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dgref.compare.diagnosis import diagnose
from dgref.compare.prediction import compute
from dgref.faults.problems import state_of
from dgref.suite import Case, InputChoice, OperandChoice, load

SHAPE = {"m": 96, "n": 192, "k": 640}


def product(a="deepseek_fp8", b="deepseek_fp8_weight", op="gemm", shape=SHAPE, kind="normal", **params):
    operands = {"a": OperandChoice(a), "b": OperandChoice(b)}
    return state_of(Case("mine", "a test", op, shape, operands, params, "bfloat16", InputChoice(kind, 3)))


def payload(state, name, change):
    data = np.array(state.inputs[name].data)
    change(data)
    return state.put(name, replace(state.inputs[name], data=data))


def scales(state, name, change):
    return state.put(name, replace(state.inputs[name], scale=change(np.array(state.inputs[name].scale))))


def zeroed(start, stop):
    return lambda data: data[:, start:stop].fill(0)


def stale(data):
    data[:, 256:384] = data[:, :128]


def patched(state, wrong, place):
    right = compute(state)["d"].copy()
    right[place] = compute(wrong)["d"][place]
    return {"d": right}


def moved_rows(state):
    right = compute(state)["d"]
    return {"d": np.concatenate([right[:80], right[64:80]])}


def previous_row(state):
    return scales(state, "a", lambda s: np.roll(s, 1, axis=0))


def with_first_group(grid):
    grid[-1] = grid[0]
    return grid


SINGLE = {
    "scale_of_neighbour": lambda s: compute(previous_row(s)),
    "stale_stage": lambda s: compute(payload(s, "a", stale)),
    "split_dropped": lambda s: compute(payload(s, "b", zeroed(0, 384))),
    "k_tail_dropped": lambda s: compute(payload(s, "a", zeroed(639, 640))),
    "output_permuted": moved_rows,
    "activation_fused": lambda s: {"d": np.maximum(compute(s)["d"], 0)},
    "output_truncated": lambda s: compute(replace(s, arithmetic=s.arithmetic.but(output_rounding="toward_zero"))),
    "payload_format": lambda s: compute(s.put("a", replace(s.inputs["a"], format="float8_e5m2"))),
    "k_tail_dropped+scale_of_neighbour": lambda s: compute(payload(previous_row(s), "a", zeroed(512, 640))),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_fault_made_by_hand_gets_its_name(name):
    state = product()
    found = diagnose(state.case, state.inputs, SINGLE[name](state), state.arithmetic)
    assert (found.hypothesis, found.status) == (name, "confirmed"), found.sentence


def test_a_fault_in_one_tile_is_named_with_its_place():
    state = product()
    wrong = patched(state, scales(state, "a", lambda s: np.roll(s, 1, axis=1)), np.s_[32:64, 64:128])
    found = diagnose(state.case, state.inputs, wrong, state.arithmetic)
    place, cause = "in rows 32..63 and columns 64..127 only", "a's scales of the previous block of K were read"
    assert found.sentence.startswith(f"{place}, {cause}; reading them so makes all")


def test_the_last_group_alone_with_scales_of_the_first():
    shape = {"g": 3, "m": 256, "n": 48, "k": 256}
    state = product(op="gemm_grouped_contiguous", shape=shape, alignment=32)
    found = diagnose(state.case, state.inputs, compute(scales(state, "b", with_first_group)), state.arithmetic)
    assert (
        found.hypothesis == "scale_of_neighbour" and " only, b's scales of the first group were read" in found.sentence
    )


def test_one_block_of_k_is_located_where_nothing_explains_it():
    state = product(a="deepseek_fp8_ue8m0", b="deepseek_fp8_ue8m0")

    def raised(grid):
        grid[:, 3] += 2
        return grid

    found = diagnose(state.case, state.inputs, compute(scales(state, "b", raised)), state.arithmetic)
    assert (found.status, found.hypothesis) == ("none", None)
    assert "what is wrong comes from K: K 384..511 scaled" in found.evidence


def test_what_rounds_otherwise_is_a_suspicion_of_one_fault_not_of_two():
    state = product("bfloat16", "bfloat16", accumulate=True)
    state = replace(state, case=replace(state.case, out="float32"))
    c = np.asarray(state.inputs["c"].values(), np.float32)
    found = diagnose(state.case, state.inputs, {"d": compute(state)["d"] + c}, state.arithmetic)
    assert (found.status, found.hypothesis) == ("suspicion", "c_added_twice")


@pytest.mark.parametrize(("name", "step"), [("starts", -1), ("starts", 1), ("ends", 1)])
@pytest.mark.parametrize("format", ["bfloat16", "float8_e4m3fn"])
def test_logits_of_every_format_have_a_cause_where_a_range_is_off_by_one(format, name, step):
    shape = {"s": 9, "h": 8, "d": 64, "t": 40}
    kv = format if format == "bfloat16" else "per_row_fp8"
    operands = {"q": OperandChoice(format), "kv": OperandChoice(kv)}
    state = state_of(Case("logits", "a test", "mqa_logits", shape, operands, out="float32"))
    moved = np.clip(np.asarray(state.inputs[name]) + step, 0, shape["t"]).astype(np.int32)
    found = diagnose(state.case, state.inputs, compute(state.put(name, moved)))
    assert (found.hypothesis, found.status) == ("ragged_metadata", "confirmed"), found.sentence
    assert name in found.sentence and found.sentence.startswith(name)


@pytest.mark.parametrize("recipe", ["bfloat16", "mxfp8", "deepseek_fp8"])
def test_exact_sums_cut_off_are_named_where_the_exact_result_is_declared(recipe):
    state = replace(product(recipe, recipe), arithmetic="exact")
    sums = compute(replace(state, case=replace(state.case, out="float32")))["d"]
    wrong = (sums.view(np.uint32) >> 16).astype(np.uint16).view(compute(state)["d"].dtype)
    found = diagnose(state.case, state.inputs, {"d": wrong}, "exact")
    assert (found.hypothesis, found.status) == ("output_truncated", "confirmed"), found.sentence


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 0], [0, 0, 0]])
def test_weights_of_another_group_are_named_in_a_masked_product(order):
    state = product("mxfp8", "mxfp8", "gemm_grouped_masked", {"g": 3, "m": 40, "n": 24, "k": 64})
    weights = state.inputs["b"]
    other = replace(weights, data=np.asarray(weights.data)[order], scale=np.asarray(weights.scale)[order])
    found = diagnose(state.case, state.inputs, compute(state.put("b", other)), state.arithmetic)
    assert (found.hypothesis, found.status) == ("weights_of_neighbour", "confirmed"), found.sentence


def test_an_arithmetic_that_nobody_declared_is_said_to_be_assumed():
    state = product()
    found = diagnose(state.case, state.inputs, moved_rows(state))
    assert "differ from the arithmetic deep_gemm.sm90.fp8_1d2d (assumed: none is declared)" in " ".join(found.evidence)


def test_what_lies_outside_one_place_must_be_right_too():
    state = replace(product(), arithmetic=None)
    wrong = compute(replace(state, arithmetic="exact"))["d"].copy()
    wrong.reshape(-1)[::7] *= wrong.dtype.type(1.01)  # one of which is no longer near what it should be
    wrong[50, 50] *= wrong.dtype.type(1.1)
    found = diagnose(state.case, state.inputs, {"d": wrong})
    assert found.status != "confirmed", found.sentence


@pytest.mark.parametrize("count", [1, 15])
def test_a_few_outputs_are_no_evidence_for_a_cause(count):
    state = product()
    wrong = compute(state)["d"].copy()
    bits = wrong[40, :count].view(np.uint16)
    bits += 1
    found = diagnose(state.case, state.inputs, {"d": wrong}, state.arithmetic)
    assert found.status != "confirmed", found.sentence


@pytest.mark.parametrize(("suite", "case"), [("edges", "k-0"), ("gemm", "head-splits")])
@pytest.mark.parametrize("declared", [True, False])
def test_odd_products_without_a_cause_are_described(suite, case, declared):
    state = state_of(next(row for row in load(suite).cases if row.id == case))
    wrong = compute(state)["d"].copy()
    wrong[:, -20:] = wrong[:, -20:] * wrong.dtype.type(2) + wrong.dtype.type(1)
    found = diagnose(state.case, state.inputs, {"d": wrong}, state.arithmetic if declared else None, budget=5)
    assert found.status != "confirmed" and found.sentence
