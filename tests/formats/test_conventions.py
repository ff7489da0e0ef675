"""Conventions: each row against the library it speaks for, or, where that is not here, against its formula."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import gfloat
import gfloat.formats
import numpy as np
import pytest
import torch

from dgref.errors import FormatError
from dgref.formats import CONVENTIONS, FORMATS, Format
from dgref.formats.disagreements import PROBES, text
from tests.conftest import VECTORS, needs_vectors
from tests.formats.inputs import boundaries, float32_inputs, random_bits

TORCH_VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
TORCH_HERE = "torch>=2.13" if TORCH_VERSION >= (2, 13) else "torch<=2.12"
SAMPLE = 1 << 24  # random float32 bits
E4M3, E5M2, E2M1, E8M0 = (FORMATS[name] for name in ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float8_e8m0fnu"))


def _destinations(convention: str) -> list[Format]:
    return [FORMATS[name] for name in CONVENTIONS[convention].conversions]


def assert_same(format: Format, convention: str, values: np.ndarray, theirs: np.ndarray) -> None:
    """Fail with the first value that is converted otherwise."""
    ours = format.encode(values, convention=convention)
    wrong = np.flatnonzero(ours != theirs)
    if wrong.size:
        i = wrong[0]
        value = f"{values[i]!r} ({values.view(np.uint32)[i]:#010x})" if values.dtype == np.float32 else repr(values[i])
        pytest.fail(
            f"{convention} to {format.name}: {value} => {ours[i]:#x} expected: {theirs[i]:#x}; {wrong.size} differ"
        )


# ---- libraries that are installed ---------------------------------------------------------------------------------


def _torch_codes(format: Format, values: np.ndarray) -> np.ndarray:
    converted = torch.from_numpy(values).to(getattr(torch, format.name))
    return converted.view(getattr(torch, format.code_dtype.name)).numpy()


def _without_bfloat16_nan(format: Format, values: np.ndarray) -> np.ndarray:
    """Drop NaN where torch's vectorised path to bfloat16 disagrees with its own scalar one (0xFFFF against 0x7FC0)."""
    return values[~np.isnan(values)] if format.name == "bfloat16" else values


@pytest.mark.parametrize("format", _destinations(TORCH_HERE), ids=lambda f: f.name)
def test_torch_row_equals_the_installed_torch(format: Format):
    for values in (float32_inputs(format), random_bits(SAMPLE)):
        values = _without_bfloat16_nan(format, values)
        assert_same(format, TORCH_HERE, values, _torch_codes(format, values))


