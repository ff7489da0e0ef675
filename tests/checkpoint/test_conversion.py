"""Conversion: what is lossless keeps every value, what is not is refused, and nothing half-done stays."""

from __future__ import annotations

import json
from itertools import permutations, product

import ml_dtypes
import numpy as np
import pytest

import dgref
from dgref.checkpoint import CONVENTIONS, convert, inspect
from dgref.checkpoint.conversion import claim
from dgref.checkpoint.decode import samples, table, unpacked, whole_grid
from dgref.checkpoint.reading import AMOUNTS, Reader
from dgref.checkpoint.source import open_source
from dgref.checkpoint.statistics import measure, multiplier
from dgref.checkpoint.weights import find_weights
from dgref.errors import DgrefError, FileError, InputError, UnknownNameError
from dgref.formats import LAYOUTS
from tests.checkpoint.makers import MAKERS, Tensors, modelopt_nvfp4, save, save_folder, structured

LOSSLESS = {
    ("deepseek_v4_fp8", "deepseek_v3_fp8"),
    *permutations(("gpt_oss_mxfp4", "deepseek_v4_fp4", "compressed_tensors_mxfp4", "quark_mxfp4"), 2),
    ("modelopt_fp8", "compressed_tensors_fp8"),
    ("deepseek_v3_fp8", "compressed_tensors_fp8"),
    ("deepseek_v4_fp8", "compressed_tensors_fp8"),
}
# One scale for a whole float8 tensor: without a configuration, nothing tells the two conventions apart.
SPELLED_ALIKE = {("modelopt_fp8", "compressed_tensors_fp8"): ("modelopt_fp8",)}


def values_of(path) -> dict[str, np.ndarray]:
    """Return every quantised weight of a checkpoint, dequantised in float64."""
    weights, _ = find_weights(open_source(path), set())
    with Reader() as reader:
        return {weight.name: dequantised(weight, reader) for weight in weights}


def dequantised(weight, reader) -> np.ndarray:
    raw = reader.read(weight.payload).reshape(*weight.shape[:-1], -1)
    codes = unpacked(raw) if weight.convention.packing == 2 else raw
    grid = whole_grid(weight, reader)
    rows, columns = (n if b == 0 else b for b, n in zip(weight.block, weight.shape[-2:], strict=True))
    scale = np.repeat(np.repeat(grid, rows, axis=-2), columns, axis=-1).astype(np.float64)
    scale = scale.reshape(*weight.shape[:-2], *scale.shape[-2:])[..., : weight.shape[-2], : weight.shape[-1]]
    return table(weight.convention.format)[codes] * scale * multiplier(weight, measure(weight, reader, AMOUNTS["all"]))


def read(entry) -> np.ndarray:
    with Reader() as reader:
        return reader.read(entry)


def exact_globals(tensors: Tensors) -> Tensors:
    """Make global scales powers of two, whose reciprocals are exact."""
    for name, (dtype, array) in tensors.items():
        if "scale_2" in name or "global" in name:
            tensors[name] = (dtype, np.exp2(np.round(np.log2(array))).astype(np.float32))
    return tensors


@pytest.mark.parametrize(("here", "there"), list(product(CONVENTIONS, CONVENTIONS)))
def test_conversion_keeps_every_value_or_says_why_it_cannot(tmp_path, here, there):
    path = save(tmp_path / "in.safetensors", MAKERS[here]("layers.0.w", structured(256, 256)))
    out = tmp_path / "out.safetensors"
    if here != there and (here, there) not in LOSSLESS:
        with pytest.raises(InputError, match="need"):
            convert(path, out, to=there)
        assert [file.name for file in tmp_path.iterdir()] == ["in.safetensors"]
        return
    done = convert(path, out, to=there)
    assert done.converted == 1
    before, after = values_of(path), values_of(out)
    np.testing.assert_array_equal(after["layers.0.w"], before["layers.0.w"])
    found = inspect(out)
    assert found.convention in (there, *SPELLED_ALIKE.get((here, there), ()))
    assert found.exit_code == 0


