"""The diagnosis names what was done to an output, by hand here, and calls nothing wrong that is right."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dgref.compare import examination, search
from dgref.compare.diagnosis import Diagnosis, _agreement, diagnose
from dgref.compare.hypotheses import HYPOTHESES, Scene, State
from dgref.compare.hypotheses.base import poisoned
from dgref.compare.prediction import Agreement, compute, cut
from dgref.errors import UnknownNameError
from dgref.faults.problems import PROBLEMS, state_of
from dgref.formats import LAYOUTS, dequantize
from dgref.ops import OPS, Part
from dgref.suite import Case, InputChoice, OperandChoice


def gemm(recipe: str, layout: str | None = None, **changes) -> State:
    operand = OperandChoice(recipe, layout)
    case = Case("by-hand", "a test", "gemm", {"m": 72, "n": 80, "k": 608}, {"a": operand, "b": operand})
    return state_of(replace(case, **changes))


def of(state: State, wrong: dict[str, np.ndarray], **options) -> Diagnosis:
    return diagnose(state.case, state.inputs, wrong, state.arithmetic, **options)


def with_scale(state: State, name: str, scale: np.ndarray) -> State:
    return state.put(name, state.inputs[name].with_scale(scale))


def test_byte_order_is_named_in_one_sentence_with_its_fix() -> None:
    state = gemm("deepseek_fp8_ue8m0", "packed_ue8m0", inputs=InputChoice("model_like", 3))
    words = LAYOUTS["packed_ue8m0"].pack(state.inputs["b"].scale)  # int32 [2, 80]: four scales of a row a word
    backwards = words.view(np.uint8).reshape(*words.shape, 4)[..., ::-1]
    scale = np.swapaxes(backwards, 0, 1).reshape(80, 8)[:, :5].copy()
    found = of(state, compute(with_scale(state, "b", scale)))
    assert found.sentence == (
        "the scale bytes of b were packed big-endian; re-reading them little-endian makes all 92,160 output bits equal "
        "(5,760 outputs)"
    )
    assert (found.status, found.hypothesis, found.agreed, found.total) == ("confirmed", "scale_byte_order", 5760, 5760)
    assert "layout=packed_ue8m0" in found.fix


def test_swapped_nibbles_are_named() -> None:
    state = gemm("mxfp4", "swizzle_128x4")
    data = state.inputs["a"].data.copy()
    data[:, 0::2], data[:, 1::2] = state.inputs["a"].data[:, 1::2], state.inputs["a"].data[:, 0::2]
    found = of(state, compute(state.put("a", replace(state.inputs["a"], data=data))))
    assert (found.hypothesis, found.status) == ("nibble_order", "confirmed")


def test_a_swizzle_read_as_linear_is_named() -> None:
    state = gemm("mxfp8", "swizzle_128x4", inputs=InputChoice("coordinate_exponents", 1), out="float32")
    scale = state.inputs["a"].scale  # [72, 19]: one tile of 128 rows, five of 4 columns
    flat = np.zeros(5 * 512, np.uint8)
    for m, kk in np.ndindex(scale.shape):
        flat[kk // 4 * 512 + m % 32 * 16 + m // 32 * 4 + kk % 4] = scale[m, kk]
    found = of(state, compute(with_scale(state, "a", flat[: scale.size].reshape(scale.shape))))
    assert found.hypothesis == "scale_swizzle"
    assert "swizzled 128x4 and read as linear" in found.sentence


def test_an_unwritten_tile_is_named_whether_zero_or_poison() -> None:
    state = gemm("deepseek_fp8", inputs=InputChoice("normal", 2), shape={"m": 72, "n": 80, "k": 512})
    for byte in (0x00, 0xFF):
        wrong = {"d": compute(state)["d"].copy()}
        wrong["d"][64:, 64:] = np.full(2, byte, np.uint8).view(wrong["d"].dtype)[0]
        found = of(state, wrong)
        assert found.hypothesis == "output_unwritten"
        assert any("one 64x64 tile at (1, 1)" in line for line in found.evidence)


POISONED = {"poisons": ["0xFF", "0x55"], "runs": 4, "differing": []}


@pytest.mark.parametrize(("k", "name"), [(512, "zeros_written"), (48, "k_tail_dropped")])
def test_zeros_over_poison_were_written_by_a_kernel_that_ran(k: int, name: str) -> None:
    state = gemm("mxfp8", shape={"m": 24, "n": 40, "k": k})
    zeros = {"d": np.zeros_like(compute(state)["d"])}
    assert of(state, zeros).hypothesis == "nothing_ran"
    found = of(state, zeros, evidence=POISONED)
    assert (found.hypothesis, found.status) == (name, "confirmed")
    assert "nothing_ran" not in found.names
    assert "zeros_written" in found.names
    assert found.separate is None  # no inputs tell a sum of nothing from zeros


def test_zeros_that_keep_the_signs_of_sums_were_multiplied_by_0() -> None:
    state = gemm("mxfp8", shape={"m": 24, "n": 40, "k": 256})
    right = compute(state)["d"]
    found = of(state, {"d": np.copysign(np.zeros_like(right), right)}, evidence=POISONED)
    assert (found.hypothesis, found.status) == ("zeros_written", "confirmed")
    assert "multiplied by 0" in found.sentence and "alpha" in found.fix


def test_zeros_over_poison_in_a_tile_are_not_called_unwritten() -> None:
    state = gemm("deepseek_fp8", shape={"m": 72, "n": 80, "k": 512})
    wrong = {"d": compute(state)["d"].copy()}
    wrong["d"][64:, 64:] = 0
    found = of(state, wrong, evidence=POISONED)
    assert (found.hypothesis, found.status) == ("zeros_written", "confirmed")
    assert "output_unwritten" not in found.names


def test_k_floored_to_a_tile_is_added_to_c() -> None:
    state = gemm("bfloat16", shape={"m": 24, "n": 40, "k": 48}, params={"accumulate": True}, out="float32")
    wrong = {"d": state.inputs["c"].values().astype(np.float32)}
    assert of(state, wrong).hypothesis == "k_tail_dropped"


@pytest.mark.parametrize(
    ("k", "stop", "words"),
    [
        (160, 128, "K = 160 is no multiple of 64, nor of 128"),
        (256, 255, "it stops 1 before K = 256"),
        (256, 192, "it stops 64 before K = 256"),
    ],
)
def test_the_fix_of_a_short_sum_says_only_what_is_true(k: int, stop: int, words: str) -> None:
    state = gemm("bfloat16", shape={"m": 24, "n": 40, "k": k})
    dropped = state.inputs["a"].data.copy()
    dropped[:, stop:] = 0
    found = of(state, compute(state.put("a", replace(state.inputs["a"], data=dropped))))
    assert found.hypothesis == "k_tail_dropped"
    assert words in found.fix


def test_a_fault_that_either_operand_explains_has_a_fix_for_both() -> None:
    state = gemm("mxfp8", shape={"m": 24, "n": 40, "k": 128})
    doubled = {"d": (2 * compute(state)["d"].astype(np.float32)).astype(compute(state)["d"].dtype)}
    found = of(state, doubled)
    alike = [row for row in found.rivals if row.misreading.hypothesis == found.hypothesis]
    assert alike and all(row.misreading.fix in found.fix for row in alike)


def test_two_faults_at_once_are_named_together() -> None:
    state = gemm("deepseek_fp8_ue8m0", inputs=InputChoice("model_like", 5), shape={"m": 72, "n": 80, "k": 640})
    scale = state.inputs["b"].scale
    state_wrong = with_scale(state, "b", np.ascontiguousarray(scale.T).reshape(scale.shape))
    state_wrong = with_scale(state_wrong, "a", state.inputs["a"].scale + np.uint8(1))
    found = of(state, compute(state_wrong))
    assert found.status == "confirmed"
    assert set(found.hypothesis.split("+")) == {"scale_major_swapped", "scale_exponent_offset"}


@pytest.mark.parametrize("problem", ["fp8", "nvfp4", "masked", "logits"])
def test_correct_outputs_are_called_right(problem: str) -> None:
    state = state_of(PROBLEMS[problem].case(np.random.default_rng(1)))
    for arithmetic in (state.arithmetic, None):
        found = diagnose(state.case, state.inputs, compute(state), arithmetic)
        assert (found.status, found.benign) == ("none", True)
        assert found.sentence.startswith("nothing is wrong")


def test_another_order_of_adding_is_called_right_and_named() -> None:
    state = gemm("bfloat16", inputs=InputChoice("wide", 1), out="float32")
    other = replace(state, arithmetic=state.arithmetic.but(splits=2, split_unit=128))
    found = of(state, compute(other))
    assert (found.hypothesis, found.status, found.benign) == ("reduction_order", "confirmed", True)
    assert found.sentence.startswith("nothing is wrong: the outputs follow another valid arithmetic (K split into 2")


@pytest.mark.parametrize("declared", ["exact", "deep_gemm.sm100.fp8_1d1d"])
def test_the_bits_of_another_known_arithmetic_are_named(declared: str) -> None:
    state = gemm("deepseek_fp8_ue8m0")
    other = replace(state, arithmetic="deep_gemm.sm90.fp8_1d2d")
    found = diagnose(state.case, state.inputs, compute(other), declared)
    said = f"all 5,760 outputs have the bits of deep_gemm.sm90.fp8_1d2d; declare that, not {declared}"
    assert (found.sentence, found.hypothesis, found.benign) == (said, "other_arithmetic", False)
    assert found.fix.startswith("declare deep_gemm.sm90.fp8_1d2d")


def test_a_wrong_declaration_is_no_excuse_for_a_fault() -> None:
    state = gemm("deepseek_fp8_ue8m0")
    wrong = compute(replace(state, arithmetic="deep_gemm.sm90.fp8_1d2d"))["d"].copy()
    wrong[:, 7] = 0
    found = diagnose(state.case, state.inputs, wrong, "exact")
    assert found.hypothesis != "other_arithmetic" and "declare" not in found.sentence + found.fix


def precise(state: State) -> np.ndarray:
    """Return products added in float64 and rounded to float32, as a kernel with more precision than needed has them."""
    a, b = (np.asarray(dequantize(state.inputs[name]), np.float64) for name in "ab")
    return (a @ b.T).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "wide", "outliers"])
def test_sums_that_are_more_precise_than_declared_are_called_so(kind: str) -> None:
    state = gemm("deepseek_fp8", inputs=InputChoice(kind, 1), out="float32")
    found = diagnose(state.case, state.inputs, precise(state), "deep_gemm.sm90.fp8_1d2d")
    assert (found.hypothesis, found.status) == ("more_precise_than_declared", "suspicion")
    assert found.sentence.startswith("sums are more precise than deep_gemm.sm90.fp8_1d2d, which is declared: all 5,760")
    assert found.fix.startswith("declare no arithmetic")


@pytest.mark.parametrize(
    ("kind", "depth"), [("outliers", 512), ("model_like", 512), ("normal", 512), ("model_like", 8192), ("normal", 2048)]
)
def test_precise_sums_of_a_part_of_k_are_not_called_more_precise(kind: str, depth: int) -> None:
    state = gemm("deepseek_fp8", shape={"m": 24, "n": 24, "k": depth}, inputs=InputChoice(kind, 1), out="float32")
    a, b = (np.asarray(dequantize(state.inputs[name]), np.float64)[:, :-1] for name in "ab")
    found = diagnose(state.case, state.inputs, (a @ b.T).astype(np.float32), "deep_gemm.sm90.fp8_1d2d")
    assert found.hypothesis != "more_precise_than_declared" and not found.benign


def test_an_element_that_is_wrong_is_no_reason_to_declare_something_else() -> None:
    state = gemm("deepseek_fp8", inputs=InputChoice("normal", 1), out="float32")
    wrong = compute(state)["d"].copy()
    wrong.view(np.int32)[3, 5] += 1
    found = diagnose(state.case, state.inputs, wrong, "deep_gemm.sm90.fp8_1d2d")
    assert "guess" not in found.fix and found.hypothesis not in ("more_precise_than_declared", "other_arithmetic")


def test_sums_that_are_only_within_a_bound_are_said_to_be() -> None:
    state = gemm("deepseek_fp8", inputs=InputChoice("normal", 1), out="float32")
    d = precise(state)
    ulps = np.random.default_rng(0).integers(-1, 2, d.shape, np.int32)
    found = diagnose(state.case, state.inputs, (d.view(np.int32) + ulps).view(np.float32), "exact")
    assert (found.hypothesis, found.status, found.benign) == (None, "none", False)
    assert "all 5,760 outputs are within the bound of an fp32 accumulator" in found.sentence
    assert found.fix.startswith("if exact was a guess")


def test_no_suspect_is_named_that_explains_nothing() -> None:
    state = gemm("deepseek_fp8")
    wrong = compute(state)["d"].copy()
    wrong.reshape(-1)[::397] *= np.asarray(64, wrong.dtype)
    wrong.reshape(-1)[5::397] *= np.asarray(-3, wrong.dtype)
    sentence = of(state, {"d": wrong}).sentence
    assert "explains 0%" not in sentence
    assert sentence.startswith("no hypothesis explains it; ")


def test_what_is_right_has_no_fix() -> None:
    state = gemm("deepseek_fp8", out="float32")
    for declared in (state.arithmetic, None):
        found = diagnose(state.case, state.inputs, compute(state), declared)
        assert (found.fix, found.benign) == ("", True)
        assert found.evidence == [
            "a difference from an unquantised product is the recipe's own loss; compare with the quantised operands"
        ]


def test_a_share_that_is_not_all_is_not_rounded_up_to_all() -> None:
    found = Agreement(24_576, 24_576, 0.0, 24_576 * 32, 24_575)
    said = _agreement(found, 24_576, "the bound of an fp32 accumulator")
    assert said.endswith("24,575 of them equal in every bit") and "100" not in said


def test_noise_is_not_explained() -> None:
    state = gemm("deepseek_fp8")
    right = compute(state)["d"]
    noise = np.random.default_rng(0).standard_normal(right.shape).astype(right.dtype)
    found = of(state, {"d": noise})
    assert (found.status, found.hypothesis) == ("none", None)
    assert found.sentence.startswith("no hypothesis explains it")


def test_a_forgotten_factor_is_named_with_its_value() -> None:
    state = gemm("bfloat16", shape={"m": 40, "n": 48, "k": 256}, inputs=InputChoice("model_like", 6))
    acc = compute(replace(state, case=replace(state.case, out="float32")))["d"]
    found = of(state, {"d": (np.float32(0.3) * acc).astype(compute(state)["d"].dtype)})
    assert found.hypothesis == "output_gain"
    assert found.sentence.startswith("every output was multiplied by 0.3; doing so makes all")


def test_some_of_the_outputs_are_enough() -> None:
    state = state_of(PROBLEMS["prenorm"].case(np.random.default_rng(3)))
    right = compute(state)
    assert of(state, {"sqr_sum": right["sqr_sum"]}).benign
    found = of(state, {"d": right["d"] * np.float32(2)})
    assert (found.hypothesis, found.total) == ("output_gain", right["d"].size)


def test_what_explains_most_but_not_all_is_a_suspicion() -> None:
    state = gemm("deepseek_fp8_ue8m0", inputs=InputChoice("model_like", 3))
    scale = state.inputs["b"].scale
    wrong = compute(with_scale(state, "b", np.ascontiguousarray(scale.T).reshape(scale.shape)))["d"].copy()
    wrong[::5, ::7] *= np.asarray(1.25, wrong.dtype)
    found = of(state, {"d": wrong})
    assert (found.status, found.hypothesis) == ("suspicion", "scale_major_swapped")
    assert found.sentence.startswith("suspicion: ")


@pytest.mark.parametrize(("spread", "fixed"), [(0.3, False), (1e-4, True)])
def test_a_suspicion_that_makes_no_output_equal_has_a_fix_only_where_it_leaves_roundings(
    spread: float, fixed: bool
) -> None:
    state = gemm("deepseek_fp8_ue8m0", inputs=InputChoice("model_like", 3), out="float32")
    scale = state.inputs["b"].scale
    wrong = compute(with_scale(state, "b", np.ascontiguousarray(scale.T).reshape(scale.shape)))["d"]
    factors = np.random.default_rng(0).uniform(1 - spread, 1 + spread, wrong.shape)
    found = of(state, {"d": (factors * wrong).astype(np.float32)})
    assert (found.status, found.agreed, bool(found.fix)) == ("suspicion", 0, fixed)


@pytest.mark.parametrize("names", [["a"], ["b"], ["a", "b"]])
def test_inverted_scales_of_blocks_are_named(names: list[str]) -> None:
    operands = {"a": OperandChoice("deepseek_fp8"), "b": OperandChoice("deepseek_fp8_weight")}
    shape = {"m": 40, "n": 256, "k": 512}
    state = gemm("deepseek_fp8", shape=shape, operands=operands, inputs=InputChoice("model_like", 3))
    wrong = state
    for name in names:
        wrong = with_scale(wrong, name, 1 / state.inputs[name].scale)
    found = of(state, compute(wrong))
    assert (found.hypothesis, found.status) == ("scale_inverted", "confirmed")
    assert found.sentence.startswith(f"the scales of {' and '.join(names)} were inverted")


WRONG_LABELS = {
    "every label was taken as one more than it is": lambda x: (x + 1) % 4,
    "every label was taken as one less than it is": lambda x: (x - 1) % 4,
    "every label but the last group's was taken as one more": lambda x: np.minimum(x + 1, 3),
    "every label but 0 was taken as one less": lambda x: np.maximum(x - 1, 0),
    "every row was given to group 0": lambda x: x * 0,
    "groups were counted from the last": lambda x: 3 - x,
}


@pytest.mark.parametrize("cause", WRONG_LABELS)
def test_labels_that_are_off_are_one_fault(cause: str) -> None:
    operands = {"a": OperandChoice("deepseek_fp8"), "b": OperandChoice("deepseek_fp8_weight")}
    shape = {"g": 4, "m": 512, "n": 64, "k": 256}
    state = gemm("deepseek_fp8", op="gemm_grouped_contiguous", operands=operands, shape=shape)
    labels = np.arange(512, dtype=np.int32) // 128
    state = state.put("grouped_layout", labels)
    wrong = compute(state.put("grouped_layout", WRONG_LABELS[cause](labels).astype(np.int32)))
    found = of(state, wrong)
    assert (found.hypothesis, found.status) == ("group_index_wrong", "confirmed")
    assert found.sentence.startswith(cause)


def test_float32_scales_have_no_exponent_bytes_that_could_be_cast() -> None:
    floats, bytes_ = (Scene(gemm(recipe)) for recipe in ("deepseek_fp8", "deepseek_fp8_ue8m0"))
    causes = [[row.cause for row in HYPOTHESES["numeric_cast_of_bits"].misreadings(s)] for s in (floats, bytes_)]
    assert not any("scales" in cause for cause in causes[0])
    assert any("byte 127 became 127.0" in cause for cause in causes[1])


def test_without_a_declared_arithmetic_the_bound_decides() -> None:
    state = gemm("deepseek_fp8", inputs=InputChoice("normal", 4))
    other = replace(state, arithmetic=state.arithmetic.but(core="sm100.tcgen05.float8_e4m3fn", interval=64))
    assert diagnose(state.case, state.inputs, compute(other)).benign
    dropped = state.inputs["a"].data.copy()
    dropped[:, 512:] = 0
    wrong = compute(other.put("a", replace(state.inputs["a"], data=dropped)))
    found = diagnose(state.case, state.inputs, wrong)
    assert (found.hypothesis, found.status) == ("k_tail_dropped", "confirmed")
    assert "within the bound of an accumulator of 13 fraction bits" in found.sentence


def test_large_outputs_are_sampled_where_they_stand_out_and_confirmed_in_strips(monkeypatch) -> None:
    for module in (examination, search):
        monkeypatch.setattr(module, "SMALL", 1 << 20)
    monkeypatch.setattr(search, "_STRIP", 1 << 20)
    state = gemm("deepseek_fp8", shape={"m": 300, "n": 260, "k": 512})
    right = compute(state)
    one_tile = {"d": right["d"].copy()}
    one_tile["d"][64:72, 128:136] = 0
    found = of(state, one_tile)
    assert (found.hypothesis, found.agreed) == ("output_unwritten", 300 * 260)
    assert "outputs sampled of 78,000 differ from the arithmetic" in found.evidence[0]
    hurried = of(state, one_tile, budget=1e-3)
    assert hurried.total < 300 * 260 or hurried.status == "none"
    sampled = of(state, right)
    assert "sampled of 78,000" in sampled.sentence


@pytest.mark.parametrize(
    ("evidence", "name"),
    [
        ({"differing": ["output d changed when repeated (launch 3)"]}, "race"),
        ({"differing": ["output d changed when over another poison pattern (launch 2)"]}, "uninitialised_memory"),
        ({"differing": ["over another poison pattern"], "unwritten": {"d": 3}}, "output_unwritten"),
        ({"guards": ["16 bytes after d"]}, "out_of_bounds_write"),
        ({"provenance": {"requested_kernel": "x", "kernel": "y"}}, "silent_fallback"),
        ({"provenance": {"architecture": "sm_90a", "built_for": "sm_80"}}, "wrong_architecture"),
        ({"provenance": {"problem_key": 1, "tuned_key": 2}}, "autotune_key_mismatch"),
        ({"provenance": {"source_hash": "1", "artefact_hash": "2"}}, "stale_artefact"),
    ],
)
def test_what_only_a_run_shows_is_named_from_its_evidence(evidence: dict, name: str) -> None:
    state = gemm("deepseek_fp8", shape={"m": 8, "n": 8, "k": 128})
    found = of(state, compute(state), evidence=evidence)
    assert (found.hypothesis, found.status) == (name, "confirmed")
    assert found.fix


def test_rows_that_still_hold_poison_are_unwritten_and_named_by_what_skipped_them() -> None:
    operand, shape = OperandChoice("mxfp8", None), {"g": 3, "m": 48, "n": 16, "k": 64}
    case = Case("masked", "a test", "gemm_grouped_masked", shape, {"a": operand, "b": operand})
    state = state_of(replace(case, params={"groups": "skewed"}))
    counts = np.asarray(state.inputs["masked_m"])
    right, rows = compute(state)["d"], np.arange(48)
    for name, written in (("masked_m_wrong", np.roll(counts, 1)), ("output_unwritten", counts - 1)):
        skipped = (rows >= written[:, None]) & (rows < counts[:, None])
        wrong = np.where(skipped[..., None], poisoned(right), right)
        evidence = {"differing": ["output d changed when over another poison pattern"], "unwritten": {"d": 1}}
        found = of(state, {"d": wrong}, evidence=evidence)
        assert (found.hypothesis, found.status) == (name, "confirmed"), found.sentence


def test_agreeing_provenance_is_no_evidence() -> None:
    state = gemm("deepseek_fp8", shape={"m": 8, "n": 8, "k": 128})
    evidence = {"differing": [], "provenance": {"requested_kernel": "x", "kernel": "x", "architecture": "sm_90a"}}
    assert of(state, compute(state), evidence=evidence).benign


def test_outputs_of_another_shape_or_name_are_refused_in_a_sentence() -> None:
    state = gemm("deepseek_fp8", shape={"m": 8, "n": 8, "k": 128})
    found = of(state, {"d": compute(state)["d"].T[:4]})
    assert (found.hypothesis, found.status) == ("output_shape", "confirmed")
    assert "got (4, 8) of bfloat16, need (8, 8) of bfloat16" in found.sentence
    with pytest.raises(UnknownNameError, match="output of gemm: got 'dd', need d"):
        of(state, {"dd": compute(state)["d"]})


def test_a_diagnosis_is_plain_data_and_torch_comes_in() -> None:
    import torch

    state = gemm("bfloat16", shape={"m": 8, "n": 8, "k": 64}, out="float32")
    data = diagnose(state.case, state.inputs, torch.from_numpy(compute(state)["d"]) * 2, state.arithmetic).to_dict()
    assert json.loads(json.dumps(data)) == data
    assert {"sentence", "fix", "hypothesis", "status", "agreed", "total", "ranked"} <= set(data)


@pytest.mark.parametrize("problem", [n for n, p in PROBLEMS.items() if OPS[p.op].sampler])
def test_a_sample_is_the_same_part_of_the_whole(problem: str) -> None:
    state = state_of(PROBLEMS[problem].case(np.random.default_rng(5)))
    op = OPS[state.case.op]
    rows, columns = op.rows_and_columns(state.case)
    part = Part(np.arange(1, rows, 7), np.arange(0, columns, 5))
    whole, smaller = compute(state), compute(cut(state, part))
    for name, array in smaller.items():
        assert op.pick(state.case, name, whole[name], part).tobytes() == array.tobytes(), name


def test_every_hypothesis_says_what_it_is_and_which_rows_it_stands_for() -> None:
    for row in HYPOTHESES.values():
        assert row.summary[0].isupper() and row.rows and 0 < row.likelihood < 1
    with pytest.raises(UnknownNameError, match="scale_swizzle"):
        HYPOTHESES["scale_swizle"]


def test_an_unwritten_row_is_named_alone_where_no_arithmetic_is_declared() -> None:
    case = Case.from_dict(
        {
            "id": "x",
            "why": "x",
            "op": "gemm",
            "shape": {"m": 48, "n": 96, "k": 256},
            "operands": {"a": {"recipe": "bfloat16"}, "b": {"recipe": "bfloat16"}},
            "out": "float32",
        }
    )
    inputs = case.make_inputs()
    product = (inputs["a"].values() @ inputs["b"].values().T).astype(np.float32)
    product[3] = 0
    found = diagnose(case, inputs, {"d": product})
    assert found.hypothesis == "output_unwritten"