def _ml_dtypes_codes(format: Format, values: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return values.astype(format.native_dtype).view(format.code_dtype)


@pytest.mark.parametrize("format", _destinations("ml_dtypes"), ids=lambda f: f.name)
def test_ml_dtypes_row_equals_the_installed_ml_dtypes(format: Format):
    for values in (float32_inputs(format), random_bits(SAMPLE)):
        assert_same(format, "ml_dtypes", values, _ml_dtypes_codes(format, values))


@pytest.mark.parametrize("convention", [TORCH_HERE, "ml_dtypes"])
def test_float64_goes_through_float32_as_it_does_in_torch_and_ml_dtypes(convention: str):
    for format in _destinations(convention):
        near = boundaries(format)
        near = near[np.isfinite(near)].astype(np.float64)
        values = np.concatenate([near * (1 + 2.0**-40), near * (1 - 2.0**-40)])
        codes = _ml_dtypes_codes if convention == "ml_dtypes" else _torch_codes
        assert_same(format, convention, values, codes(format, values))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_input_converts_as_its_float32_value_does_in_torch(name: str):
    source = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(getattr(torch, name))
    source = source[~source.isnan()]  # torch's vectorised bfloat16 path turns +NaN into 0xFF
    for format in (E4M3, E5M2, E8M0):
        theirs = source.to(getattr(torch, format.name)).view(torch.uint8)
        assert torch.equal(format.encode(source, convention=TORCH_HERE), theirs)


_GFLOAT = {
    "float8_e4m3fn": gfloat.formats.format_info_ocp_e4m3,
    "float8_e5m2": gfloat.formats.format_info_ocp_e5m2,
    "float6_e2m3fn": gfloat.formats.format_info_ocp_e2m3,
    "float6_e3m2fn": gfloat.formats.format_info_ocp_e3m2,
    "float4_e2m1fn": gfloat.formats.format_info_ocp_e2m1,
}


@pytest.mark.parametrize("name", _GFLOAT)
def test_gfloat_row_equals_the_installed_gfloat(name: str):
    format, info = FORMATS[name], _GFLOAT[name]
    pieces = np.split(random_bits(SAMPLE), 32)  # gfloat's temporaries are wide, and its 5 million a second slow
    for values in (float32_inputs(format), *(pieces if format is E4M3 else pieces[:8])):
        values = values if format.has_nan else values[~np.isnan(values)]
        with np.errstate(all="ignore"):
            theirs = gfloat.encode_ndarray(info, gfloat.round_ndarray(info, values.astype(np.float64), sat=True))
        assert_same(format, "gfloat", values, theirs.astype(np.uint8))


def test_gfloat_row_for_e8m0_equals_its_scalar_functions():
    info = gfloat.formats.format_info_ocp_e8m0
    values = np.concatenate([boundaries(E8M0)[::5], random_bits(2000), np.float32([0, -0.0, np.inf, -np.inf, np.nan])])
    theirs = [gfloat.encode_float(info, gfloat.round_float(info, float(value), sat=True)) for value in values]
    assert_same(E8M0, "gfloat", values, np.array(theirs, np.uint8))


# ---- recorded output of a GPU -------------------------------------------------------------------------------------

_RECORDED = [
    ("e4m3", "float8_e4m3fn", "cuda"),
    ("e5m2", "float8_e5m2", "cuda"),
    ("e2m1", "float4_e2m1fn", "cuda"),
    ("e8m0_rp", "float8_e8m0fnu", "cuda"),
    ("e8m0_rz", "float8_e8m0fnu", "cuda_rz"),
]


@needs_vectors
@pytest.mark.parametrize(("key", "name", "convention"), _RECORDED)
def test_cuda_rows_equal_what_an_h200_gave_for_every_bfloat16(key: str, name: str, convention: str):
    recorded = np.load(Path(VECTORS) / "h200" / "cvt_all_bf16.npz")
    assert_same(FORMATS[name], convention, recorded["x"].view(np.float32), recorded[key])


# ---- CUDA's own headers, compiled for the host --------------------------------------------------------------------

_HOMES = [os.environ.get("CUDA_HOME", ""), *sorted(map(str, Path("/usr/local").glob("cuda*")), reverse=True)]
HEADERS = next((Path(home) / "include" for home in _HOMES if home and Path(home, "include/cuda_fp4.h").is_file()), None)
needs_headers = pytest.mark.skipif(
    HEADERS is None or shutil.which("g++") is None, reason="no CUDA headers (set CUDA_HOME) or no g++"
)
_IN_HEADERS = [  # in the order of cuda_conversions.cpp
    ("float8_e4m3fn", "cuda"),
    ("float8_e4m3fn", "cuda_nosat"),
    ("float8_e5m2", "cuda"),
    ("float8_e5m2", "cuda_nosat"),
    ("float6_e2m3fn", "cuda"),
    ("float6_e3m2fn", "cuda"),
    ("float4_e2m1fn", "cuda"),
    ("float8_e8m0fnu", "cuda"),
    ("float8_e8m0fnu", "cuda_rz"),
    ("float8_e8m0fnu", "cuda_nosat"),
]


@needs_headers
def test_cuda_rows_equal_cudas_headers_on_the_host(tmp_path: Path):
    program, source = tmp_path / "conversions", Path(__file__).with_name("cuda_conversions.cpp")
    subprocess.run(["g++", "-O1", "-std=c++17", f"-I{HEADERS}", str(source), "-o", str(program)], check=True)
    values = np.concatenate([float32_inputs(format) for format in (E4M3, E5M2, E2M1, E8M0)])
    output = subprocess.run([program], input=values.tobytes(), capture_output=True, check=True).stdout
    *columns, from_double = np.frombuffer(output, np.uint8).reshape(len(_IN_HEADERS) + 1, -1)
    for (name, convention), theirs in zip(_IN_HEADERS, columns, strict=True):
        assert_same(FORMATS[name], convention, values, theirs)
    sign = np.where(np.isnan(values) & np.signbit(values), 0x80, 0)  # the overload for double keeps NaN's sign
    np.testing.assert_array_equal(from_double, columns[0] | sign)


# ---- formulas, written again from their sources' words ------------------------------------------------------------


def _nearest(format: Format, values: np.ndarray) -> np.ndarray:
    """Return codes without sign by counting the midpoints below each magnitude; a tie goes to the even code."""
    grid = format.decode(format.codes[: format.max_code + 1]).astype(np.float64)
    middle = (grid[1:] + grid[:-1]) / 2
    magnitude = np.abs(values.astype(np.float64))
    below, through = np.searchsorted(middle, magnitude, "left"), np.searchsorted(middle, magnitude, "right")
    return np.where(below % 2 == 0, below, through)


def _finite(format: Format) -> np.ndarray:
    values = float32_inputs(format)
    return values[np.isfinite(values)]


@pytest.mark.parametrize("convention", ["torch<=2.12", "cuda_nosat"])
def test_conversions_to_e4m3_without_saturation_follow_their_formula(convention: str):
    values = float32_inputs(E4M3)
    nan = np.isnan(values)
    codes = np.where(np.abs(values) > 464, 0x7F, _nearest(E4M3, np.where(nan, 0, values)))
    codes |= np.where(np.signbit(values), 0x80, 0)
    sign_of_nan = np.signbit(values) & (convention == "torch<=2.12")
    codes = np.where(nan, 0x7F | np.where(sign_of_nan, 0x80, 0), codes)
    assert_same(E4M3, convention, values, codes)


def test_cuda_nosat_to_e5m2_and_e8m0_follow_their_formula():
    values = float32_inputs(E5M2)
    magnitude = np.abs(values)
    codes = np.where(magnitude >= 61440, 0x7C, _nearest(E5M2, np.nan_to_num(values)))
    codes = np.where(np.isnan(values), 0x7F, codes | np.where(np.signbit(values), 0x80, 0))
    assert_same(E5M2, "cuda_nosat", values, codes)
    bits = magnitude.view(np.uint32).astype(np.int64)
    up = np.where(bits > 0x00400000, (bits >> 23) + ((bits & 0x7FFFFF) != 0), 0)
    assert_same(E8M0, "cuda_nosat", values, np.minimum(up, 0xFF))


@pytest.mark.parametrize("name", ["float6_e2m3fn", "float6_e3m2fn"])
def test_cuda_to_fp6_follows_its_formula(name: str):
    format, values = FORMATS[name], float32_inputs(FORMATS[name])
    codes = np.minimum(_nearest(format, np.nan_to_num(values)), 0x1F) | np.where(np.signbit(values), 0x20, 0)
    assert_same(format, "cuda", values, np.where(np.isnan(values), 0x1F, codes))


@pytest.mark.parametrize(("name", "width"), [("bfloat16", 16), ("float16", 13)])
def test_cuda_to_half_precision_is_ieee_with_one_nan(name: str, width: int):
    values = float32_inputs(FORMATS[name])
    theirs = torch.from_numpy(values).to(getattr(torch, name)).view(torch.uint16).numpy()
    assert_same(FORMATS[name], "cuda", values, np.where(np.isnan(values), 0x7FFF, theirs))


def _ties_toward_zero(values: np.ndarray) -> np.ndarray:
    return sum((np.abs(values) > bound).astype(np.uint8) for bound in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0))


