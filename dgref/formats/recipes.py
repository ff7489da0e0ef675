"""Recipes: the formats and scalings that people know by name, and how each library reads that name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from dgref.errors import FormatError, ShapeError, counted, expected, unknown_name, whole_number
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
        if self.scaling is None:
            return None
        if not rank:
            raise ShapeError(expected(name, "a scalar", "at least one axis to scale along"))
        axis = whole_number("axis", axis, -rank, rank - 1, ShapeError)
        normal = axis - rank if axis >= 0 else axis
        if normal not in (-1, -2):
            raise ShapeError(
                expected("axis", axis, "the last axis or the one before", f"{name} has {counted(rank, 'axis')}")
            )
        return self.scaling if normal == -1 else self.scaling.transposed()

    def varied(self, name: str, description: str | None = None, source: str | None = None, **changes: Any) -> Recipe:
        """Return this recipe under another name with fields of its scaling changed, such as rounding="stochastic"."""
        if self.scaling is None:
            raise FormatError(expected(f"recipe {self.name}", "no scaling to change", "a recipe with scales"))
        unknown = [field for field in changes if field not in Scaling.__dataclass_fields__]
        if unknown:
            raise unknown_name("field of a scaling", unknown[0], Scaling.__dataclass_fields__)
        scaling = replace(self.scaling, **changes)
        return Recipe(name, self.format, scaling, description or self.description, source or self.source)


_E4M3, _E5M2, _E2M1, _E8M0 = "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float8_e8m0fnu"
_OCP = "OCP Microscaling Formats 1.0, 6.3"
_DEEP_GEMM = "DeepGEMM deep_gemm/utils/math.py"
_DEEP_GEMM_KERNEL = "DeepGEMM include/deep_gemm/common/math.cuh, get_e4m3_sf_and_sf_inv"
_TORCHAO = "torchao 0.18 prototype/mx_formats"
_MODELOPT = "ModelOpt 0.47 torch/quantization/qtensor"
_COMPRESSED = "compressed-tensors 0.20 quantization/utils"
_TE = "TransformerEngine common/cast"
_FLASHINFER = "FlashInfer csrc/nv_internal/tensorrt_llm/kernels/quantization_utils.cuh"


def _unscaled() -> Iterator[Recipe]:
    for row in FORMATS.values():
        yield Recipe(row.name, row.name, None, f"{row.name} alone, no scales", row.source)


def _deepseek() -> Iterator[Recipe]:
    """FP8 and FP4 as DeepGEMM's Python quantises them: amax at least 1e-4, then x * (1 / scale)."""
    tile = Scaling((1, 128), "float32", "amax_over_max", amax_floor=1e-4, payload="multiply_reciprocal")
    power = replace(tile, scale_format=_E8M0, rule="ceil_quotient")
    for suffix, scaling, kind in (("", tile, "FP32"), ("_ue8m0", power, "UE8M0")):
        base = Recipe(f"deepseek_fp8{suffix}", _E4M3, scaling, f"E4M3, {kind} per 1x128: activations", _DEEP_GEMM)
        yield base
        weight = f"E4M3, {kind} per 128x128: weights"
        yield base.varied(f"deepseek_fp8_weight{suffix}", weight, block=(128, 128))
        yield base.varied(f"deepseek_fp8_channel{suffix}", f"E4M3, {kind} per 128x1: weight gradients", block=(128, 1))
    yield base.varied("deepseek_fp8_32_ue8m0", "E4M3, UE8M0 per 1x32: Mega MoE, and beside FP4", block=(1, 32))
    fp4 = Recipe("mxfp4/deep_gemm", _E2M1, replace(power, block=(1, 32), convention="deep_gemm"), "", _DEEP_GEMM)
    yield replace(fp4, description="E2M1, UE8M0 per 1x32, ties toward zero, -0 dropped")
    yield fp4.varied("deepseek_fp4_128_ue8m0", "E2M1, UE8M0 per 1x128", block=(1, 128))
    yield fp4.varied("deepseek_fp4", "E2M1, FP32 per 1x32", scale_format="float32", rule="amax_over_max")
    yield base.varied(
        "mega_moe_fp8",
        "E4M3, UE8M0 per 1x32, no amax floor: what the Mega MoE epilogue hands to its second GEMM",
        _DEEP_GEMM_KERNEL,
        block=(1, 32),
        rule="ceil_product_normal",
        amax_floor=0.0,
    )


def _coarse_fp8() -> Iterator[Recipe]:
    """FP8 with one FP32 scale for a row or for everything."""
    row = Recipe("per_row_fp8", _E4M3, Scaling((1, FULL)), "E4M3, FP32 per row (token)", "torch._scaled_mm rowwise")
    yield row
    yield replace(row, name="per_channel_fp8", description="E4M3, FP32 per output channel, a row of [N, K]")
    everything = row.varied("per_tensor_fp8", "E4M3, one FP32 for a matrix", "torch._scaled_mm", block=(FULL, FULL))
    yield everything
    yield replace(everything, name="per_tensor_fp8_e5m2", format=_E5M2, description="E5M2, one FP32 for a matrix")


