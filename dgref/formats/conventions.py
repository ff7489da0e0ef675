"""How each library converts to each format: rows, bit for bit, because they disagree.

`python -m dgref.formats.disagreements` prints the tables of docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dgref.errors import FormatError, expected
from dgref.formats.conversion import Conversion
from dgref.formats.element import Format
from dgref.registry import Registry


@dataclass(frozen=True)
class Convention:
    """The conversions of one library (or of one mode of it), by destination format."""

    name: str
    conversions: Mapping[str, Conversion]
    source: str
    proof: str  # what its rows are tested against

    def conversion(self, format: Format) -> Conversion:
        """Return the rule for a destination format; one that the library does not convert to is an error."""
        if format.name not in self.conversions:
            need = ", ".join(self.conversions)
            raise FormatError(expected("format", format.name, f"one of {need}", f"convention {self.name!r}"))
        return self.conversions[format.name]


def conversion(name: str, format: Format) -> Conversion:
    """Return how a library converts to a format."""
    return CONVENTIONS[name].conversion(format)


def _fixed_nan(code: int, **rules: object) -> Conversion:
    return Conversion(nan=code, nan_sign=False, **rules)


_CUDA = {
    "float8_e4m3fn": _fixed_nan(0x7F),
    "float8_e5m2": _fixed_nan(0x7F),
    "float8_e8m0fnu": Conversion(rounding="up", negative="magnitude"),
    "float6_e2m3fn": _fixed_nan(0x1F),
    "float6_e3m2fn": _fixed_nan(0x1F),
    "float4_e2m1fn": _fixed_nan(0x07),
    "bfloat16": _fixed_nan(0x7FFF, overflow="inf"),
    "float16": _fixed_nan(0x7FFF, overflow="inf"),
}
_CUDA_NOSAT = {
    "float8_e4m3fn": _fixed_nan(0x7F, overflow="nan"),
    "float8_e5m2": _fixed_nan(0x7F, overflow="inf"),
    "float8_e8m0fnu": Conversion(rounding="up", overflow="nan", negative="magnitude"),
}

# c10 converts float32; a double is rounded to float32 first. Its E8M0 test for a tie looks at float32's own fraction
# bits, so that everything between 2**-127 and 2**-126 (float32's subnormals) rounds up; ml_dtypes does the same.
_TORCH = {
    "float8_e4m3fn": Conversion(nan=0x7F, through="float32"),
    "float8_e5m2": Conversion(nan=0x7F, overflow="inf", through="float32"),
    "float8_e4m3fnuz": Conversion(overflow="nan", through="float32"),
    "float8_e5m2fnuz": Conversion(overflow="nan", through="float32"),
    "float8_e8m0fnu": Conversion(overflow="nan", negative="magnitude", lowest_binade="up", through="float32"),
    "bfloat16": _fixed_nan(0x7FC0, overflow="inf", through="float32"),
    "float16": Conversion(overflow="inf", through="float32"),
}
_ML_DTYPES = {
    "float8_e4m3fn": Conversion(nan=0x7F, overflow="nan", through="float32"),
    "float8_e5m2": Conversion(nan=0x7E, overflow="inf", through="float32"),
    "float8_e4m3fnuz": Conversion(overflow="nan", through="float32"),
    "float8_e5m2fnuz": Conversion(overflow="nan", through="float32"),
    "float8_e8m0fnu": Conversion(overflow="nan", zero="nan", lowest_binade="up", through="float32"),
    "float6_e2m3fn": Conversion(nan=0x20, through="float32"),  # NaN becomes -0, and -NaN becomes +0
    "float6_e3m2fn": Conversion(nan=0x20, through="float32"),
    "float4_e2m1fn": Conversion(nan=0x08, through="float32"),
    "bfloat16": Conversion(nan=0x7FC0, overflow="inf", through="float32"),
}
_GFLOAT = {
    "float8_e4m3fn": _fixed_nan(0xFF),
    "float8_e5m2": _fixed_nan(0xFF),
    "float8_e8m0fnu": Conversion(rounding="nearest_even_code", infinity="saturate", zero="nan_below"),
    "float6_e2m3fn": Conversion(nan="refuse"),
    "float6_e3m2fn": Conversion(nan="refuse"),
    "float4_e2m1fn": Conversion(nan="refuse"),
}
_TORCHAO = {name: Conversion(nan="refuse") for name in ("float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn")}

# sign(x) * floor(|x| + 0.5) in float32: sign(-0.0) is 0. Inf and NaN stay what they are in the fake-quantised tensor.
_MICROXCALING = {
    name: Conversion("half_added_in_float32", infinity="refuse", nan="refuse", zero_sign="inexact", through="float32")
    for name in ("float8_e4m3fn", "float8_e5m2", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn")
}

_INSTALLED = "the installed library"
_TRANSCRIBED = "an independent transcription of the formula"

CONVENTIONS: Registry[Convention] = Registry(
    "convention",
    [
        Convention(
            "cuda",
            _CUDA,
            "PTX ISA cvt.satfinite; cuda_fp8.hpp, cuda_fp6.hpp, cuda_fp4.hpp",
            "recorded H200 output; CUDA's headers on the host",
        ),
        Convention(
            "cuda_rz",
            {"float8_e8m0fnu": replace(_CUDA["float8_e8m0fnu"], rounding="toward_zero")},
            "PTX ISA cvt.rz.satfinite.ue8m0x2",
            "recorded H200 output",
        ),
        Convention("cuda_nosat", _CUDA_NOSAT, "cuda_fp8.hpp with __NV_NOSAT", "CUDA's headers on the host"),
        Convention("torch>=2.13", _TORCH, "c10/util/Float8_*.h", _INSTALLED),
        Convention(
            "torch<=2.12",
            _TORCH | {"float8_e4m3fn": replace(_TORCH["float8_e4m3fn"], overflow="nan")},
            "c10/util/Float8_e4m3fn.h before saturation",
            f"{_TRANSCRIBED}; torch 2.12.1 where that is the one installed",
        ),
        Convention("ml_dtypes", _ML_DTYPES, "ml_dtypes 0.6 include/float8.h, mxfloat.h", _INSTALLED),
        Convention("gfloat", _GFLOAT, "gfloat 0.5 round_float(sat=True), encode_float", _INSTALLED),
        Convention(
            "deep_gemm",
            {
                "float4_e2m1fn": _fixed_nan(0x00, rounding="nearest_zero", zero_sign="never"),
                "float8_e8m0fnu": _fixed_nan(0xFE, rounding="up", negative="magnitude", lowest_code=1),
            },
            "deep_gemm/utils/math.py: _quantize_to_fp4_e2m1, ceil_to_ue8m0",
            _TRANSCRIBED,
        ),
        Convention(
            "modelopt",
            {"float4_e2m1fn": _fixed_nan(0x07, zero_sign="inexact")},
            "modelopt qtensor/nvfp4_tensor.py: _cast_fp4",
            _TRANSCRIBED,
        ),
        Convention(
            "modelopt_mxfp4",
            {"float4_e2m1fn": Conversion("nearest_zero", nan="refuse", zero_sign="exact")},
            "modelopt qtensor/mxfp4_tensor.py: cast_fp4",
            _TRANSCRIBED,
        ),
        Convention(
            "compressed_tensors",
            {"float4_e2m1fn": Conversion(nan="refuse", zero_sign="inexact"), "float8_e4m3fn": Conversion(nan=0x7F)},
            "compressed_tensors quantization/quant_args.py: _cast_to_fp4",
            _TRANSCRIBED,
        ),
        Convention(
            "compressed_tensors_triton",
            {"float4_e2m1fn": Conversion(nan="refuse", zero_sign="inexact", through="bfloat16")},
            "compressed_tensors' Triton kernel before its native-dtype fix: rounds through bfloat16",
            _TRANSCRIBED,
        ),
        Convention(
            "microxcaling", _MICROXCALING, "mx/elemwise_ops.py: _quantize_elemwise_core, round='nearest'", _TRANSCRIBED
        ),
        Convention("torchao", _TORCHAO, "torchao/prototype/custom_fp_utils.py: _f32_to_fpx_unpacked", _TRANSCRIBED),
    ],
    aliases={"torch": "torch>=2.13", "cuda_satfinite": "cuda"},
)