def test_deep_gemm_to_e2m1_counts_bounds_and_forgets_the_sign_of_zero():
    values = float32_inputs(E2M1)
    codes = _ties_toward_zero(values)
    assert_same(E2M1, "deep_gemm", values, codes | (((values < 0) & (codes != 0)).astype(np.uint8) << 3))


def test_deep_gemm_to_e8m0_adds_one_for_any_fraction_and_clamps_to_1_and_254():
    values = float32_inputs(E8M0)
    bits = np.abs(values).view(np.int32)
    exponent = (bits >> 23 & 0xFF) + ((bits & 0x7FFFFF) != 0)
    assert_same(E8M0, "deep_gemm", values, np.clip(exponent, 1, 254).astype(np.uint8))


def test_modelopt_nvfp4_takes_the_sign_from_less_than_zero_and_nan_to_the_top():
    values = float32_inputs(E2M1)
    bounds = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    magnitude = torch.from_numpy(np.abs(values))
    codes = torch.searchsorted(bounds, magnitude).numpy() + np.isin(magnitude.numpy(), bounds.numpy()[1::2])
    assert_same(E2M1, "modelopt", values, codes + ((values < 0) << 3))


def test_modelopt_mxfp4_gives_zero_a_sign():
    values = float32_inputs(E2M1)
    values = values[~np.isnan(values)]
    sign = (2 - np.sign(values)) // 2
    assert_same(E2M1, "modelopt_mxfp4", values, (sign * 8 + _ties_toward_zero(values)).astype(np.uint8))


