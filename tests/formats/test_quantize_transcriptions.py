"""Recipes of libraries that cannot run here, against an independent transcription of their sources, block by block.

The transcriptions use float32 scalars, ml_dtypes' E4M3 and a list of the E2M1 values: nothing of dgref's codecs.
"""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from dgref.formats import quantize

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "quantize_libraries.npz")
f32 = np.float32
E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
MIDDLES = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]


def e4m3(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def e2m1_even(values: np.ndarray) -> np.ndarray:
    def code(v: float) -> int:
        distances = [abs(abs(float(v)) - g) for g in E2M1]
        nearest = [i for i, d in enumerate(distances) if d == min(distances)]
        return min(nearest, key=lambda i: i % 2) | (8 if np.signbit(v) else 0)

    return np.array([code(v) for v in values], np.uint8)


def e2m1_deep_gemm(values: np.ndarray) -> np.ndarray:
    codes = np.zeros(values.shape, np.uint8)
    for middle in MIDDLES:
        codes += np.abs(values) > middle
    return codes | (((values < 0) & (codes != 0)).astype(np.uint8) << 3)


def ue8m0_up(scale: np.float32, lowest: int = 0) -> int:
    """Round a non-negative float32 up to a power of two by its bits, as `ceil_to_ue8m0` and `fast_log2_ceil` do."""
    bits = int(f32(scale).view(np.uint32))
    return min(max((bits >> 23) + bool(bits & 0x7FFFFF), lowest), 254)


def ue8m0_cuda(scale: np.float32) -> int:
    """cvt.rp.satfinite.ue8m0x2: the exact ceiling, subnormals up to 2^-127 included."""
    return 0 if scale <= f32(2.0**-127) else ue8m0_up(scale)


def power(byte: int) -> np.float32:
    return f32(np.ldexp(1.0, byte - 127))


def deep_gemm_fp8(x: np.ndarray) -> tuple:
    scale = max(np.abs(x).max(), f32(1e-4)) / f32(448)
    return e4m3(x * (f32(1) / scale)), scale


def deep_gemm_fp8_ue8m0(x: np.ndarray) -> tuple:
    byte = ue8m0_up(max(np.abs(x).max(), f32(1e-4)) / f32(448), 1)
    return e4m3(x * (f32(1) / power(byte))), byte


def deep_gemm_fp4(x: np.ndarray) -> tuple:
    byte = ue8m0_up(max(np.abs(x).max(), f32(1e-4)) / f32(6), 1)
    return e2m1_deep_gemm(x * (f32(1) / power(byte))), byte


def mega_moe(x: np.ndarray) -> tuple:
    byte = ue8m0_up(np.abs(x).max() * f32(1 / 448))
    return e4m3(x * f32(np.ldexp(1.0, 127 - byte))), byte


def transformer_engine_mxfp8(x: np.ndarray) -> tuple:
    byte = ue8m0_cuda(np.abs(x).max() * f32(1 / 448))
    return e4m3(x * (f32(1) if byte == 0 else f32(np.ldexp(1.0, 127 - byte)))), byte


def flashinfer_mxfp8(x: np.ndarray) -> tuple:
    byte = ue8m0_cuda(np.abs(x).max() * f32(1 / 448))
    inverse = f32(np.inf) if byte == 0 else f32(np.ldexp(1.0, 127 - byte))
    return e4m3(np.fmax(np.fmin(x * inverse, f32(448)), f32(-448))), byte


def flashinfer_mxfp4(x: np.ndarray) -> tuple:
    byte = ue8m0_cuda(np.abs(x).max() * f32(1 / 6))
    return e2m1_even(x * (f32(1) if byte == 0 else f32(np.ldexp(1.0, 127 - byte)))), byte


def microxcaling(emax: int, mantissa_bits: int, emin: int, top: float) -> Callable:
    """Return the transcription of `_quantize_mx` for one format, as values."""

    def quantized(x: np.ndarray) -> tuple:
        amax = np.abs(x).max() or f32(2.0**-126)
        exponent = max(int(np.floor(f32(np.log2(amax.astype(np.float64))))) - emax, -127)
        ratio = x / f32(2.0**exponent)
        own = np.floor(np.log2(np.abs(ratio, dtype=np.float64) + (ratio == 0)).astype(f32)).clip(emin)
        steps = np.ldexp(ratio, (mantissa_bits - own).astype(int)).astype(f32)
        rounded = np.sign(steps) * np.floor(np.abs(steps) + f32(0.5))
        return np.ldexp(rounded, (own - mantissa_bits).astype(int)).clip(-top, top), exponent + 127

    return quantized


TRANSCRIPTIONS = {
    "deepseek_fp8": deep_gemm_fp8,
    "deepseek_fp8_ue8m0": deep_gemm_fp8_ue8m0,
    "deepseek_fp8_32_ue8m0": deep_gemm_fp8_ue8m0,
    "mxfp4/deep_gemm": deep_gemm_fp4,
    "deepseek_fp4_128_ue8m0": deep_gemm_fp4,
    "mega_moe_fp8": mega_moe,
    "mxfp8/transformer_engine": transformer_engine_mxfp8,
    "mxfp8/flashinfer": flashinfer_mxfp8,
    "mxfp4/flashinfer": flashinfer_mxfp4,
}


@pytest.mark.parametrize("input_name", ["wide", "narrow"])
@pytest.mark.parametrize("name", TRANSCRIPTIONS)
@np.errstate(all="ignore")
def test_a_recipe_equals_its_transcription(name, input_name):
    x = GOLDEN[input_name]
    t = quantize(x, name)
    columns = t.scaling.block[1]
    for row, start in np.ndindex(len(x), x.shape[1] // columns):
        block = slice(start * columns, (start + 1) * columns)
        codes, scale = TRANSCRIPTIONS[name](x[row, block])
        assert t.scale[row, start] == scale, (row, start)
        np.testing.assert_array_equal(t.data[row, block], codes)


@pytest.mark.parametrize("input_name", ["wide", "narrow"])
@pytest.mark.parametrize(
    ("name", "quantized"),
    [("mxfp4/microxcaling", microxcaling(2, 1, 0, 6.0)), ("mxfp8/microxcaling", microxcaling(8, 3, -6, 448.0))],
)
@np.errstate(all="ignore")
def test_microxcaling_equals_its_transcription(name, quantized, input_name):
    x = GOLDEN[input_name]
    t = quantize(x, name)
    for row, start in np.ndindex(len(x), x.shape[1] // 32):
        block = slice(start * 32, start * 32 + 32)
        values, byte = quantized(x[row, block])
        assert t.scale[row, start] == byte
        np.testing.assert_array_equal(t.values()[row, block], values)


@np.errstate(all="ignore")
def test_nvfp4_of_flashinfer_equals_its_transcription():
    x = GOLDEN["narrow"]
    t = quantize(x, "nvfp4/flashinfer")
    encode = f32(2688) / np.abs(x).max()
    assert t.global_scale == encode
    for row, start in np.ndindex(len(x), x.shape[1] // 16):
        block = x[row, start * 16 : start * 16 + 16]
        scale = e4m3(np.array([np.abs(block).max() * (encode * f32(1 / 6))]))
        value = scale.view(ml_dtypes.float8_e4m3fn).astype(f32)[0]
        factor = min(f32(1) / (value * (f32(1) / encode)), np.finfo(f32).max)
        assert t.scale[row, start] == scale[0]
        np.testing.assert_array_equal(t.data[row, start * 16 : start * 16 + 16], e2m1_even(block * factor))
