"""A sample of a large product is judged by the same bits as the whole."""

from __future__ import annotations

import numpy as np
import pytest

from dgref import answers
from dgref.answers import Answers, Sampled, answers_for, sample
from dgref.ops import OPS, Part
from dgref.suite import Case

FP8 = {"a": {"recipe": "deepseek_fp8"}, "b": {"recipe": "deepseek_fp8_weight"}}
CASES = {
    "gemm": {"shape": {"m": 70, "n": 200, "k": 160}},
    "gemm_grouped_contiguous": {"shape": {"g": 3, "m": 384, "n": 150, "k": 128}},
    "gemm_grouped_contiguous psum": {
        "shape": {"g": 3, "m": 384, "n": 150, "k": 128},
        "params": {"psum": True, "groups": "skewed"},
    },
    "gemm_grouped_masked": {"shape": {"g": 3, "m": 70, "n": 150, "k": 128}},
    "gemm_grouped_k": {
        "shape": {"g": 3, "m": 70, "n": 150, "k": 512},
        "operands": {"a": {"recipe": "deepseek_fp8"}, "b": {"recipe": "deepseek_fp8"}},
        "params": {"accumulate": True},
        "out": "float32",
    },
    "gemm_grouped_k psum": {
        "shape": {"g": 3, "m": 70, "n": 150, "k": 512},
        "operands": {"a": {"recipe": "deepseek_fp8"}, "b": {"recipe": "deepseek_fp8"}},
        "params": {"psum": True},
    },
    "gemm head_splits": {"shape": {"m": 70, "n": 192, "k": 160}, "params": {"head_splits": [32, 16, 32]}},
    "hc_prenorm splits": {
        "shape": {"m": 70, "n": 150, "k": 256},
        "operands": {"a": {"recipe": "bfloat16"}, "b": {"recipe": "float32"}},
        "params": {"num_splits": 2},
        "arithmetic": "deep_gemm.sm90.hc_prenorm",
    },
    "mqa_logits": {
        "shape": {"s": 70, "h": 8, "d": 64, "t": 150},
        "operands": {},
        "arithmetic": "deep_gemm.sm90.mqa_logits",
    },
}


def sampled_of(name: str) -> tuple[Sampled, Answers, str]:
    """Return a sample's answers, the whole's, and the arithmetic of the case."""
    fields = {"id": "x", "why": "x", "op": name.split()[0], "operands": FP8, **CASES[name]}
    arithmetic = fields.pop("arithmetic", "deep_gemm.sm90.fp8_1d2d")
    case = Case.from_dict(fields)
    op, inputs = OPS[case.op], case.make_inputs()
    part = Part(np.array([0, 3, 63, 64, 69]), np.array([0, 127, 128, 149]))
    return Sampled(op, case, inputs, part), Answers(op, case, inputs), arithmetic


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exactly", [True, False])
def test_a_sample_is_a_part_of_the_whole(name: str, exactly: bool) -> None:
    sampled, whole, arithmetic = sampled_of(name)
    got = sampled.exact() if exactly else sampled.model(arithmetic)
    need = sampled.part(whole.exact() if exactly else whole.model(arithmetic))
    assert got.keys() == need.keys()
    for output, array in need.items():
        defined = sampled.defined().get(output, np.ones(array.shape, bool))
        bits = f"u{array.dtype.itemsize}"
        assert defined.any() and got[output].shape == array.shape
        assert np.array_equal(got[output].view(bits)[defined], array.view(bits)[defined])


@pytest.mark.parametrize("name", CASES)
def test_the_bound_of_a_sample_is_a_part_of_the_whole(name: str) -> None:
    sampled, whole, arithmetic = sampled_of(name)
    got, need = sampled.bound(arithmetic), sampled.part(whole.bound(arithmetic))
    for output, limits in need.items():
        defined = sampled.defined().get(output, np.ones(limits.shape, bool))
        for end in ("low", "high", "besides"):
            assert np.allclose(got[output][end][defined], limits[end][defined], equal_nan=True), (output, end)


def test_every_op_with_a_sampler_is_among_the_cases() -> None:
    assert {op.name for op in OPS.values() if op.sampler} == {name.split()[0] for name in CASES}


@pytest.mark.parametrize("extent", [1, 2, 3, 100, 128, 129, 4096, 24576])
def test_samples_hold_both_ends_and_the_edges_of_tiles(extent: int) -> None:
    chosen = sample(extent)
    assert len(chosen) <= 128 and len(set(chosen)) == len(chosen)
    for index in (0, extent - 1, 63, 64, 127, 128):
        assert index >= extent or index in chosen


def test_only_large_cases_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole, _ = sampled_of("mqa_logits")
    parts = whole.op, whole.case, whole.inputs
    assert type(answers_for(*parts)) is Answers
    monkeypatch.setattr(answers, "LARGE", whole.op.flops(whole.case, whole.inputs) // 2 - 1)
    assert answers_for(*parts).coverage() == {"judged": "70 rows"}
    _, whole, _ = sampled_of("gemm")
    assert answers_for(whole.op, whole.case, whole.inputs).coverage() == {"judged": "70 rows by 116 columns"}
