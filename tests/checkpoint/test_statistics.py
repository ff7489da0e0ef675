"""What statistics betray of a weight, and where they must stay silent."""

from __future__ import annotations

import numpy as np
import pytest

import dgref
from dgref.checkpoint import inspect
from tests.checkpoint.makers import MAKERS, Tensors, facts_of, modelopt_nvfp4, parts, save, structured


@pytest.mark.parametrize("recipe", [name for name in dgref.RECIPES if name.startswith("mxfp4")])
def test_no_scaling_rule_is_taken_for_another_granularity(tmp_path, recipe):
    data, scale, _ = parts(structured(512, 1024), recipe)
    tensors = {"w.weight_packed": ("U8", data), "w.weight_scale": ("U8", scale)}
    assert inspect(save(tmp_path / "m.safetensors", tensors)).findings == ()


def test_a_payload_that_never_reaches_the_top_binade_is_suspected(tmp_path):
    tensors = MAKERS["deepseek_v3_fp8"]("w", structured())
    dtype, codes = tensors["w.weight"]
    tensors["w.weight"] = (dtype, np.where((codes & 0x7F) > 0x6F, codes - 0x10, codes).astype(np.uint8))
    assert "unused_range" in facts_of(inspect(save(tmp_path / "m.safetensors", tensors)), "suspicion")


@pytest.mark.parametrize("recipe", ["mxfp4", "mxfp4/torchao_rceil"])
def test_a_payload_scaled_by_wider_blocks_than_claimed_is_suspected(tmp_path, recipe):
    data, scale, _ = parts(structured(512, 1024), recipe)
    narrow = np.repeat(dgref.FORMATS["float8_e4m3fn"].encode(np.exp2(scale - 120.0)), 2, axis=1)
    tensors = modelopt_nvfp4("w", structured(512, 1024))
    tensors["w.weight"], tensors["w.weight_scale"] = ("U8", data), ("F8_E4M3", narrow)
    inspection = inspect(save(tmp_path / "m.safetensors", tensors))
    assert "granularity" in facts_of(inspection, "suspicion")
    assert any("blocks of 32" in finding.fix for finding in inspection.findings)


def test_a_payload_scaled_by_narrower_blocks_than_claimed_is_suspected(tmp_path):
    data, scale, _ = parts(structured(512, 1024), "nvfp4")
    bytes_ = np.clip(np.log2(dgref.FORMATS["float8_e4m3fn"].decode(scale[:, ::2])) + 110, 1, 250).astype(np.uint8)
    tensors = {"w.weight_packed": ("U8", data), "w.weight_scale": ("U8", bytes_)}
    inspection = inspect(save(tmp_path / "m.safetensors", tensors))
    assert "granularity" in facts_of(inspection, "suspicion")


def test_iid_random_weights_raise_no_statistical_alarm(tmp_path):
    tensors: Tensors = {}
    for seed in range(6):
        weights = np.random.default_rng(seed).standard_normal((256, 256)).astype(np.float32)
        tensors |= {key: value for key, value in modelopt_nvfp4(f"layers.{seed}.a_proj", weights).items()}
        tensors |= MAKERS["compressed_tensors_mxfp4"](f"layers.{seed}.b_proj", weights)
        tensors |= MAKERS["deepseek_v3_fp8"](f"layers.{seed}.c_proj", weights)
    assert inspect(save(tmp_path / "m.safetensors", tensors)).findings == ()
