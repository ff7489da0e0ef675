"""Recipes: the formats and scalings that people know by name, and how each library reads that name."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dgref.errors import InputError, ShapeError, expected
from dgref.formats.element import FORMATS
from dgref.formats.scaling import FULL, Scaling
from dgref.registry import Registry


@dataclass(frozen=True)
class Recipe:
    """A payload format and its scaling under one name; without a scaling the payload stands alone."""

    name: str
    format: str
    scaling: Scaling | None
    description: str
    source: str = ""

    def along(self, axis: int, rank: int, name: str = "x") -> Scaling | None:
        """Return the scaling for blocks along an axis, the last or the one before it."""
        if self.scaling is not None and not rank:
            raise ShapeError(expected(name, "a scalar", "at least one axis to scale along"))
        normal = axis - rank if axis >= 0 else axis
        if normal not in (-1, -2) or normal < -max(rank, 1):
            raise ShapeError(expected("axis", axis, "the last axis or the one before", f"{name} has {rank} axes"))
        return self.scaling if self.scaling is None or normal == -1 else self.scaling.transposed()

    def encode(self, values: np.ndarray, seed: int | None = None) -> np.ndarray:
        """Return the codes of an unscaled recipe."""
        if seed is not None:
            raise InputError(expected("seed", seed, "none", f"{self.name} draws no random numbers"))
        return FORMATS[self.format].encode(values)


_DEEP_GEMM = "DeepGEMM deep_gemm/utils/math.py"
_OCP = "OCP Microscaling Formats 1.0 6.3"
_E4M3, _E5M2, _E2M1, _E8M0 = "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float8_e8m0fnu"

RECIPES: Registry[Recipe] = Registry(
    "recipe",
    [Recipe(row.name, row.name, None, f"unscaled {row.name}", row.source) for row in FORMATS.values()],
    aliases=FORMATS.aliases,
)


def _add(name: str, format: str, scaling: Scaling, description: str, source: str, *aliases: str) -> Scaling:
    RECIPES.add(Recipe(name, format, scaling, description, source), *aliases)
    return scaling


# -- FP8 with FP32 scales ---------------------------------------------------------------------------------------

_tile = Scaling((1, 128), "float32", "amax_over_max", amax_floor=1e-4, payload="multiply_reciprocal")
_square = replace(_tile, block=(128, 128))
_add("deepseek_fp8", _E4M3, _tile, "E4M3, FP32 scale per 1x128: activations", _DEEP_GEMM)
_add("deepseek_fp8_weight", _E4M3, _square, "E4M3, FP32 scale per 128x128: weights", _DEEP_GEMM)
_add("deepseek_fp8_channel", _E4M3, replace(_tile, block=(128, 1)), "E4M3, FP32 scale per 128x1", _DEEP_GEMM)

_row = Scaling((1, FULL))
_add("per_row_fp8", _E4M3, _row, "E4M3, one FP32 scale per row", "torch._scaled_mm rowwise", "per_token_fp8")
_add("per_channel_fp8", _E4M3, _row, "E4M3, one FP32 scale per output channel (a row of [N, K])", "torch._scaled_mm")
_add("per_tensor_fp8", _E4M3, Scaling((FULL, FULL)), "E4M3, one FP32 scale per matrix", "torch._scaled_mm tensorwise")

# -- FP8 with UE8M0 scales --------------------------------------------------------------------------------------

_power = replace(_tile, scale_format=_E8M0, rule="ceil_quotient")
_add("deepseek_fp8_ue8m0", _E4M3, _power, "E4M3, UE8M0 scale per 1x128: activations", _DEEP_GEMM)
_add("deepseek_fp8_weight_ue8m0", _E4M3, replace(_power, block=(128, 128)), "E4M3, UE8M0 per 128x128", _DEEP_GEMM)
_add("deepseek_fp8_32", _E4M3, replace(_power, block=(1, 32)), "E4M3, UE8M0 per 1x32: Mega MoE", _DEEP_GEMM)

_mx = Scaling((1, 32), _E8M0, "floor_amax")
_add("mxfp8", _E4M3, _mx, "E4M3, UE8M0 per 1x32, exponent rounded down", _OCP, "mxfp8_e4m3")
_add("mxfp8_e5m2", _E5M2, _mx, "E5M2, UE8M0 per 1x32, exponent rounded down", _OCP)

# -- FP4 --------------------------------------------------------------------------------------------------------

_add("mxfp4", _E2M1, _mx, "E2M1, UE8M0 per 1x32, exponent rounded down", _OCP)
_nv = Scaling(
    (1, 16),
    _E4M3,
    "amax_over_max_times_global",
    global_scale="multiply",
    payload="divide_by_scale_times_global",
)
_add("nvfp4", _E2M1, _nv, "E2M1, E4M3 per 1x16, global amax / (6*448)", "NVIDIA NVFP4")
