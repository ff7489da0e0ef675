from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from numba import njit, prange, types
from numba.extending import intrinsic

from dgref.backends.cuda import quantizers
from dgref.errors import FormatError, LayoutError, ShapeError, UnsupportedError
from dgref.formats.element import FORMATS
from dgref.formats.quantize import quantize
from dgref.formats.recipes import RECIPES

SUPPORTED = [name for name, row in RECIPES.items() if row.scaling and quantizers.unsupported(name) is None]


def test_the_host_packs_what_the_kernel_reads():
    assert quantizers._PROBLEM.size == 80  # static_assert in quantize.cuh


def test_the_recipes_that_people_use_have_kernels():
    assert {"deepseek_fp8", "deepseek_fp8_weight", "deepseek_fp8_channel", "mxfp8", "mxfp4", "nvfp4"} <= set(SUPPORTED)


@pytest.mark.parametrize(("recipe", "reason"), [("nvfp4/stochastic", "rounding"), ("bfloat16", "without scales")])
def test_a_recipe_without_a_kernel_says_why(recipe, reason):
    assert reason in quantizers.unsupported(recipe)
    with pytest.raises(UnsupportedError, match="CUDA quantiser"):
        quantizers.quantize(torch.zeros(4, 128), recipe)


@pytest.mark.parametrize(
    ("x", "layout", "error"),
    [
        (torch.zeros(4, 128, dtype=torch.float64), "linear", FormatError),
        (torch.zeros(4, 128), "linear", ShapeError),  # not on a GPU
        (torch.zeros(4, 128), "mn_major", ShapeError),
    ],
)
def test_an_input_that_cannot_be_quantised_is_an_error(x, layout, error):
    with pytest.raises((error, LayoutError)):
        quantizers.quantize(x, "deepseek_fp8", scale_layout=layout)


@intrinsic
def fused(typing, a, b, c):
    """a * b + c in float32, rounded once."""
    return types.float32(types.float32, types.float32, types.float32), lambda _, builder, __, arguments: builder.fma(
        *arguments
    )


@njit(parallel=True)
def wrong_quotients() -> np.ndarray:
    """Count the quotients that one correction leaves wrong: every bfloat16 significand by every float32 one."""
    wrong = np.zeros(128, np.int64)
    for index in prange(128):
        x = np.float32(128 + index)
        for significand in range(1 << 23, 1 << 24):
            d = np.float32(significand)
            reciprocal = np.float32(1) / d
            first = x * reciprocal
            wrong[index] += fused(fused(-first, d, x), reciprocal, first) != x / d
    return wrong


@pytest.mark.slow
def test_one_correction_rounds_every_quotient_of_a_bfloat16():
    assert wrong_quotients().sum() == 0


def values(kind: str, shape: tuple[int, int]) -> np.ndarray:
    generator = np.random.default_rng(4)
    if kind == "plain":
        return (generator.standard_normal(shape) * np.exp2(generator.uniform(-20, 20, (shape[0], 1)))).astype(
            np.float32
        )
    x = generator.integers(0, 2**32, shape, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.where(np.isfinite(x), x, np.float32(0))
    x[0], x[1], x[2, 3], x[3] = 0, 1e-40, np.inf, 6
    return x


def same_codes(actual: np.ndarray, expected: np.ndarray, format: str) -> np.ndarray:
    """Compare codes; NaN of either sign is NaN."""
    row = FORMATS[format]
    if not row.has_nan:
        return actual == expected
    return (actual == expected) | (row.is_nan(actual) & row.is_nan(expected))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("kind", "shape"), [("plain", (140, 256)), ("edge", (260, 256)), ("edge", (133, 203))])
@pytest.mark.parametrize("recipe", SUPPORTED)
def test_a_quantiser_equals_the_cpu_in_every_bit(recipe, kind, shape, dtype):
    x = values(kind, shape).astype(dtype)
    given = np.float32(3e30) if recipe.startswith("nvfp4") and kind == "edge" else None
    with np.errstate(all="ignore"):
        expected = quantize(x, recipe, global_scale=given)
    source = torch.from_numpy(x.view(np.int16 if dtype is ml_dtypes.bfloat16 else np.int32)).cuda()
    source = source.view(torch.bfloat16 if dtype is ml_dtypes.bfloat16 else torch.float32)
    actual = quantizers.quantize(source, recipe, global_scale=None if given is None else torch.tensor(given))
    payload = actual.data.view(torch.uint8).cpu().numpy()
    assert same_codes(payload, np.asarray(expected.packed()).view(np.uint8), expected.format).all()
    scale = actual.scale.cpu().numpy()
    np.testing.assert_array_equal(scale.view(np.uint8), np.asarray(expected.scale).view(np.uint8))
    if expected.global_scale is not None:
        assert actual.global_scale.item() == expected.global_scale


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["linear", "mn_major_tma"])
@pytest.mark.parametrize("recipe", ["deepseek_fp8", "deepseek_fp8_weight"])
def test_a_batch_is_quantised_matrix_by_matrix(recipe, layout):
    x = torch.randn(3, 130, 512, device="cuda")
    batch = quantizers.quantize(x, recipe, scale_layout=layout)
    for index in range(3):
        alone = quantizers.quantize(x[index], recipe)
        assert torch.equal(batch.data[index].view(torch.uint8), alone.data.view(torch.uint8))
        assert torch.equal(batch.scale[index], alone.scale)
