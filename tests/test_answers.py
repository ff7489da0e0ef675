"""A sample of a large product is judged by the same bits as the whole."""

from __future__ import annotations

import numpy as np
import pytest

from dgref.answers import CUTS, Answers, Sampled, answers_for, sample
from dgref.ops import OPS
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
}


def case_of(name: str) -> Case:
    return Case.from_dict({"id": "x", "why": "x", "op": name.split()[0], "operands": FP8, **CASES[name]})


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("arithmetic", ["exact", "deep_gemm.sm90.fp8_1d2d"])
def test_a_sample_is_a_part_of_the_whole(name: str, arithmetic: str) -> None:
    case = case_of(name)
    op, inputs = OPS[case.op], case.make_inputs()
    rows, columns = np.array([0, 3, 63, 64, 69]), np.array([0, 127, 128, 149])
    sampled, whole = Sampled(op, case, inputs, rows, columns), Answers(op, case, inputs)
    got, need = sampled.model(arithmetic)["d"], sampled.part(whole.model(arithmetic))["d"]
    defined = sampled.defined().get("d", np.ones(need.shape, bool))
    bits = f"u{got.dtype.itemsize}"
    assert np.array_equal(got.view(bits)[defined], need.view(bits)[defined])


@pytest.mark.parametrize("name", CASES)
def test_the_bound_of_a_sample_is_a_part_of_the_whole(name: str) -> None:
    case = case_of(name)
    op, inputs = OPS[case.op], case.make_inputs()
    sampled = Sampled(op, case, inputs, np.array([0, 60]), np.array([1, 140]))
    need = sampled.part(op.bound(case, inputs, "deep_gemm.sm90.fp8_1d2d"))["d"]
    got = sampled.bound("deep_gemm.sm90.fp8_1d2d")["d"]
    assert all(np.allclose(got[end], need[end]) for end in ("low", "high", "besides"))


@pytest.mark.parametrize("extent", [1, 2, 3, 100, 128, 129, 4096, 24576])
def test_samples_hold_both_ends_and_the_edges_of_tiles(extent: int) -> None:
    chosen = sample(extent)
    assert len(chosen) <= 128 and len(set(chosen)) == len(chosen)
    for index in (0, extent - 1, 63, 64, 127, 128):
        assert index >= extent or index in chosen


def test_only_large_products_are_sampled() -> None:
    small = case_of("gemm")
    assert type(answers_for(OPS["gemm"], small, small.make_inputs())) is Answers
    assert set(CUTS) <= set(OPS)