@pytest.mark.parametrize(
    ("here", "there"),
    [("modelopt_nvfp4", "compressed_tensors_nvfp4"), ("compressed_tensors_nvfp4", "modelopt_nvfp4")],
)
def test_nvfp4_conventions_convert_where_the_reciprocal_is_exact(tmp_path, here, there):
    path = save(tmp_path / "in.safetensors", exact_globals(MAKERS[here]("w", structured(256, 256))))
    convert(path, tmp_path / "out.safetensors", to=there)
    np.testing.assert_array_equal(values_of(tmp_path / "out.safetensors")["w"], values_of(path)["w"])


def test_float32_scales_that_are_powers_of_two_become_ue8m0(tmp_path):
    convert(
        save(tmp_path / "a.safetensors", MAKERS["deepseek_v4_fp8"]("w", structured())),
        tmp_path / "b.safetensors",
        to="deepseek_v3_fp8",
    )
    convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", to="deepseek_v4_fp8")
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.parametrize(("name", "to"), [("deepseek_v4_fp4", "bfloat16"), ("deepseek_v4_fp8", "float32")])
def test_plain_floats_hold_power_of_two_scales_exactly(tmp_path, name, to):
    path = save(tmp_path / "in.safetensors", MAKERS[name]("w", structured()))
    convert(path, tmp_path / "out.safetensors", to=to)
    source = open_source(tmp_path / "out.safetensors")
    raw = read(source.tensors["w.weight"])
    plain = raw.view(ml_dtypes.bfloat16 if to == "bfloat16" else np.float32).astype(np.float64).reshape(256, 512)
    np.testing.assert_array_equal(plain, values_of(path)["w"])


def test_a_refusal_is_bad_input_and_spells_the_blocks(tmp_path):
    path = save(tmp_path / "in.safetensors", MAKERS["modelopt_fp8"]("w", structured(256, 256)))
    words = "w: got one scale for the whole weight, need deepseek_v3_fp8: a scale a 128x128"
    with pytest.raises(InputError, match=words) as caught:
        convert(path, tmp_path / "out.safetensors", to="deepseek_v3_fp8")
    assert caught.value.exit_code == 2


def test_plain_floats_that_would_round_are_refused_and_nothing_is_left(tmp_path):
    path = save(tmp_path / "in.safetensors", MAKERS["deepseek_v3_fp8"]("w", structured()))
    with pytest.raises(InputError, match="one that float32 holds"):
        convert(path, tmp_path / "out.safetensors", to="float32")
    assert [file.name for file in tmp_path.iterdir()] == ["in.safetensors"]


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("modelopt_nvfp4", "swizzle_128x4"),
        ("modelopt_nvfp4", "swizzle_8x4"),
        ("modelopt_nvfp4", "shuffle_rows_32_swizzle_128x4"),
        ("deepseek_v4_fp4", "packed_ue8m0"),
        ("deepseek_v4_fp4", "mega_moe_l1_scale"),
        ("deepseek_v4_fp8", "packed_ue8m0_broadcast_128"),
        ("deepseek_v3_fp8", "linear_padded_4"),
        ("compressed_tensors_mxfp4", "swizzle_128x4"),
    ],
)
def test_layouts_go_there_and_back_bit_for_bit(tmp_path, name, layout):
    path = save(tmp_path / "in.safetensors", MAKERS[name]("w", structured(384, 320)))
    convert(path, tmp_path / "there.safetensors", layout=layout)
    there = inspect(tmp_path / "there.safetensors")
    assert there.convention == name
    assert there.exit_code == 0, there.findings
    np.testing.assert_array_equal(values_of(tmp_path / "there.safetensors")["w"], values_of(path)["w"])
    convert(tmp_path / "there.safetensors", tmp_path / "back.safetensors", layout="linear")
    before, after = open_source(path), open_source(tmp_path / "back.safetensors")
    for entry in before.tensors.values():
        same = read(entry), read(after.tensors[entry.name])
        np.testing.assert_array_equal(*same)
        assert after.tensors[entry.name].dtype == entry.dtype


