"""The scores of other projects, against their own formulas, and the faults that they let through."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dgref.compare.comparison import compare

GENERATOR = np.random.default_rng(0)
EXPECTED = GENERATOR.standard_normal((512, 1024)).astype(np.float32)


def scores(actual, expected=EXPECTED):
    return compare(actual.astype(expected.dtype), expected).metrics


def test_scores_follow_their_formulas_across_chunks(monkeypatch):
    monkeypatch.setattr("dgref.compare.metrics.CHUNK", 1000)
    actual = EXPECTED * np.float32(1.01) + np.float32(1e-3)
    found = scores(actual)
    x, y = torch.from_numpy(actual).double().flatten(), torch.from_numpy(EXPECTED).double().flatten()
    assert found.calc_diff == pytest.approx(float(1 - 2 * (x @ y) / (x @ x + y @ y)), rel=1e-9)
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(x, y, dim=0)), rel=1e-12)
    assert found.sqnr_db == pytest.approx(float(10 * torch.log10((y @ y) / ((x - y) @ (x - y)))), rel=1e-12)
    assert found.max_absolute == float((x - y).abs().max())
    assert found.mean_relative == pytest.approx(float((x - y).abs().sum() / y.abs().sum()), rel=1e-12)
    failing = ((x - y).abs() > 1e-2) & ((x - y).abs() / (y.abs() + 1e-8) > 1e-2)
    assert found.flashinfer_bench == pytest.approx(1 - float(failing.double().mean()))


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-6, 1 + 1e-5])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_allclose_is_torchs(factor, dtype):
    expected = EXPECTED.astype(dtype)
    actual = (expected * factor).astype(dtype)
    try:
        torch.testing.assert_close(torch.from_numpy(actual), torch.from_numpy(expected))
        close = True
    except AssertionError:
        close = False
    assert compare(actual, expected).metrics.allclose == close


def test_calc_diff_lets_a_gain_and_a_zeroed_row_through():
    zeroed = EXPECTED.copy()
    zeroed[7] = 0
    assert scores(EXPECTED * 1.04).calc_diff < 1e-3 and scores(zeroed).calc_diff < 1e-3
    assert compare(zeroed, EXPECTED).where.description == "row 7"


def test_cosine_lets_any_gain_and_fifteen_zeroed_rows_through():
    zeroed = EXPECTED.copy()
    zeroed[40:55] = 0
    assert scores(EXPECTED * 8).cosine > 0.97 and scores(zeroed).cosine > 0.97


def test_nan_makes_scores_nan_and_json_none():
    broken = EXPECTED.copy()
    broken[0, 0] = np.nan
    found = scores(broken)
    assert math.isnan(found.calc_diff) and math.isnan(found.cosine) and math.isnan(found.sqnr_db) and not found.allclose
    assert found.to_dict()["calc_diff"] is None


def test_nothing_and_zeros_agree_perfectly():
    for empty in (np.zeros((0, 3), np.float32), np.zeros((2, 3), np.float32)):
        found = compare(empty, empty).metrics
        assert (found.calc_diff, found.cosine, found.sqnr_db, found.flashinfer_bench) == (0, 1, math.inf, 1)