@pytest.mark.parametrize(
    ("convention", "through"), [("compressed_tensors", "float32"), ("compressed_tensors_triton", "bfloat16")]
)
def test_compressed_tensors_multiplies_by_the_sign_after_rounding(convention: str, through: str):
    values = _finite(E2M1)
    rounded = torch.from_numpy(values).to(getattr(torch, through)).float()
    magnitude = torch.from_numpy(E2M1.decode(np.minimum(_nearest(E2M1, rounded.numpy()), 7)))
    product = (magnitude * torch.sign(rounded)).numpy()
    codes = _nearest(E2M1, product) | (np.signbit(product).astype(np.int64) << 3)
    assert_same(E2M1, convention, values, codes)


def test_compressed_tensors_to_e4m3_clamps_before_torch_casts():
    values = float32_inputs(E4M3)
    clamped = torch.from_numpy(values).clamp(-448, 448)
    assert_same(E4M3, "compressed_tensors", values, _torch_codes(E4M3, clamped.numpy()))


@pytest.mark.parametrize("format", _destinations("microxcaling"), ids=lambda f: f.name)
def test_microxcaling_adds_a_half_in_float32(format: Format):
    values = torch.from_numpy(_finite(format))
    exponent = torch.floor(torch.log2(values.abs() + (values == 0))).clip(min=format.emin)
    scaled = values / 2**exponent * 2**format.mantissa_bits
    rounded = torch.sign(scaled) * torch.floor(scaled.abs() + 0.5)
    result = (rounded / 2**format.mantissa_bits * 2**exponent).clamp(-format.max, format.max).numpy()
    codes = _nearest(format, result) | np.where(np.signbit(result), format.sign_mask, 0)
    assert_same(format, "microxcaling", values.numpy(), codes)


def _torchao_normal(format: Format, values: np.ndarray) -> np.ndarray:
    bits = np.abs(values).view(np.int32).astype(np.int64)
    shift = 23 - format.mantissa_bits
    return (bits + ((format.bias - 127) << 23) + (1 << (shift - 1)) - 1 + ((bits >> shift) & 1)) >> shift


@pytest.mark.parametrize("format", _destinations("torchao"), ids=lambda f: f.name)
def test_torchao_rounds_to_even_and_clamps(format: Format):
    values = float32_inputs(format)
    values = values[~np.isnan(values)]
    magic = np.float32(2.0 ** (23 - format.mantissa_bits + format.emin))  # a sum rounds to the subnormal step
    subnormal = (np.abs(values) + magic).view(np.int32) - magic.view(np.int32)
    codes = np.where(np.abs(values) < format.min_normal, subnormal, _torchao_normal(format, values))
    codes = np.where(np.abs(values) >= format.max, format.max_code, codes)
    assert_same(format, "torchao", values, codes | np.where(np.signbit(values), format.sign_mask, 0))


def test_torchao_turns_nan_into_a_code_that_depends_on_its_payload():
    values = float32_inputs(E2M1)
    assert set((_torchao_normal(E2M1, values[np.isnan(values)]) & 0xFF).tolist()) == {2, 3, 4}


# ---- the table ----------------------------------------------------------------------------------------------------


def test_the_page_holds_the_generated_tables():
    page = (Path(__file__).parents[2] / "docs" / "numerics.md").read_text(encoding="utf-8")
    assert text().strip() in page, "run: python -m dgref.formats.disagreements, and paste between the markers"


def test_every_destination_of_a_convention_is_probed():
    named = {name for convention in CONVENTIONS.values() for name in convention.conversions}
    assert named - set(PROBES) <= {"float8_e4m3fnuz", "float8_e5m2fnuz"}  # torch and ml_dtypes agree on those two


def test_a_destination_a_library_does_not_have_is_an_error():
    with pytest.raises(FormatError, match="convention 'deep_gemm'"):
        E5M2.encode(1.0, convention="deep_gemm")
