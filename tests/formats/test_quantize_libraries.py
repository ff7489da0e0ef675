"""Recipes named after libraries give those libraries' bits.

`tests/data/quantize_libraries.npz` holds what the libraries themselves returned on a CPU with torch 2.13: torchao 0.18
(to_mx in its four modes, nvfp4_quantize with and without a global scale), nvidia-modelopt 0.47.0 (NVFP4QTensor,
MXFP4QTensor, MXFP8QTensor), compressed-tensors 0.20.0 (generate_gparam, calculate_qparams, quantize) and the Python
reference of TransformerEngine's kernels (custom_recipes/reference_nvfp4.py). The inputs lie beside them: `wide` (every
exponent, amaxes one ulp around 2^n, 1.75 * 2^n, 6 * 2^n, 448 * 2^n, subnormals, zeros) and `narrow` (grid points, ties,
zero blocks). FP4 codes are packed low nibble first.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dgref.formats import FORMATS, RECIPES, quantize

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "quantize_libraries.npz")
CASES = sorted(key.removesuffix("|codes") for key in GOLDEN if key.endswith("|codes"))
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


def golden_input(case: str) -> np.ndarray:
    x = GOLDEN[case.split("|")[0]]
    name = case.split("|")[1]
    if name.endswith("_bfloat16"):
        bfloat16 = FORMATS["bfloat16"]
        return bfloat16.decode(bfloat16.encode(x))
    return x


def golden_codes(case: str) -> np.ndarray:
    codes = GOLDEN[f"{case}|codes"]
    if RECIPES[case.split("|")[1]].format != "float4_e2m1fn":
        return codes
    return np.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1)


def without_negative_zero(codes: np.ndarray, case: str) -> np.ndarray:
    """TransformerEngine's Python reference drops the sign of zeros, which its kernels' cvt keeps."""
    from_reference = "transformer_engine" in case or "four_over_six" in case
    return np.where(codes == 8, 0, codes) if from_reference else codes


@pytest.mark.parametrize("case", CASES)
def test_a_library_recipe_returns_the_library_bits(case):
    t = quantize(golden_input(case), case.split("|")[1])
    np.testing.assert_array_equal(t.scale, GOLDEN[f"{case}|scale"])
    np.testing.assert_array_equal(without_negative_zero(t.data, case), without_negative_zero(golden_codes(case), case))


def test_every_library_that_runs_on_a_cpu_is_recorded():
    libraries = ("/torchao", "/modelopt", "/compressed_tensors", "nvfp4/four_over_six", "nvfp4/transformer_engine")
    draws = ("_stochastic", "_hadamard")  # another generator, and a transform that its reference does in bfloat16
    named = {name for name in RECIPES if any(part in name for part in libraries) and not name.endswith(draws)}
    recorded = {case.split("|")[1] for case in CASES}
    assert named - recorded == {"mxfp8_e5m2/torchao_ceil", "mxfp8_e5m2/torchao_even"} | {
        name for name in named if name.startswith("mxfp8") and name.endswith("/transformer_engine")
    }


@needs_torchao
@pytest.mark.parametrize("mode", ["FLOOR", "CEIL", "EVEN", "RCEIL"])
def test_mxfp8_equals_the_installed_torchao(mode):
    import torch
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_mx

    x = np.random.default_rng(0).standard_normal((256, 512)).astype(np.float32)
    scale, data = to_mx(torch.from_numpy(x), torch.float8_e4m3fn, 32, ScaleCalculationMode[mode])
    suffix = "" if mode == "FLOOR" else f"_{mode.lower()}"
    t = quantize(x, f"mxfp8/torchao{suffix}")
    np.testing.assert_array_equal(t.data, data.view(torch.uint8).numpy())
    np.testing.assert_array_equal(t.scale, scale.view(torch.uint8).numpy())