def _mx() -> Iterator[Recipe]:
    """MX: UE8M0 scales per 1x32. The plain names are what OCP writes: exponents rounded down, payloads saturate."""
    floor = Scaling((1, 32), _E8M0, "floor_amax")
    for name, format in (("mxfp8", _E4M3), ("mxfp8_e5m2", _E5M2), ("mxfp4", _E2M1)):
        base = Recipe(name, format, floor, f"{format}, UE8M0 per 1x32, exponent rounded down", _OCP)
        yield base
        yield from _mx_torchao(base)
        if format != _E2M1:
            yield _mx_transformer_engine(base)
    for name, format in (("mxfp6_e2m3", "float6_e2m3fn"), ("mxfp6_e3m2", "float6_e3m2fn")):
        yield Recipe(name, format, floor, f"{format}, UE8M0 per 1x32, exponent rounded down", _OCP)


def _mx_transformer_engine(base: Recipe) -> Recipe:
    return base.varied(
        f"{base.name}/transformer_engine",
        f"{base.format}, UE8M0 of amax * fp32(1 / max) rounded up",
        f"{_TE}/mxfp8, ptx.cuh exp2f_rcp",
        rule="ceil_product",
        payload="multiply_reciprocal_of_normal",
    )


def _mx_torchao(base: Recipe) -> Iterator[Recipe]:
    modes = (("", "floor_amax"), ("_ceil", "ceil_amax"), ("_even", "floor_rounded_amax"))
    for suffix, rule in modes:
        name = f"{base.name}/torchao{suffix}"
        what = f"{base.format}, UE8M0 by {rule}, divided by at least 2^-126"
        yield base.varied(name, what, f"{_TORCHAO}/mx_tensor.py", rule=rule, payload="divide_by_normal")
    yield base.varied(
        f"{base.name}/torchao_rceil",
        f"{base.format}, UE8M0 by the eager RCEIL mode, a float32 logarithm rounded up",
        f"{_TORCHAO}/mx_tensor.py",
        rule="ceil_log2_quotient",
        payload="multiply_reciprocal_of_normal",
    )


def _mx_libraries(mxfp4: Recipe, mxfp8: Recipe) -> Iterator[Recipe]:
    logarithm = {"rule": "ceil_log2_quotient"}
    yield mxfp4.varied(
        "mxfp4/modelopt",
        "E2M1, UE8M0 by a float32 logarithm rounded up, ties toward zero, zero coded as -0",
        f"{_MODELOPT}/mxfp4_tensor.py",
        convention="modelopt_mxfp4",
        **logarithm,
    )
    yield mxfp8.varied(
        "mxfp8/modelopt",
        "E4M3, UE8M0 by a float32 logarithm rounded up",
        f"{_MODELOPT}/mxfp8_tensor.py",
        payload="multiply_reciprocal",
        **logarithm,
    )
    one_bit = "floor_amax_rounded_to_one_bit"
    even = "UE8M0 of amax rounded half up to one mantissa bit"
    source = f"{_COMPRESSED}/mxfp_utils.py"
    yield mxfp4.varied(
        "mxfp4/compressed_tensors", f"E2M1, {even}", source, rule=one_bit, convention="compressed_tensors"
    )
    yield mxfp8.varied("mxfp8/compressed_tensors", f"E4M3, {even}", source, rule=one_bit)
    source, rule = "microxcaling mx/mx_ops.py, defaults", "floor_log2_amax"
    away = "UE8M0 by a float32 logarithm rounded down, ties away from zero"
    yield mxfp4.varied("mxfp4/microxcaling", f"E2M1, {away}", source, rule=rule, convention="microxcaling")
    yield mxfp8.varied("mxfp8/microxcaling", f"E4M3, {away}", source, rule=rule, convention="microxcaling")
    yield mxfp4.varied(
        "mxfp4/flashinfer",
        "E2M1, UE8M0 of amax * fp32(1 / 6) rounded up",
        _FLASHINFER,
        rule="ceil_product",
        payload="multiply_reciprocal_of_normal",
    )
    yield mxfp8.varied(
        "mxfp8/flashinfer",
        "E4M3, UE8M0 of amax * fp32(1 / 448) rounded up; a block of zeros gets payload 448",
        _FLASHINFER,
        rule="ceil_product",
        payload="multiply_flushed_reciprocal",
    )


def _nvfp4() -> Iterator[Recipe]:
    """NVFP4: E4M3 scales per 1x16 under one FP32 number; the libraries round in different places."""
    scaling = Scaling(
        (1, 16),
        _E4M3,
        "amax_over_max_times_global",
        global_scale="multiply",
        payload="divide_by_scale_times_global",
    )
    base = Recipe("nvfp4", _E2M1, scaling, "E2M1, E4M3 per 1x16, global amax / (6 * 448)", "NVIDIA NVFP4")
    yield base
    yield base.varied("nvfp4/stochastic", "nvfp4 with the payload rounded stochastically", rounding="stochastic")
    yield base.varied("nvfp4/hadamard", "nvfp4 after a 16-point Hadamard transform, seeded signs", hadamard="seeded")
    yield from _nvfp4_checkpoints(base)
    yield from _nvfp4_kernels(base)


