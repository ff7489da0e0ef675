"""How libraries name and scale quantised weights: one row each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from dgref.formats.scaling import FULL
from dgref.registry import Registry

Block = tuple[int, int]


@dataclass(frozen=True)
class Convention:
    """Names, dtypes and arithmetic of one way to store a quantised weight.

    A weight is `stem + payload suffix`; its scales are `stem + scale suffix`. `blocks` are the granularities that
    occur, rows x columns. The value is payload x scale, then times or divided by the global scale.
    """

    name: str
    description: str
    source: str
    format: str
    payload: tuple[str, ...]
    payload_dtypes: tuple[str, ...]
    scale: tuple[str, ...]
    scale_dtypes: tuple[str, ...]
    scale_format: str
    blocks: tuple[Block, ...]
    signatures: tuple[str, ...]
    global_scale: str = ""
    global_rule: Literal["none", "multiply", "divide"] = "none"
    input_scale: str = ""
    grouped: bool = False  # the payload's last two axes are [K / block, bytes of a block]

    @property
    def packing(self) -> int:
        """Elements in a byte of payload."""
        return 2 if self.format == "float4_e2m1fn" else 1

    def logical_shape(self, stored: tuple[int, ...], dtype: str) -> tuple[int, ...]:
        """Return the shape in elements of a payload stored under this convention; F4 is counted in elements already."""
        if dtype == "F4":
            return stored
        if self.grouped and len(stored) >= 2:
            stored = (*stored[:-2], stored[-2] * stored[-1])
        return (*stored[:-1], stored[-1] * self.packing) if stored else stored

    def scale_shape(self, logical: tuple[int, ...], block: Block) -> tuple[int, ...]:
        """Return the grid of scales of a weight."""
        extents = zip(logical[-2:], block, strict=True)
        return (*logical[:-2], *(1 if size == FULL else -(-extent // size) for extent, size in extents))


CONVENTIONS: Registry[Convention] = Registry(
    "checkpoint convention",
    [
        Convention(
            "deepseek_v3_fp8",
            "float8_e4m3fn with float32 scales of 128x128 blocks, multiplied despite the name weight_scale_inv",
            "deepseek-ai/DeepSeek-V3 README_WEIGHTS.md",
            "float8_e4m3fn",
            (".weight",),
            ("F8_E4M3",),
            (".weight_scale_inv", ".scale"),
            ("F32", "BF16"),
            "float32",
            ((128, 128),),
            ("modelopt/FP8_PB_WO", "fp8"),
        ),
        Convention(
            "deepseek_v4_fp8",
            "float8_e4m3fn with UE8M0 scales of 128x128 blocks (32x32 occurs)",
            "deepseek-ai/DeepSeek-V4 config.json: scale_fmt ue8m0; vllm models/deepseek_v4/quant_config.py",
            "float8_e4m3fn",
            (".weight",),
            ("F8_E4M3",),
            (".scale", ".weight_scale_inv"),
            ("F8_E8M0", "U8"),
            "float8_e8m0fnu",
            ((128, 128), (32, 32)),
            ("fp8", "fp8/ue8m0"),
        ),
        Convention(
            "deepseek_v4_fp4",
            "float4_e2m1fn pairs in int8, low nibble first, with UE8M0 scales of 32 along K",
            "deepseek-ai/DeepSeek-V4 config.json: expert_dtype fp4",
            "float4_e2m1fn",
            (".weight",),
            ("I8", "F4"),
            (".scale", ".weight_scale_inv"),
            ("F8_E8M0", "U8"),
            "float8_e8m0fnu",
            ((1, 32),),
            ("fp8", "fp8/fp4"),
        ),
        Convention(
            "gpt_oss_mxfp4",
            "float4_e2m1fn pairs in uint8 as [..., K/32, 16], low nibble first, with UE8M0 bytes [..., K/32]",
            "openai/gpt-oss torch/weights.py; transformers integrations/mxfp4.py",
            "float4_e2m1fn",
            ("_blocks", ".blocks"),
            ("U8",),
            ("_scales", ".scales"),
            ("U8", "F8_E8M0"),
            "float8_e8m0fnu",
            ((1, 32),),
            ("mxfp4",),
            grouped=True,
        ),
        Convention(
            "modelopt_nvfp4",
            "float4_e2m1fn pairs in uint8, linear float8_e4m3fn scales of 16 along K, times weight_scale_2",
            "NVIDIA/Model-Optimizer qtensor/nvfp4_tensor.py and export/quant_utils.py",
            "float4_e2m1fn",
            (".weight",),
            ("U8", "F4"),
            (".weight_scale",),
            ("F8_E4M3",),
            "float8_e4m3fn",
            ((1, 16),),
            ("modelopt/NVFP4", "modelopt/MIXED_PRECISION"),
            global_scale=".weight_scale_2",
            global_rule="multiply",
            input_scale=".input_scale",
        ),
        Convention(
            "modelopt_fp8",
            "float8_e4m3fn with one float32 scale",
            "NVIDIA/Model-Optimizer export/quant_utils.py",
            "float8_e4m3fn",
            (".weight",),
            ("F8_E4M3",),
            (".weight_scale",),
            ("F32",),
            "float32",
            ((FULL, FULL),),
            ("modelopt/FP8", "modelopt/MIXED_PRECISION", "fp8"),
            input_scale=".input_scale",
        ),
        Convention(
            "compressed_tensors_nvfp4",
            "float4_e2m1fn pairs in weight_packed, float8_e4m3fn scales of 16 along K, divided by weight_global_scale",
            "vllm-project/compressed-tensors compressors/nvfp4",
            "float4_e2m1fn",
            (".weight_packed",),
            ("U8", "F4"),
            (".weight_scale",),
            ("F8_E4M3",),
            "float8_e4m3fn",
            ((1, 16),),
            ("compressed-tensors/nvfp4-pack-quantized",),
            global_scale=".weight_global_scale",
            global_rule="divide",
            input_scale=".input_global_scale",
        ),
        Convention(
            "compressed_tensors_mxfp4",
            "float4_e2m1fn pairs in weight_packed with UE8M0 bytes of 32 along K",
            "vllm-project/compressed-tensors compressors/mxfp4",
            "float4_e2m1fn",
            (".weight_packed",),
            ("U8", "F4"),
            (".weight_scale",),
            ("U8", "F8_E8M0"),
            "float8_e8m0fnu",
            ((1, 32),),
            ("compressed-tensors/mxfp4-pack-quantized",),
        ),
        Convention(
            "quark_mxfp4",
            "float4_e2m1fn pairs in uint8 under the plain name weight, with UE8M0 bytes of 32 along K",
            "vllm-project/vllm quantization/quark/schemes/quark_w4a4_mxfp4.py",
            "float4_e2m1fn",
            (".weight",),
            ("U8", "F4"),
            (".weight_scale",),
            ("U8", "F8_E8M0"),
            "float8_e8m0fnu",
            ((1, 32),),
            ("quark", "modelopt/W4A8_MXFP4_FP8"),
        ),
        Convention(
            "compressed_tensors_mxfp8",
            "float8_e4m3fn with UE8M0 bytes of 32 along K",
            "vllm-project/compressed-tensors, format mxfp8-quantized; NVIDIA/Model-Optimizer, MXFP8",
            "float8_e4m3fn",
            (".weight",),
            ("F8_E4M3",),
            (".weight_scale",),
            ("U8", "F8_E8M0"),
            "float8_e8m0fnu",
            ((1, 32),),
            ("compressed-tensors/mxfp8-quantized", "modelopt/MXFP8"),
        ),
        Convention(
            "compressed_tensors_fp8",
            "float8_e4m3fn with scales for the tensor, each row, or 128x128 blocks",
            "vllm-project/compressed-tensors, format float-quantized",
            "float8_e4m3fn",
            (".weight",),
            ("F8_E4M3",),
            (".weight_scale",),
            ("F32", "BF16", "F16"),
            "float32",
            ((1, FULL), (128, 128), (FULL, FULL)),
            (
                "compressed-tensors/float-quantized",
                "compressed-tensors/naive-quantized",
                "modelopt/FP8_PB_WO",
                "modelopt/FP8_PER_CHANNEL_PER_TOKEN",
            ),
            input_scale=".input_scale",
        ),
    ],
)

PLAIN = "plain"  # the name of a checkpoint without quantised weights


def signatures(config: dict[str, Any], quantization: dict[str, Any]) -> set[str]:
    """Return what the configuration claims, as `method` or `method/variant`."""
    claims: set[str] = set()
    text, table = subtable(config, "text_config"), quantization_of(config)
    method = str(table.get("quant_method", ""))
    claims |= {method} - {"", "compressed-tensors", "modelopt"}  # those two say what they hold elsewhere
    if method == "fp8":
        claims |= {"fp8/ue8m0"} if table.get("scale_fmt") == "ue8m0" else set()
        claims |= {"fp8/fp4"} if any(part.get("expert_dtype") == "fp4" for part in (config, text, table)) else set()
    if method == "compressed-tensors":
        groups = subtable(table, "config_groups").values()
        kinds = [table.get("format"), *(group.get("format") for group in groups if isinstance(group, dict))]
        claims |= {f"{method}/{kind}" for kind in kinds if isinstance(kind, str) and kind != "mixed-precision"}
    algorithm = subtable(quantization, "quantization").get("quant_algo") or table.get("quant_algo")
    if isinstance(algorithm, str):
        claims.add(f"modelopt/{algorithm}")
    return claims


def unknown_claims(claims: Iterable[str]) -> list[str]:
    """Return the claims that belong to no convention here."""
    return sorted(set(claims) - {signature for row in CONVENTIONS.values() for signature in row.signatures})


def quantization_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return what config.json says of quantisation; models of several modalities say it of their text part."""
    return subtable(config, "quantization_config") or subtable(subtable(config, "text_config"), "quantization_config")


def subtable(parent: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a table inside another; an empty one where there is none."""
    value = parent.get(key)
    return value if isinstance(value, dict) else {}
