"""Outputs of DeepGEMM and cuBLASLt recorded on an H200 come out of their arithmetic in every bit."""

from __future__ import annotations

import numpy as np
import pytest

from dgref.reference.arithmetic import ARITHMETICS
from dgref.reference.contraction import contract, finish
from dgref.reference.reductions import hc_square_sum, mqa_reduce
from tests.conftest import VECTORS, needs_vectors
from tests.reference.test_contraction import plain, scaled


def load(name):
    with np.load(VECTORS / "h200" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def bits_equal(actual, recorded):
    np.testing.assert_array_equal(np.ascontiguousarray(actual).view(recorded.dtype), recorded)


@needs_vectors
def test_deep_gemm_fp8_1d2d_in_every_bit():
    z = load("deep_gemm_fp8_1d2d")
    a, b = scaled(z["a"], z["sfa"], (1, 128)), scaled(z["b"], z["sfb"], (128, 128))
    bits_equal(finish(contract(a, b, "deep_gemm.sm90.fp8_1d2d"), out="bfloat16"), z["d"])


@needs_vectors
def test_deep_gemm_fp8_1d1d_in_every_bit():
    z = load("deep_gemm_fp8_1d1d")
    a, b = scaled(z["a"], z["sfa"], (1, 128)), scaled(z["b"], z["sfb"], (1, 128))
    bits_equal(contract(a, b, "deep_gemm.sm90.fp8_1d1d", c=np.zeros(z["d"].shape, np.float32)), z["d"])


@needs_vectors
def test_deep_gemm_bf16_in_every_bit():
    z = load("deep_gemm_bf16")
    bits_equal(contract(plain(z["a"], "bfloat16"), plain(z["b"], "bfloat16"), "deep_gemm.sm90.bf16"), z["d"])


@needs_vectors
def test_deep_gemm_hc_prenorm_in_every_bit():
    z = load("deep_gemm_tf32_hc_prenorm")
    a = plain(z["a"], "bfloat16")
    bits_equal(contract(a, plain(z["b"], "float32"), "deep_gemm.sm90.hc_prenorm"), z["d"])
    bits_equal(hc_square_sum(a)[0], z["s"])


@needs_vectors
def test_hc_prenorm_with_b_truncated_instead_of_rounded_matches_nowhere():
    z = load("deep_gemm_tf32_hc_prenorm")
    truncating = ARITHMETICS["deep_gemm.sm90.hc_prenorm"].but(round_b=None)
    result = contract(plain(z["a"], "bfloat16"), plain(z["b"], "float32"), truncating)
    assert (result.view(np.uint32) == z["d"]).mean() < 0.02


@needs_vectors
def test_deep_gemm_mqa_logits_in_every_bit():
    z = load("deep_gemm_mqa_logits")
    scores = contract(plain(z["q"]), plain(z["kv"]), "deep_gemm.sm90.mqa_logits")
    bits_equal(mqa_reduce(scores, z["weights"], z["kv_scale"]), z["logits"])


@needs_vectors
@pytest.mark.parametrize(("key", "name"), [("d_fast", "cublaslt.fp8_fast"), ("d_precise", "cublaslt.fp8_promote128")])
def test_cublaslt_tensorwise_in_every_bit(key, name):
    z = load("cublaslt_fp8_tensorwise")
    bits_equal(contract(plain(z["a"]), plain(z["b"]), name), z[key])


@needs_vectors
def test_cublaslt_splits_a_long_k_in_two_halves():
    z = load("cublaslt_fp8_tensorwise_k7168")
    a, b = plain(z["a"]), plain(z["b"])
    bits_equal(contract(a, b, ARITHMETICS["cublaslt.fp8_fast"].but(splits=2, split_unit=128)), z["d_fast"])
    bits_equal(contract(a, b, "cublaslt.fp8_promote128"), z["d_precise"])
