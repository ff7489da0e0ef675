"""Who can take a convention: backend, architectures, and the transform of payload and scales that each needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dgref.checkpoint.conventions import Block
from dgref.checkpoint.facts import Measured
from dgref.formats.scaling import FULL

AS_IS = "as it is"
_BLACKWELL = ("sm100", "sm103")
_BLACKWELL_ALL = ("sm100", "sm103", "sm120", "sm121")


@dataclass(frozen=True)
class Target:
    """One way to run weights of a convention. `payload` and `scales` are `as it is` or names of layouts."""

    conventions: tuple[str, ...]
    backend: str
    architectures: tuple[str, ...]
    payload: str
    scales: str
    note: str = ""
    block: Block | None = None
    powers_of_two: bool = False  # float32 scales must be powers of two, or be requantised


_NVFP4 = ("modelopt_nvfp4", "compressed_tensors_nvfp4")
_MXFP4 = ("gpt_oss_mxfp4", "deepseek_v4_fp4", "compressed_tensors_mxfp4", "quark_mxfp4")
_MXFP8 = ("compressed_tensors_mxfp8",)
_BLOCK_FP8 = ("deepseek_v3_fp8", "compressed_tensors_fp8")
_ALPHA = "the product of both global scales is the GEMM's alpha"

TARGETS: tuple[Target, ...] = (
    Target(_BLOCK_FP8, "deep_gemm", ("sm90",), AS_IS, AS_IS, "activations 1x128 in mn_major_tma", (128, 128)),
    Target(_BLOCK_FP8, "dgref", ("sm90",), AS_IS, AS_IS, "activations 1x128 in mn_major_tma", (128, 128)),
    Target(
        _BLOCK_FP8,
        "deep_gemm",
        _BLACKWELL,
        AS_IS,
        "packed_ue8m0_broadcast_128",
        "scales that are not powers of two need requantising",
        (128, 128),
        powers_of_two=True,
    ),
    Target(_BLOCK_FP8, "cublaslt", ("sm90",), AS_IS, "linear_padded_4", "BLK128x128_32F", (128, 128)),
    Target(_BLOCK_FP8, "torch", ("sm90",), AS_IS, "linear_padded_4", "BlockWise128x128, transposed", (128, 128)),
    Target(("deepseek_v4_fp8",), "deep_gemm", _BLACKWELL, AS_IS, "packed_ue8m0_broadcast_128", "", (128, 128)),
    Target(("deepseek_v4_fp8",), "deep_gemm", ("sm90",), AS_IS, "linear", "scales decoded to float32", (128, 128)),
    Target(_MXFP8, "deep_gemm", _BLACKWELL, AS_IS, "packed_ue8m0", "granularity 32 on both sides"),
    Target(_MXFP8, "cublaslt", _BLACKWELL_ALL, AS_IS, "swizzle_128x4", "VEC32_UE8M0"),
    Target(_MXFP8, "torch", _BLACKWELL_ALL, AS_IS, "swizzle_128x4", "BlockWise1x32, SWIZZLE_32_4_4"),
    Target(_MXFP4, "deep_gemm", _BLACKWELL, AS_IS, "packed_ue8m0", "FP8 activations with granularity 32 or 128"),
    Target(
        _MXFP4,
        "deep_gemm mega_moe",
        _BLACKWELL,
        "gate_up_interleave_8",
        "mega_moe_l1_scale",
        "first layer; the second takes its payload as it is and scales in mega_moe_l2_scale",
    ),
    Target(_MXFP4, "cutlass", _BLACKWELL_ALL, AS_IS, "swizzle_128x4", "mxf4 or mxf8f6f4"),
    Target(
        _MXFP4,
        "flashinfer trtllm",
        _BLACKWELL,
        "shuffle_rows_32",
        "shuffle_rows_32_swizzle_128x4",
        "gated layers first by gate_up_interleave_1",
    ),
    Target(_NVFP4, "cublaslt", _BLACKWELL_ALL, AS_IS, "swizzle_128x4", f"VEC16_UE4M3; {_ALPHA}"),
    Target(_NVFP4, "torch", _BLACKWELL_ALL, AS_IS, "swizzle_128x4", f"BlockWise1x16, SWIZZLE_32_4_4; {_ALPHA}"),
    Target(_NVFP4, "cutlass", _BLACKWELL_ALL, AS_IS, "swizzle_128x4", _ALPHA),
    Target(
        _NVFP4,
        "flashinfer trtllm",
        _BLACKWELL,
        "shuffle_rows_32",
        "shuffle_rows_32_swizzle_128x4",
        f"gated layers first by gate_up_interleave_1; {_ALPHA}",
    ),
    Target(
        ("modelopt_fp8", "compressed_tensors_fp8"),
        "torch",
        ("sm89", "sm90", *_BLACKWELL_ALL),
        AS_IS,
        AS_IS,
        "TensorWise",
        (FULL, FULL),
    ),
    Target(
        ("modelopt_fp8", "compressed_tensors_fp8"),
        "cublaslt",
        ("sm89", "sm90", *_BLACKWELL_ALL),
        AS_IS,
        AS_IS,
        "SCALAR_32F",
        (FULL, FULL),
    ),
    Target(("compressed_tensors_fp8",), "torch", ("sm90", *_BLACKWELL), AS_IS, AS_IS, "RowWise", (1, FULL)),
)


def targets_of(weights: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return who can take the weights, most ready first; `blocked_by` says what stands in the way."""
    found = []
    for target in TARGETS:
        fitting = [m for m in weights if _fits(target, m)]
        if fitting:
            row = {**asdict(target), "weights": len(fitting), "blocked_by": _blocked(target, fitting)}
            row |= _cast(target, fitting)
            found.append({key: row[key] for key in row if key not in ("block", "powers_of_two")})
    return sorted(found, key=lambda row: (bool(row["blocked_by"]), row["scales"] != AS_IS))


def _fits(target: Target, m: Measured) -> bool:
    block = m.weight.block
    return m.weight.convention.name in target.conventions and block is not None and target.block in (None, block)


def _cast(target: Target, weights: Sequence[Measured]) -> dict[str, str]:
    """Say where scales are stored in 16 bits: every kernel that multiplies by them reads float32."""
    stored = {m.weight.scale.dtype for m in weights if m.weight.scale is not None} & {"BF16", "F16"}
    if not stored:
        return {}
    note = f"scales cast from {' and '.join(sorted(stored))} to float32 first"
    return {
        "scales": "cast to float32" if target.scales == AS_IS else target.scales,
        "note": f"{note}; {target.note}" if target.note else note,
    }


def _blocked(target: Target, weights: Sequence[Measured]) -> str:
    """Say why the transform would lose bits; empty where it does not."""
    if not target.powers_of_two:
        return ""
    other = sum(m.statistics.scale.count != m.statistics.scale.powers_of_two for m in weights)
    return f"{other} of {len(weights)} weights have scales that are not powers of two" if other else ""
