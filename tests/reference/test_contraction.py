"""Contractions under declared arithmetics, against loops written out here."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest

from dgref.errors import FormatError, InputError, ShapeError
from dgref.formats.element import FORMATS
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic, sm90_fp8
from dgref.reference.contraction import contract, finish
from dgref.reference.tensor_core import TENSOR_CORES

E4M3 = "float8_e4m3fn"


def scaled(codes, scale, block, format=E4M3, scale_format="float32"):
    return ScaledTensor(codes, format, scale, Scaling(block, scale_format))


def plain(codes, format=E4M3):
    return ScaledTensor(codes, format)


def random_pair(rng, m=5, n=7, k=640):
    a, b = (rng.integers(0, 256, (rows, k)).astype(np.uint8) & 0xBF for rows in (m, n))
    sfa = rng.uniform(0.5, 2, (m, k // 128)).astype(np.float32)
    sfb = rng.uniform(0.5, 2, (-(-n // 128), k // 128)).astype(np.float32)
    return scaled(a, sfa, (1, 128)), scaled(b, sfb, (128, 128))


def looped(a: ScaledTensor, b: ScaledTensor, boundaries) -> np.ndarray:
    """The declared sentence as plain loops: four wgmma from zero, one fma, splits ascending."""
    core, edges = TENSOR_CORES["sm90.wgmma.float8_e4m3fn"], [0, *boundaries, a.shape[-1]]
    left, right = a.values(), b.values()
    result = np.zeros((a.shape[0], b.shape[0]), np.float32)
    for m, n in np.ndindex(result.shape):
        splits = []
        for low, high in pairwise(edges):
            total = np.float32(0)
            for block in range(low // 128, high // 128):
                chain = np.float32(0)
                for k in range(block * 128, block * 128 + 128, 32):
                    chain = core.dot(left[m, k : k + 32], right[n, k : k + 32], chain)
                scale = a.scale[m, block] * b.scale[n // 128, block]
                total = np.float32(np.longdouble(scale) * np.longdouble(chain) + np.longdouble(total))
            splits.append(total)
        for split in splits:
            result[m, n] += split
    return result


@pytest.mark.parametrize("boundaries", [(), (256,), (128, 512)])
def test_own_kernels_declaration_equals_plain_loops(boundaries):
    a, b = random_pair(np.random.default_rng(11))
    np.testing.assert_array_equal(contract(a, b, sm90_fp8(boundaries)), looped(a, b, boundaries))


@pytest.mark.parametrize("engine", ["fast", "readable"])
def test_a_sample_of_rows_and_columns_equals_the_full_result(engine):
    a, b = random_pair(np.random.default_rng(2), 40, 150)
    rows, columns = np.array([39, 3, 3]), np.array([149, 0, 127])
    full = contract(a, b, "dgref.sm90.fp8_1d2d", engine="fast")
    sample = contract(a, b, "dgref.sm90.fp8_1d2d", rows=rows, columns=columns, engine=engine)
    np.testing.assert_array_equal(sample, full[np.ix_(rows, columns)])


def test_tiles_do_not_show(monkeypatch):
    from dgref.reference import contraction

    a, b = random_pair(np.random.default_rng(2), 40, 150)
    full = contract(a, b, "dgref.sm90.fp8_1d2d")
    monkeypatch.setattr(contraction, "_TILE_ROWS", 16)
    monkeypatch.setattr(contraction, "_TILE_COLUMNS", 32)
    np.testing.assert_array_equal(contract(a, b, "dgref.sm90.fp8_1d2d"), full)


def test_leading_axes_broadcast_and_fold():
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 120, (2, 3, 4, 64)).astype(np.uint8), rng.integers(0, 120, (3, 5, 64)).astype(np.uint8)
    whole = contract(plain(a), plain(b), "cublaslt.fp8_fast")
    assert whole.shape == (2, 3, 4, 5)
    one = contract(plain(a[1, 2]), plain(b[2]), "cublaslt.fp8_fast")
    np.testing.assert_array_equal(whole[1, 2], one)
    np.testing.assert_array_equal(contract(plain(a), plain(b[2]), "cublaslt.fp8_fast")[1, 2], one)


@pytest.mark.parametrize("shape", [(0, 3, 64), (3, 0, 64), (3, 4, 0), (1, 1, 1)])
def test_empty_and_single_extents(shape):
    m, n, k = shape
    a, b = np.full((m, k), 0x38, np.uint8), np.full((n, k), 0x38, np.uint8)
    result = contract(plain(a), plain(b), "cublaslt.fp8_fast")
    np.testing.assert_array_equal(result, np.full((m, n), k, np.float32))


def test_the_order_of_splits_is_part_of_the_result():
    values = np.float32([1e8, 1, -1e8, 1])
    a = np.zeros((1, 64), np.float32)
    a[0, ::16] = [1, 1, 1, 1]
    b = np.zeros((1, 64), np.float32)
    b[0, ::16] = values
    a, b = (plain(FORMATS["bfloat16"].encode(x), "bfloat16") for x in (a, b))
    big = float(FORMATS["bfloat16"].decode(FORMATS["bfloat16"].encode(np.float32([1e8])))[0])
    base = Arithmetic("test", "sm90.wgmma.bfloat16", splits=4, split_unit=16)
    expected = {"ascending": np.float32(np.float32(big + 1) - big) + 1, "tree": 0.0, "descending": 0.0}
    expected["descending"] = np.float32(np.float32(np.float32(1 - big) + 1) + big)
    expected["tree"] = np.float32(np.float32(big) + 1) + np.float32(np.float32(-big) + 1)
    for reduction, value in expected.items():
        assert contract(a, b, base.but(reduction=reduction))[0, 0] == value


def test_c_seeds_the_core_or_is_added_in_fp32():
    a, b = plain(np.full((1, 32), 0x38, np.uint8)), plain(np.full((1, 32), 0x38, np.uint8))
    c = np.float32([[1 + 2.0**-20]])
    after = Arithmetic("test", "sm90.wgmma.float8_e4m3fn")
    assert contract(a, b, after, c)[0, 0] == np.float32(33 + 2.0**-20)
    assert contract(a, b, after.but(c="core"), c)[0, 0] == 33.0


def test_rounded_operands_and_scales_after_each_other():
    rng = np.random.default_rng(9)
    a, b = random_pair(rng, 3, 4, 256)
    product = contract(a, b, sm90_fp8().but(promotion="multiply_add"))
    each = contract(a, b, sm90_fp8().but(promotion="multiply_add", scales="each"))
    chains = [
        contract(plain(a.data[:, k : k + 128]), plain(b.data[:, k : k + 128]), "cublaslt.fp8_fast") for k in (0, 128)
    ]
    total, other = np.zeros_like(product), np.zeros_like(product)
    for index, chain in enumerate(chains):
        total = total + chain * (a.scale[:, None, index] * b.scale[0, index])
        other = other + (chain * a.scale[:, None, index]) * b.scale[0, index]
    np.testing.assert_array_equal(product, total)
    np.testing.assert_array_equal(each, other)


def test_nan_and_infinity_come_out_as_the_gpu_writes_them():
    a = np.full((3, 32), 0x3C, np.uint8)
    a[1, 4], a[2, 7] = 0x7F, 0x7C
    result = contract(
        plain(a, "float8_e5m2"), plain(np.full((1, 32), 0x3C, np.uint8), "float8_e5m2"), "cublaslt.fp8_fast"
    )
    np.testing.assert_array_equal(result.view(np.uint32)[:, 0], [0x42000000, 0x7FFFFFFF, 0x7F800000])
    assert finish(result, out="bfloat16").view(np.uint16)[1, 0] == 0x7FFF


def test_finish_adds_c_in_fp32_and_rounds_once():
    accumulator = np.float32([[1.0, 3.0]])
    half_ulp = np.float32([[2.0**-8, 2.0**-8]])
    np.testing.assert_array_equal(finish(accumulator, half_ulp, "bfloat16").astype(np.float32), [[1.0, 3.0]])
    np.testing.assert_array_equal(finish(accumulator, out="float16", alpha=2.0), np.float16([[2, 6]]))
    doubled = finish(accumulator, np.ones((1, 2)), "float32", alpha=2.0, beta=3.0)
    np.testing.assert_array_equal(doubled, np.float32([[5, 9]]))
    assert finish(np.float32([[1e6]]), out="float16")[0, 0] == np.inf


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"interval": 0}, ShapeError, r"stay inside a block \[one runs over K 0\.\.639\]"),
        ({"interval": 256}, ShapeError, r"one runs over K 0\.\.255"),
        ({"boundaries": (64,)}, ShapeError, r"one runs over K 64\.\.191"),
        ({"scales": "none"}, FormatError, "this arithmetic applies no scales"),
        ({"scales": "epilogue"}, ShapeError, "one block over all of K"),
        ({"scales": "core"}, FormatError, "an instruction with block scales"),
    ],
)
def test_scales_that_the_arithmetic_cannot_apply_are_refused(change, error, message):
    a, b = random_pair(np.random.default_rng(1))
    with pytest.raises(error, match=message):
        contract(a, b, sm90_fp8().but(**change))


def test_wrong_shapes_and_selections_are_refused():
    a, b = random_pair(np.random.default_rng(1))
    with pytest.raises(ShapeError, match="equal last axes"):
        contract(a, plain(np.zeros((3, 32), np.uint8)), "cublaslt.fp8_fast")
    with pytest.raises(InputError, match="rows: got 9, need indices from 0 to 4"):
        contract(a, b, "dgref.sm90.fp8_1d2d", rows=[9])
    with pytest.raises(ShapeError, match="at least two axes"):
        contract(plain(np.zeros(3, np.uint8)), b, "cublaslt.fp8_fast")
    with pytest.raises(InputError, match="engine: got 'gpu', need fast or readable"):
        contract(a, b, "dgref.sm90.fp8_1d2d", engine="gpu")


def test_block_scales_that_are_no_powers_of_two_are_refused_by_ue8m0_cores():
    codes, scale = np.zeros((2, 64), np.uint8), np.float32([[1, 3], [1, 1]])
    with pytest.raises(FormatError, match=r"a.scale: got 3.0, need values of float8_e8m0fnu"):
        contract(scaled(codes, scale, (1, 32)), plain(codes), "deep_gemm.sm100.fp8_1d1d")


@pytest.mark.parametrize("blocks", [((1, 128), (128, 128)), ((1, 32), (1, 128)), ((1, 128), (1, 0))])
def test_coarser_scales_reach_every_instruction_block(blocks):
    rng = np.random.default_rng(8)
    tensors = []
    for rows, block in zip((5, 6), blocks, strict=True):
        scaling = Scaling(block, "float8_e8m0fnu")
        scale = rng.integers(120, 135, scaling.grid((rows, 256))).astype(np.uint8)
        tensors.append(ScaledTensor(rng.integers(0, 120, (rows, 256)).astype(np.uint8), E4M3, scale, scaling))
    a, b = tensors
    fine = [scaled(t.data, t.expanded_scale()[:, ::32], (1, 32)) for t in tensors]
    coarse = contract(a, b, "deep_gemm.sm100.fp8_1d1d")
    np.testing.assert_array_equal(coarse, contract(*fine, "deep_gemm.sm100.fp8_1d1d"))
    np.testing.assert_array_equal(coarse, contract(a, b, "deep_gemm.sm100.fp8_1d1d", engine="readable"))


def test_fp8_times_fp4_runs_natively_on_blackwell_and_widened_on_hopper():
    rng = np.random.default_rng(8)
    a = scaled(rng.integers(0, 120, (5, 96)).astype(np.uint8), np.ones((5, 3), np.float32), (1, 32))
    b = scaled(rng.integers(0, 16, (6, 96)).astype(np.uint8), np.ones((6, 3), np.float32), (1, 32), "float4_e2m1fn")
    widened = scaled(FORMATS[E4M3].encode(b.values()), b.scale, (1, 32))
    np.testing.assert_array_equal(contract(a, b, "dgref.sm90.fp8_fp4"), contract(a, widened, "dgref.sm90.fp8_fp4"))
    native = contract(a, b, "deep_gemm.sm100.fp8_fp4")
    np.testing.assert_array_equal(native, contract(a, b, "deep_gemm.sm100.fp8_fp4", engine="readable"))


def test_scales_of_two_kinds_and_scales_beside_the_instruction_are_refused():
    codes = np.zeros((2, 64), np.uint8)
    fp4 = [
        ScaledTensor(codes, "float4_e2m1fn", np.full((2, 4), 0x38, np.uint8), Scaling((1, 16), name))
        for name in ("float8_ue4m3", "float8_e8m0fnu")
    ]
    with pytest.raises(FormatError, match=r"b\.scale: got float8_e8m0fnu, need float8_ue4m3"):
        contract(*fp4, "cublaslt.sm100.nvfp4")
    with pytest.raises(FormatError, match="scales: got 'epilogue', need core"):
        contract(fp4[0], fp4[0], ARITHMETICS["cublaslt.sm100.nvfp4"].but(scales="epilogue"))
    with pytest.raises(ShapeError, match=r"c: got shape \(1, 2\)"):
        contract(fp4[0], fp4[0], "cublaslt.sm100.nvfp4", np.zeros((1, 2)))


def test_a_subnormal_block_scale_keeps_its_formats_smallest_exponent():
    core = TENSOR_CORES["sm100.tcgen05.mxf4nvf4.float4_e2m1fn"]
    a = np.zeros((1, 64), np.float32)
    a[0, 0] = a[0, 16] = 1.0
    small, one = np.float32([2.0**-9, 2.0**-9, 1, 1]), np.ones(4, np.float32)
    c = np.float32(2.0**-29)
    for scale, seed in ((small, c), (one, c)):
        expected = core.dot(a, a, seed, scale[None], scale[None])
        grid = FORMATS["float8_ue4m3"].encode(scale)[None]
        tensor = ScaledTensor(
            FORMATS["float4_e2m1fn"].encode(a), "float4_e2m1fn", grid, Scaling((1, 16), "float8_ue4m3")
        )
        arithmetic = ARITHMETICS["cublaslt.sm100.nvfp4"].but(c="core")
        np.testing.assert_array_equal(contract(tensor, tensor, arithmetic, np.full((1, 1), seed)), expected[:, None])


def test_global_scales_multiply_the_finished_sum():
    codes = np.full((1, 16), 2, np.uint8)
    scaling = Scaling((1, 16), "float8_ue4m3", global_scale="multiply")
    tensor = ScaledTensor(codes, "float4_e2m1fn", np.full((1, 1), 0x38, np.uint8), scaling, np.float32(0.5))
    assert contract(tensor, tensor, "cublaslt.sm100.nvfp4")[0, 0] == 16 * 0.25


def test_sums_and_scales_that_overflow_do_so_without_a_warning():
    huge = scaled(np.full((2, 128), 0x7E, np.uint8), np.full((2, 1), 3e37, np.float32), (1, 128))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for arithmetic in ("deep_gemm.sm90.fp8_1d2d", "cublaslt.fp8_fast"):
            assert np.isposinf(contract(huge, huge, arithmetic)).all()
