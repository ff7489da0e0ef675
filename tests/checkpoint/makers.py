"""Small checkpoints in every convention, made by dgref's own quantisers and written by its own writer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

import dgref
from dgref.checkpoint.writer import Planned, write_file

Tensor = tuple[str, np.ndarray]  # safetensors dtype, and an array whose bytes are the data
Tensors = dict[str, Tensor]


def structured(rows: int = 256, columns: int = 512, seed: int = 0, level: float = 0.02) -> np.ndarray:
    """Return weights as trained ones are: rows differ in size, and so do columns, which depend on the width only."""
    generator = np.random.default_rng(seed)
    channels = np.exp(np.random.default_rng(columns).standard_normal(columns) * 0.4)
    outputs = np.exp(generator.standard_normal((rows, 1)) * 0.5)
    return (generator.standard_normal((rows, columns)) * outputs * channels * level).astype(np.float32)


def nibbles(codes: np.ndarray) -> np.ndarray:
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)


def parts(weights: np.ndarray, recipe: str) -> tuple[np.ndarray, np.ndarray, float | None]:
    tensor = dgref.quantize(weights, recipe)
    data = np.asarray(tensor.data)
    data = nibbles(data) if tensor.format == "float4_e2m1fn" else data
    total = None if tensor.global_scale is None else float(np.asarray(tensor.global_scale).reshape(-1)[0])
    return data, np.asarray(tensor.scale), total


def one(value: float, shape: tuple[int, ...] = ()) -> Tensor:
    return "F32", np.full(shape, value, np.float32)


def deepseek_v3_fp8(name: str, weights: np.ndarray) -> Tensors:
    data, scale, _ = parts(weights, "deepseek_fp8_weight")
    return {f"{name}.weight": ("F8_E4M3", data), f"{name}.weight_scale_inv": ("F32", scale)}


def deepseek_v4_fp8(name: str, weights: np.ndarray) -> Tensors:
    data, scale, _ = parts(weights, "deepseek_fp8_weight_ue8m0")
    return {f"{name}.weight": ("F8_E4M3", data), f"{name}.scale": ("F8_E8M0", scale)}


def deepseek_v4_fp4(name: str, weights: np.ndarray) -> Tensors:
    data, scale, _ = parts(weights, "mxfp4")
    return {f"{name}.weight": ("I8", data), f"{name}.scale": ("F8_E8M0", scale)}


def gpt_oss_mxfp4(name: str, weights: np.ndarray) -> Tensors:
    data, scale, _ = parts(weights, "mxfp4")
    return {f"{name}_blocks": ("U8", data.reshape(*scale.shape, 16)), f"{name}_scales": ("U8", scale)}


def modelopt_nvfp4(name: str, weights: np.ndarray) -> Tensors:
    data, scale, total = parts(weights, "nvfp4")
    rows = {"weight": ("U8", data), "weight_scale": ("F8_E4M3", scale)}
    rows |= {"weight_scale_2": one(total), "input_scale": one(0.0078125)}
    return {f"{name}.{key}": value for key, value in rows.items()}


def modelopt_fp8(name: str, weights: np.ndarray) -> Tensors:
    data, scale, _ = parts(weights, "per_tensor_fp8")
    return {f"{name}.weight": ("F8_E4M3", data), f"{name}.weight_scale": ("F32", scale.reshape(()))}


def compressed_tensors_nvfp4(name: str, weights: np.ndarray) -> Tensors:
    data, scale, total = parts(weights, "nvfp4/compressed_tensors")
    rows = {"weight_packed": ("U8", data), "weight_scale": ("F8_E4M3", scale)}
    return {f"{name}.{key}": value for key, value in (rows | {"weight_global_scale": one(total, (1,))}).items()}


def compressed_tensors_mxfp4(name: str, weights: np.ndarray) -> Tensors:
    data, scale, _ = parts(weights, "mxfp4")
    return {f"{name}.weight_packed": ("U8", data), f"{name}.weight_scale": ("U8", scale)}


def quark_mxfp4(name: str, weights: np.ndarray) -> Tensors:
    data, scale, _ = parts(weights, "mxfp4")
    return {f"{name}.weight": ("U8", data), f"{name}.weight_scale": ("U8", scale)}


def compressed_tensors_mxfp8(name: str, weights: np.ndarray) -> Tensors:
    data, scale, _ = parts(weights, "mxfp8")
    return {f"{name}.weight": ("F8_E4M3", data), f"{name}.weight_scale": ("U8", scale)}


def compressed_tensors_fp8(name: str, weights: np.ndarray) -> Tensors:
    data, scale, _ = parts(weights, "per_row_fp8")
    return {f"{name}.weight": ("F8_E4M3", data), f"{name}.weight_scale": ("F32", scale)}


MAKERS: dict[str, Callable[[str, np.ndarray], Tensors]] = {
    function.__name__: function
    for function in (
        deepseek_v3_fp8,
        deepseek_v4_fp8,
        deepseek_v4_fp4,
        gpt_oss_mxfp4,
        modelopt_nvfp4,
        modelopt_fp8,
        compressed_tensors_nvfp4,
        compressed_tensors_mxfp4,
        quark_mxfp4,
        compressed_tensors_mxfp8,
        compressed_tensors_fp8,
    )
}


def model(name: str, layers: int = 4) -> Tensors:
    """Return a few layers with gate and up projections that share one global scale, and a router."""
    tensors: Tensors = {}
    for layer in range(layers):
        stem = f"model.layers.{layer}.mlp"
        for number, part in enumerate(("gate_proj", "up_proj")):
            weights = structured(seed=10 * layer + number)
            weights[0, 0] = 1.0  # the same largest weight, so the same global scale
            tensors |= MAKERS[name](f"{stem}.{part}", np.clip(weights, -1, 1))
        router = structured(64, seed=99 + layer).astype(ml_dtypes.bfloat16)
        tensors[f"{stem}.router.weight"] = ("BF16", router.view(np.uint16))
    return tensors


def facts_of(inspection, level: str = "contradiction") -> set[str]:
    """Return the names of the facts that an inspection states at a level."""
    return {finding.fact for finding in inspection.findings if finding.level == level}


def save(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    """Write one file."""
    planned = [Planned(name, dtype, array.shape, lambda a=array: [a]) for name, (dtype, array) in tensors.items()]
    write_file(path, planned, metadata or {})
    return path


def save_folder(folder: Path, shards: list[Tensors], config: dict | None = None) -> Path:
    """Write shards with an index, and a config."""
    folder.mkdir(exist_ok=True)
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, tensors in zip(names, shards, strict=True):
        save(folder / name, tensors)
    index = {"weight_map": {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
