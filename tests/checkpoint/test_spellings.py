"""How published checkpoints spell their conventions: recognised, or a note that says what is not read."""

from __future__ import annotations

import numpy as np
import pytest

from dgref.checkpoint import CONVENTIONS, inspect
from dgref.checkpoint.writer import Planned, write_file
from tests.checkpoint.makers import MAKERS, Tensors, facts_of, save, save_folder, structured


def _quantization(**table) -> dict:
    return {"quantization_config": table}


def _renamed(tensors: Tensors, changes: dict[str, tuple[str, str]]) -> Tensors:
    """Return tensors with other suffixes and dtypes, and the same bytes."""
    found = {}
    for name, (dtype, array) in tensors.items():
        suffix = name.removeprefix("w")
        new, kind = changes.get(suffix, (suffix, dtype))
        found["w" + new] = (kind, array)
    return found


_GROUP = {"group_0": {"weights": {"strategy": "block", "block_structure": [128, 128], "group_size": None}}}
SPELLINGS = {
    # how published checkpoints spell what the rows say: maker, suffix -> (suffix, dtype), configuration, convention
    "deepseek_v3": (
        "deepseek_v3_fp8",
        {},
        _quantization(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[128, 128]),
        "deepseek_v3_fp8",
    ),
    "ue8m0_as_uint8": (
        "deepseek_v4_fp8",
        {".scale": (".weight_scale_inv", "U8")},
        _quantization(quant_method="fp8", scale_fmt="ue8m0", weight_block_size=[128, 128]),
        "deepseek_v4_fp8",
    ),
    "gpt_oss_original": (
        "gpt_oss_mxfp4",
        {"_blocks": (".blocks", "U8"), "_scales": (".scales", "U8")},
        _quantization(quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "lm_head"]),
        "gpt_oss_mxfp4",
    ),
    "fp8_per_tensor": (
        "modelopt_fp8",
        {},
        _quantization(quant_method="fp8", activation_scheme="static"),
        "modelopt_fp8",
    ),
    "fp8_in_blocks_of_compressed_tensors": (
        "deepseek_v3_fp8",
        {".weight_scale_inv": (".weight_scale", "F32")},
        _quantization(quant_method="compressed-tensors", format="float-quantized", config_groups=_GROUP),
        "compressed_tensors_fp8",
    ),
    "fp8_per_row_of_modelopt": (
        "compressed_tensors_fp8",
        {},
        _quantization(quant_method="modelopt", quant_algo="FP8_PER_CHANNEL_PER_TOKEN"),
        "compressed_tensors_fp8",
    ),
    "fp8_in_blocks_of_modelopt": (
        "deepseek_v3_fp8",
        {},
        _quantization(quant_method="modelopt", quant_algo="FP8_PB_WO"),
        "deepseek_v3_fp8",
    ),
    "mxfp4_of_modelopt": (
        "compressed_tensors_mxfp4",
        {".weight_packed": (".weight", "U8")},
        _quantization(quant_method="modelopt", quant_algo="W4A8_MXFP4_FP8"),
        "quark_mxfp4",
    ),
}


@pytest.mark.parametrize("spelling", list(SPELLINGS))
def test_published_spellings_are_recognised(tmp_path, spelling):
    maker, changes, config, convention = SPELLINGS[spelling]
    tensors = _renamed(MAKERS[maker]("w", structured()), changes)
    inspection = inspect(save_folder(tmp_path / "m", [tensors], config))
    assert (inspection.convention, inspection.findings) == (convention, ())


def test_blocks_of_four_axes_are_the_grid_of_two(tmp_path):
    dtype, scale = (tensors := MAKERS["deepseek_v3_fp8"]("w", structured()))["w.weight_scale_inv"]
    tensors = {"w.weight": tensors["w.weight"], "w.weight_scale": (dtype, scale[:, None, :, None])}
    inspection = inspect(save(tmp_path / "m.safetensors", tensors))
    assert (inspection.tensors[0]["block"], inspection.findings) == ([128, 128], ())


@pytest.mark.parametrize("name", ["modelopt_nvfp4", "compressed_tensors_mxfp4", "deepseek_v4_fp4"])
def test_payloads_of_dtype_f4_mean_what_packed_bytes_do(tmp_path, name):
    tensors = MAKERS[name]("w", structured())
    suffix = CONVENTIONS[name].payload[0]
    packed = save(tmp_path / "packed.safetensors", tensors)
    path = tmp_path / "elements.safetensors"
    planned = [Planned(key, kind, array.shape, lambda a=array: [a]) for key, (kind, array) in tensors.items()]
    rows, columns = planned[0].shape
    planned[0] = Planned("w" + suffix, "F4", (rows, 2 * columns), planned[0].chunks)
    write_file(path, planned, {})
    first, second = inspect(packed), inspect(path)
    assert second.findings == first.findings == ()
    assert second.tensors[0]["shape"] == first.tensors[0]["shape"]
    assert second.tensors[0]["root_mean_square"] == first.tensors[0]["root_mean_square"]


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "fbgemm_fp8"])
def test_a_quantisation_that_is_not_known_is_a_note_and_not_silence(tmp_path, method):
    tensors = {"w.weight": ("F32", structured())}
    inspection = inspect(save_folder(tmp_path / "m", [tensors], _quantization(quant_method=method)))
    assert facts_of(inspection, "note") == {"unknown_claim"}
    assert f"got a claim of {method}, need one of compressed-tensors, fp8, modelopt" in inspection.findings[0].message
    assert inspection.exit_code == 0


@pytest.mark.parametrize("dtype", ["F8_E5M2", "F8_E4M3FNUZ"])
def test_narrow_floats_of_no_convention_are_a_note_with_their_scales(tmp_path, dtype):
    tensors = {"w.weight": (dtype, np.zeros((64, 64), np.uint8)), "w.weight_scale": ("F32", np.ones((), np.float32))}
    inspection = inspect(save(tmp_path / "m.safetensors", tensors))
    assert facts_of(inspection, "note") == {"unread", "orphan_scales"}
    assert inspection.exit_code == 0