def _nvfp4_checkpoints(base: Recipe) -> Iterator[Recipe]:
    """The libraries that write checkpoints."""
    yield base.varied(
        "nvfp4/modelopt",
        "amax / (6 * global), an all-zero block gets 1.0; at least 2^-9; x / (scale * global)",
        f"{_MODELOPT}/nvfp4_tensor.py",
        zero_quotient=1.0,
        scale_range=(2.0**-9, 448.0),
        convention="modelopt",
    )
    compressed = base.varied(
        "nvfp4/compressed_tensors",
        "global is 2688 * fp32(1 / amax); a scale that rounds to zero becomes 0.125; x / (scale / global)",
        f"{_COMPRESSED}/helpers.py",
        rule="global_times_amax_over_max",
        global_scale="divide",
        global_rule="product",
        zero_scale=0.125,
        payload="divide_by_scale_over_global",
        convention="compressed_tensors",
    )
    yield compressed
    yield compressed.varied(
        f"{compressed.name}_bfloat16",
        "as nvfp4/compressed_tensors, amax / 6 and each step of the global in bfloat16: what bfloat16 weights get",
        rule="global_times_bfloat16_amax_over_max",
        global_format="bfloat16",
    )
    torchao = base.varied(
        "nvfp4/torchao",
        "(amax / 6) / global, between 2^-6 and 448; x * ((1 / global) / scale)",
        f"{_TORCHAO}/nvfp4_tensor.py",
        rule="amax_over_max_over_global",
        scale_range=(2.0**-6, 448.0),
        payload="multiply_reciprocal_global_over_scale",
    )
    yield torchao
    yield torchao.varied(
        "nvfp4/torchao_single",
        "amax / 6 between 2^-6 and 448, no global scale; x * (1 / scale)",
        rule="amax_over_max",
        global_scale="none",
        payload="multiply_reciprocal",
    )


def _nvfp4_kernels(base: Recipe) -> Iterator[Recipe]:
    """The libraries that quantise inside kernels."""
    flashinfer = base.varied(
        "nvfp4/flashinfer",
        "global is 6 * 448 / amax; amax * (global * fp32(1 / 6)); x * (1 / (scale * (1 / global))), fast math off",
        _FLASHINFER,
        rule="amax_times_global_over_max",
        global_scale="divide",
        payload="multiply_reciprocal_of_scale_over_global",
    )
    yield flashinfer
    yield flashinfer.varied(
        "nvfp4/flashinfer_fast_math",
        "global is 6 * 448 / amax; global * (amax * rcp(6)); x * rcp(scale * rcp(global)), rcp.approx taken as exact",
        rule="global_times_amax_times_reciprocal_max",
    )
    engine = flashinfer.varied(
        "nvfp4/transformer_engine",
        "amax is stored; encode is 6 * 448 / amax; amax * (encode * fp32(1 / 6)); x * (1 / (scale * (1 / encode)))",
        f"{_TE}/nvfp4/core_nvfp4.cuh",
        global_scale="amax",
    )
    yield engine
    yield engine.varied("nvfp4/transformer_engine_2d", "as nvfp4/transformer_engine, per 16x16", block=(16, 16))
    yield engine.varied(
        "nvfp4/transformer_engine_stochastic",
        "as nvfp4/transformer_engine, payload rounded stochastically (Philox drawn element by element, not by thread)",
        rounding="stochastic",
    )
    yield engine.varied(
        "nvfp4/transformer_engine_hadamard",
        "as nvfp4/transformer_engine after a 16-point Hadamard transform with its fixed signs, rounded to float32",
        hadamard="transformer_engine",
    )
    six = engine.varied(
        "nvfp4/four_over_six",
        "each block scaled to 6 or 4, whichever has the smaller squared error; scales up to 256",
        f"{_TE}/nvfp4/quantize_4over6_nvfp4.cuh; arXiv 2512.02010",
        rule="global_times_amax_over_max",
        scale_max=256.0,
        four_over_six="mse",
    )
    yield six
    yield six.varied("nvfp4/four_over_six_mae", "as nvfp4/four_over_six by absolute error", four_over_six="mae")
    yield six.varied("nvfp4/four_over_six_448", "as nvfp4/four_over_six, scales up to 448", scale_max=448.0)


def _registry() -> Registry[Recipe]:
    rows = [*_unscaled(), *_deepseek(), *_coarse_fp8(), *_mx(), *_nvfp4()]
    named = {row.name: row for row in rows}
    aliases = {
        **FORMATS.aliases,
        "mxfp8_e4m3": "mxfp8",
        "mxfp4/ocp": "mxfp4",
        "mxfp8/ocp": "mxfp8",
        "deepseek_fp4_ue8m0": "mxfp4/deep_gemm",
        "mxfp8/deep_gemm": "deepseek_fp8_32_ue8m0",
        "per_token_fp8": "per_row_fp8",
    }
    return Registry("recipe", [*rows, *_mx_libraries(named["mxfp4"], named["mxfp8"])], aliases, "recipes")


RECIPES: Registry[Recipe] = _registry()
