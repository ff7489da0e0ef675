"""Inspection: conventions are recognised, clean checkpoints stay clean, and every fault is named."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import dgref
from dgref.checkpoint import CONVENTIONS, FACTS, inspect, render, rendering
from dgref.checkpoint.__main__ import conventions_table, facts_table, targets_table
from dgref.checkpoint.checkpoint_facts import SURVEY_FACTS
from dgref.checkpoint.conversion import claim
from dgref.formats import LAYOUTS
from tests.checkpoint.makers import (
    MAKERS,
    Tensors,
    facts_of,
    model,
    nibbles,
    parts,
    save,
    save_folder,
    structured,
)

EVERY = pytest.mark.parametrize("name", list(CONVENTIONS))


def test_every_convention_has_a_maker():
    assert set(MAKERS) == set(CONVENTIONS)


@EVERY
def test_a_clean_checkpoint_is_recognised_and_nothing_is_wrong(tmp_path, name):
    inspection = inspect(save_folder(tmp_path / "model", [model(name)], claim(name)))
    assert inspection.convention == name
    assert inspection.conventions == {name: 8}
    assert inspection.plain == {"BF16": 4}
    assert inspection.findings == ()
    assert inspection.exit_code == 0
    assert inspection.targets, "somebody can take it"
    assert {tuple(row["shape"]) for row in inspection.tensors} == {(256, 512)}


@pytest.mark.parametrize("name", ["deepseek_v3_fp8", "compressed_tensors_fp8"])
def test_scales_stored_in_16_bits_must_be_cast_before_any_kernel_reads_them(tmp_path, name):
    tensors = MAKERS[name]("w", structured())
    (scale,) = [key for key in tensors if "_scale" in key]
    wide = inspect(save(tmp_path / "float32.safetensors", tensors)).targets
    tensors[scale] = ("BF16", (tensors[scale][1].view(np.uint32) >> 16).astype(np.uint16))
    narrow = inspect(save(tmp_path / "bfloat16.safetensors", tensors)).targets
    assert {row["backend"] for row in wide} == {row["backend"] for row in narrow}
    assert any(row["scales"] == "as it is" for row in wide) and not any("cast" in row["note"] for row in wide)
    assert not any(row["scales"] == "as it is" for row in narrow)
    assert all(row["note"].startswith("scales cast from BF16 to float32 first") for row in narrow)


@EVERY
def test_measured_magnitude_is_that_of_the_weights(tmp_path, name):
    weights = structured(128, 2048)  # as much as is sampled
    inspection = inspect(save(tmp_path / "one.safetensors", MAKERS[name]("w", weights)))
    root = float(np.sqrt(np.mean(np.square(weights.astype(np.float64)))))
    assert inspection.tensors[0]["root_mean_square"] == pytest.approx(root, rel=0.05)


@EVERY
def test_json_is_strict_and_rendering_names_the_convention(tmp_path, name):
    inspection = dgref.inspect(save(tmp_path / "one.safetensors", MAKERS[name]("w", structured())))
    data = json.loads(inspection.to_json(), parse_constant=lambda text: pytest.fail(text))
    assert data["convention"] == name
    console = Console(width=140, record=True, file=StringIO())
    console.print(render(inspection))
    assert name in console.export_text()


def test_deepseek_v4_mixes_two_conventions_and_is_clean(tmp_path):
    tensors: Tensors = {}
    for layer in range(2):
        tensors |= MAKERS["deepseek_v4_fp8"](f"layers.{layer}.attn.wq_a", structured(seed=layer))
        for expert in range(4):
            stem = f"layers.{layer}.ffn.experts.{expert}"
            tensors |= MAKERS["deepseek_v4_fp4"](f"{stem}.w1", structured(seed=10 * layer + expert))
        tensors[f"layers.{layer}.hc_attn_scale"] = ("F32", np.ones(3, np.float32))
    config = {**claim("deepseek_v4_fp8"), "text_config": {"expert_dtype": "fp4"}}
    inspection = inspect(save_folder(tmp_path / "m", [tensors], config))
    assert inspection.conventions == {"deepseek_v4_fp4": 8, "deepseek_v4_fp8": 2}
    assert inspection.findings == ()


def test_deepseek_v4_with_float32_scales_is_read_like_v3(tmp_path):
    tensors = {name.replace(".weight_scale_inv", ".scale"): tensor for name, tensor in model("deepseek_v3_fp8").items()}
    config = {**claim("deepseek_v3_fp8"), "expert_dtype": "fp8"}
    inspection = inspect(save_folder(tmp_path / "m", [tensors], config))
    assert (inspection.convention, inspection.findings) == ("deepseek_v3_fp8", ())


def test_plain_checkpoints_are_plain(tmp_path):
    inspection = inspect(save(tmp_path / "plain.safetensors", {"w.weight": ("F32", structured())}))
    assert (inspection.convention, inspection.conventions, inspection.exit_code) == ("plain", {}, 0)


def test_progress_rises_to_the_total(tmp_path):
    calls = []
    inspect(save(tmp_path / "m.safetensors", model("modelopt_nvfp4")), lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1][0] == calls[-1][1] > 0


# --- faults: how each is planted, and the fact that must name it -------------------------------------------------

GATE = "model.layers.1.mlp.gate_proj"


def _replaced(tensors: Tensors, suffix: str, change) -> None:
    dtype, array = tensors[GATE + suffix]
    result = change(array.copy())
    tensors[GATE + suffix] = result if isinstance(result, tuple) else (dtype, result)


def _swizzled(scales: np.ndarray) -> np.ndarray:
    return LAYOUTS["swizzle_128x4"].pack(scales).reshape(scales.shape)


def _poisoned(codes: np.ndarray) -> np.ndarray:
    codes[3, 5] = 0xFF
    return codes


def _one(value):
    def change(array):
        array.reshape(-1)[7] = value
        return array

    return change


def _float32_bytes(scales: np.ndarray) -> np.ndarray:
    """Return the bytes of float32 scales cut to the same size."""
    values = np.exp(np.random.default_rng(0).standard_normal(scales.size // 4) - 5).astype(np.float32)
    return values.view(np.uint8).reshape(scales.shape)


def _float32_powers(scales: np.ndarray) -> np.ndarray:
    values = np.exp2(np.random.default_rng(0).integers(-12, -6, scales.size // 4)).astype(np.float32)
    return values.view(np.uint8).reshape(scales.shape)


def _e4m3_bytes(scales: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).integers(0x20, 0x7F, scales.shape).astype(np.uint8)


FAULTS = {
    # fact: (convention, suffix, change, level)
    "payload_nan": ("deepseek_v3_fp8", ".weight", _poisoned, "contradiction"),
    "swizzled": ("modelopt_nvfp4", ".weight_scale", _swizzled, "contradiction"),
    "reciprocal_scale": ("modelopt_nvfp4", ".weight_scale_2", lambda a: 1 / a, "contradiction"),
    "scale_values/nan": ("deepseek_v3_fp8", ".weight_scale_inv", _one(np.nan), "contradiction"),
    "scale_values/negative": ("deepseek_v3_fp8", ".weight_scale_inv", _one(-1e-4), "contradiction"),
    "scale_values/infinite": ("deepseek_v3_fp8", ".weight_scale_inv", _one(np.inf), "contradiction"),
    "scale_values/e8m0": ("deepseek_v4_fp4", ".scale", _one(255), "contradiction"),
    "scale_values/zero": ("deepseek_v3_fp8", ".weight_scale_inv", _one(0), "suspicion"),
    "float32_read_as_bytes": ("deepseek_v4_fp4", ".scale", _float32_bytes, "contradiction"),
    "float32_read_as_bytes/powers": ("deepseek_v4_fp4", ".scale", _float32_powers, "contradiction"),
    "e4m3_read_as_e8m0": ("compressed_tensors_mxfp4", ".weight_scale", _e4m3_bytes, "contradiction"),
    "e8m0_read_as_e4m3": (
        "modelopt_nvfp4",
        ".weight_scale",
        lambda a: np.random.default_rng(0).integers(112, 126, a.shape).astype(np.uint8),
        "suspicion",
    ),
    "bytes_cast_to_floats": (
        "deepseek_v3_fp8",
        ".weight_scale_inv",
        lambda a: np.round(np.log2(a) + 127).astype(np.float32),
        "contradiction",
    ),
    "zero_bytes": ("deepseek_v4_fp8", ".scale", lambda a: a * 0, "contradiction"),
    "scale_dtype": ("modelopt_nvfp4", ".weight_scale", lambda a: ("U8", a), "contradiction"),
    "scale_shape/truncated": ("deepseek_v3_fp8", ".weight_scale_inv", lambda a: a[:1], "contradiction"),
    "scale_shape/granularity": (
        "modelopt_nvfp4",
        ".weight_scale",
        lambda a: np.ascontiguousarray(a[:, ::2]),
        "contradiction",
    ),
    "scale_shape/padded": (
        "deepseek_v4_fp4",
        ".scale",
        lambda a: np.pad(a, ((0, 128), (0, 0))),
        "contradiction",
    ),
    "input_scale": ("modelopt_nvfp4", ".input_scale", lambda a: -a, "contradiction"),
    "global_scale": ("modelopt_nvfp4", ".weight_scale_2", lambda a: a * np.nan, "contradiction"),
    "fused_global_scales": ("modelopt_nvfp4", ".weight_scale_2", lambda a: a * 1.5, "suspicion"),
    "magnitude": ("deepseek_v4_fp4", ".scale", lambda a: (a - 2).astype(np.uint8), "suspicion"),
    "nibble_order": ("deepseek_v4_fp4", ".weight", lambda a: a >> 4 | a << 4, "suspicion"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_every_fault_is_named(tmp_path, fault):
    convention, suffix, change, level = FAULTS[fault]
    tensors = model(convention)
    _replaced(tensors, suffix, change)
    inspection = inspect(save_folder(tmp_path / "model", [tensors], claim(convention)))
    found = [finding for finding in inspection.findings if finding.fact == fault.partition("/")[0]]
    assert found, [finding.fact for finding in inspection.findings]
    assert any(finding.level == level for finding in found)
    assert any(GATE.startswith(finding.subject) for finding in found)
    assert inspection.exit_code == (1 if facts_of(inspection) else 0)
    if level == "contradiction":
        assert inspection.exit_code == 1


def test_scales_that_are_not_powers_of_two_contradict_scale_fmt(tmp_path):
    config = claim("deepseek_v3_fp8")
    config["quantization_config"]["scale_fmt"] = "ue8m0"
    inspection = inspect(save_folder(tmp_path / "m", [model("deepseek_v3_fp8")], config))
    assert "power_of_two_claimed" in facts_of(inspection)


def test_missing_scales_and_orphans_are_contradictions(tmp_path):
    tensors = model("deepseek_v3_fp8")
    del tensors[f"{GATE}.weight_scale_inv"], tensors["model.layers.2.mlp.up_proj.weight"]
    found = facts_of(inspect(save_folder(tmp_path / "m", [tensors], claim("deepseek_v3_fp8"))))
    assert {"scale_missing", "orphan_scales"} <= found


def test_a_missing_global_scale_is_a_contradiction(tmp_path):
    tensors = model("modelopt_nvfp4")
    del tensors[f"{GATE}.weight_scale_2"]
    assert "scale_missing" in facts_of(inspect(save(tmp_path / "m.safetensors", tensors)))


@pytest.mark.parametrize(
    ("config", "fact"),
    [
        (claim("gpt_oss_mxfp4"), "claimed_convention"),
        ({"hidden_size": 512}, "claimed_convention"),
        (
            {"text_config": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 128]}}},
            "claimed_block",
        ),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 128]}}, "claimed_block"),
        (
            {
                "quantization_config": {
                    "quant_method": "fp8",
                    "config_groups": {"group_0": {"weights": {"block_structure": [64, 64]}}},
                }
            },
            "claimed_block",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": [GATE]}},
            "excluded_modules",
        ),
        ({"quantization_config": {"quant_method": "fp8", "ignore": ["model.layers.1.*"]}}, "excluded_modules"),
    ],
)
def test_configuration_that_contradicts_the_tensors_is_named(tmp_path, config, fact):
    inspection = inspect(save_folder(tmp_path / "m", [model("deepseek_v3_fp8")], config))
    assert fact in facts_of(inspection)
    assert inspection.exit_code == 1


def test_a_claim_without_quantised_weights_is_a_contradiction(tmp_path):
    tensors = {"w.weight": ("F32", structured())}
    assert "claimed_convention" in facts_of(inspect(save_folder(tmp_path / "m", [tensors], claim("modelopt_nvfp4"))))


def test_tails_are_a_note(tmp_path):
    inspection = inspect(save(tmp_path / "m.safetensors", MAKERS["deepseek_v3_fp8"]("w", structured(200, 576))))
    assert [(finding.level, finding.fact) for finding in inspection.findings] == [("note", "unaligned")]
    assert inspection.exit_code == 0


def test_three_dimensional_experts_are_read(tmp_path):
    weights = np.stack([structured(seed=seed) for seed in range(3)])
    data, scale, _ = parts(weights.reshape(-1, 512), "mxfp4")
    blocks, scales = data.reshape(3, 256, 16, 16), scale.reshape(3, 256, 16)
    inspection = inspect(save(tmp_path / "m.safetensors", {"e_blocks": ("U8", blocks), "e_scales": ("U8", scales)}))
    assert inspection.tensors[0]["shape"] == [3, 256, 512]
    assert inspection.findings == ()


def test_every_fact_says_what_it_is():
    assert all(fact.description.endswith(".") for fact in (*FACTS.values(), *SURVEY_FACTS.values()))


def test_the_documentation_lists_every_convention_and_fact_as_generated():
    text = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    assert conventions_table() in text
    assert facts_table() in text
    assert targets_table() in text


def test_nibbles_helper_puts_even_columns_low():
    assert nibbles(np.array([[1, 2]], np.uint8))[0, 0] == 0x21


@pytest.mark.parametrize(("count", "text"), [(131328, "131.33 kB"), (12, "12 bytes"), (95_000_000_000, "95.00 GB")])
def test_sizes_are_said_in_a_unit_that_shows_them(count: int, text: str) -> None:
    assert rendering._amount(count) == text


@pytest.mark.parametrize("shape", [(384, 256), (256, 512)])  # the second grid is also that of blocks of 64x256
def test_a_transposed_grid_of_scales_is_called_one(tmp_path, shape):
    payload, scale = MAKERS["deepseek_v3_fp8"]("w", structured(*shape)).items()
    turned = {payload[0]: payload[1], scale[0]: ("F32", np.ascontiguousarray(scale[1][1].T))}
    (found,) = inspect(save(tmp_path / "m.safetensors", turned)).findings
    assert found.fact == "scale_shape"
    assert found.fix == "the grid of blocks of 128x128 is transposed: store [rows, columns], as the payload is"
