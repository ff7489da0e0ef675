"""Where two explanations fit equally well both are named, with a case that tells them apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dgref.compare.diagnosis import diagnose
from dgref.compare.prediction import compute
from dgref.faults.problems import state_of
from dgref.suite import InputChoice, load_file
from tests.compare.test_diagnosis import gemm, of, with_scale


def doubled(state, name):
    return compute(with_scale(state, name, state.inputs[name].scale * np.float32(2)))


def test_both_operands_are_named_where_the_bits_cannot_tell():
    state = gemm("deepseek_fp8", inputs=InputChoice("normal", 5), shape={"m": 40, "n": 48, "k": 256})
    found = of(state, doubled(state, "a"))
    assert found.hypothesis == "scale_exponent_offset" and found.status == "confirmed"
    assert "scale of a" in found.sentence and "scale of b" in found.sentence
    assert "the outputs cannot tell which" in found.sentence
    assert found.to_dict()["rivals"][0]["site"].startswith("b") and found.separate is None  # no inputs tell them apart


def test_the_case_that_is_suggested_tells_them_apart(tmp_path):
    state = gemm("deepseek_fp8", shape={"m": 40, "n": 48, "k": 256})
    for name in "ab":  # one scale everywhere: a mantissa that one side drops is missed on either
        state = with_scale(state, name, np.full_like(state.inputs[name].scale, 1.5))
    found = of(state, compute(with_scale(state, "a", np.full_like(state.inputs["a"].scale, 1.0))))
    assert "mantissas of a's" in found.sentence and "mantissas of b's" in found.sentence
    assert 'inputs = { kind = "coordinate_exponents", seed = 0 } would' in found.sentence
    file = tmp_path / "separate.toml"
    file.write_text(found.to_dict()["separate"])
    (case,) = load_file(file).cases
    other = state_of(case)
    one, two = (compute(row.misreading.change(other)) for row in (found.ranked[0], found.rivals[0]))
    assert one["d"].tobytes() != two["d"].tobytes()


def test_all_bits_outrank_what_is_only_within_the_bound():
    state = gemm("deepseek_fp8", inputs=InputChoice("normal", 4))
    data = state.inputs["a"].data.copy()
    data[:, 512:] = 0
    wrong = compute(state.put("a", replace(state.inputs["a"], data=data)))
    found = diagnose(state.case, state.inputs, wrong)
    assert (found.hypothesis, found.ranked[0].exact) == ("k_tail_dropped", True)
    assert all(row.exact for row in found.rivals)