def test_a_layout_that_the_scales_cannot_take_is_refused(tmp_path):
    path = save(tmp_path / "in.safetensors", modelopt_nvfp4("w", structured()))
    for layout, match in (("packed_ue8m0", "UE8M0"), ("packed_ue8m0_psum", "ends"), ("mn_major_tma", "float32")):
        with pytest.raises(DgrefError, match=match):
            convert(path, tmp_path / "out.safetensors", layout=layout)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_folder_converts_whole_with_index_configuration_and_the_rest(tmp_path):
    shards = [MAKERS["deepseek_v4_fp4"](f"layers.{i}.w", structured(seed=i)) for i in range(2)]
    shards[0]["norm.weight"] = ("F32", np.ones(512, np.float32))
    folder = save_folder(tmp_path / "in", shards, {"hidden_size": 512, **claim("deepseek_v4_fp4")})
    (folder / "tokenizer.json").write_text("{}")
    done = convert(folder, tmp_path / "out", to="compressed_tensors_mxfp4")
    assert (done.converted, done.copied) == (2, 1)
    inspection = inspect(tmp_path / "out")
    assert inspection.convention == "compressed_tensors_mxfp4"
    assert inspection.findings == ()
    assert inspection.plain == {"F32": 1}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["hidden_size"] == 512
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_a_checkpoint_of_which_only_a_part_could_follow_is_refused(tmp_path):
    tensors = MAKERS["deepseek_v4_fp4"]("a", structured()) | MAKERS["deepseek_v4_fp8"]("b", structured())
    with pytest.raises(InputError, match="1 of 2 weights"):
        convert(save(tmp_path / "in.safetensors", tensors), tmp_path / "out", to="compressed_tensors_mxfp4")


def test_nothing_is_overwritten_and_arguments_are_checked(tmp_path):
    path = save(tmp_path / "in.safetensors", modelopt_nvfp4("w", structured()))
    with pytest.raises(FileError, match="nothing is overwritten"):
        convert(path, path, layout="swizzle_128x4")
    with pytest.raises(InputError, match="exactly one"):
        convert(path, tmp_path / "out")
    with pytest.raises(UnknownNameError, match="modelopt_nvfp4"):
        convert(path, tmp_path / "out", to="modelopt_nvfp5")
    with pytest.raises(UnknownNameError, match="swizzle_128x4"):
        convert(path, tmp_path / "out", layout="swizzle_128x5")


def test_written_files_are_read_by_the_safetensors_library(tmp_path):
    from safetensors import safe_open

    convert(
        save(tmp_path / "in.safetensors", modelopt_nvfp4("w", structured())),
        tmp_path / "out.safetensors",
        layout="swizzle_128x4",
    )
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        scale = file.get_tensor("w.weight_scale").view(dtype=__import__("torch").uint8).numpy()
        assert file.metadata()["dgref.scale_layout"] == "swizzle_128x4"
    tensor = dgref.quantize(structured(), "nvfp4")
    np.testing.assert_array_equal(scale, LAYOUTS["swizzle_128x4"].pack(np.asarray(tensor.scale)))


def test_samples_agree_with_the_whole_weight(tmp_path):
    path = save(tmp_path / "in.safetensors", MAKERS["compressed_tensors_mxfp4"]("w", structured(128, 96)))
    (weight,), _ = find_weights(open_source(path), set())
    with Reader() as reader:
        taken = [part.payload.astype(np.float64) * part.scale for part in samples(weight, reader, AMOUNTS["all"])]
    np.testing.assert_array_equal(np.concatenate(taken), values_of(path)["w"])


@pytest.mark.parametrize("how", [{"to": "float32"}, {"to": "compressed_tensors_fp8"}, {"layout": "swizzle_128x4"}])
def test_scales_of_a_type_that_the_convention_lacks_are_refused(tmp_path, how):
    payload, scale = MAKERS["deepseek_v3_fp8"]("w", structured()).items()
    wide = {payload[0]: payload[1], scale[0]: ("F64", scale[1][1].astype(np.float64))}
    with pytest.raises(InputError, match="got scales of F64, need a weight that inspects without contradiction"):
        convert(save(tmp_path / "m.safetensors", wide), tmp_path / "o.safetensors", **how)
