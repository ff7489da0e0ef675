"""The derived bound holds for every registered arithmetic, and inputs exist that nearly reach it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dgref.errors import InputError
from dgref.formats.element import FORMATS
from dgref.formats.scaling import FULL, Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import ARITHMETICS
from dgref.reference.bound import derived_bound
from dgref.reference.contraction import contract, finish
from dgref.reference.exact import contract_exact
from dgref.reference.tensor_core import NARROW, TENSOR_CORES, TensorCore
from tests.conftest import VECTORS, needs_vectors

SHAPES = {"product": [(1, 128), (128, 128)], "epilogue": [(1, FULL), (FULL, FULL)]}


def operand(generator, format, scaling, shape, spread):
    values = generator.standard_normal(shape) * 2.0 ** generator.integers(-spread, spread + 1, shape)
    values[generator.random(shape) < 0.1] = 0
    data = FORMATS[format].encode(values.astype(np.float32), overflow="saturate")
    if scaling is None:
        return ScaledTensor(data, format)
    scale = (2.0 ** generator.uniform(-4, 4, scaling.grid(shape))).astype(np.float32)
    if scaling.scale_format != "float32":
        scale = FORMATS[scaling.scale_format].encode(scale)
    return ScaledTensor(data, format, scale, scaling)


def operands(arithmetic, seed, k, spread):
    generator = np.random.default_rng(seed)
    core, format = arithmetic.tensor_core, arithmetic.tensor_core.format
    format = "float32" if format == "tfloat32" else format
    blocks = SHAPES.get(arithmetic.scales if arithmetic.scales != "each" else "product", [])
    scalings = [Scaling(block if arithmetic.interval != 32 else (block[0], 32)) for block in blocks] or [None, None]
    if arithmetic.scales == "core":
        scalings = [Scaling((1, core.scale_block), core.scale_formats[0])] * 2
    return [operand(generator, format, s, (rows, k), spread) for s, rows in zip(scalings, (5, 7), strict=True)]


def excess(arithmetic, a, b, c=None, out="float32", **options):
    exact = contract_exact(a, b, c, out=out).astype(np.float64)
    actual = finish(contract(a, b, arithmetic), c, out).astype(np.float64)
    limit = derived_bound(a, b, arithmetic, c, out, **options)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.abs(actual - exact) / limit)  # 0 of 0 is inside


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32),
    st.sampled_from(sorted(ARITHMETICS)),
    st.integers(1, 300),
    st.sampled_from([0, 2, 6]),
    st.sampled_from(["float32", "bfloat16"]),
    st.sampled_from(["ascending", "instructions", "any"]),
)
def test_every_registered_arithmetic_stays_inside(seed, name, k, spread, out, order):
    arithmetic = ARITHMETICS[name]
    assume(order != "instructions" or arithmetic.tensor_core.fraction_bits < NARROW)
    a, b = operands(arithmetic, seed, k, spread)
    c = np.random.default_rng(seed).standard_normal((5, 7)).astype(np.float32) if seed % 2 else None
    assert np.max(excess(arithmetic, a, b, c, out, order=order)) <= 1


@cache
def unscaled(core):
    return ARITHMETICS["deep_gemm.sm90.bf16"].but(name=core, core=core)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(TENSOR_CORES)), st.integers(1, 100), st.sampled_from([0, 4, 20]))
def test_one_chain_on_every_tensor_core_stays_inside(seed, core, k, spread):
    arithmetic = unscaled(core)
    if arithmetic.tensor_core.scale_block:
        arithmetic = arithmetic.but(scales="core")
    a, b = operands(arithmetic, seed, k, spread)
    assert np.max(excess(arithmetic, a, b)) <= 1


RECORDED = [
    ("deep_gemm_fp8_1d2d", "deep_gemm.sm90.fp8_1d2d", "bfloat16", [Scaling((1, 128)), Scaling((128, 128))]),
    ("deep_gemm_fp8_1d1d", "deep_gemm.sm90.fp8_1d1d", "float32", [Scaling((1, 128)), Scaling((1, 128))]),
    ("deep_gemm_bf16", "deep_gemm.sm90.bf16", "float32", [None, None]),
    ("deep_gemm_tf32_hc_prenorm", "deep_gemm.sm90.hc_prenorm", "float32", [None, None]),
]


@needs_vectors
@pytest.mark.parametrize(("file", "name", "out", "scalings"), RECORDED, ids=[row[0] for row in RECORDED])
def test_what_an_h200_computed_stays_inside_in_known_and_in_free_order(file, name, out, scalings):
    with np.load(VECTORS / "h200" / f"{file}.npz") as archive:
        recorded = {key: archive[key] for key in archive.files}
    formats = {np.uint8: "float8_e4m3fn", np.uint16: "bfloat16", np.uint32: "float32"}
    a, b = (
        ScaledTensor(recorded[side], formats[recorded[side].dtype.type], recorded.get(f"sf{side}"), scaling)
        for side, scaling in zip("ab", scalings, strict=True)
    )
    exact = contract_exact(a, b, out=out).astype(np.float64)
    codes = recorded["d"].view(FORMATS[out].code_dtype)
    distance = np.abs(FORMATS[out].decode(codes).astype(np.float64) - exact)
    orders = ["instructions"] if ARITHMETICS[name].tensor_core.fraction_bits < NARROW else []
    for order in ("ascending", "any", *orders):
        assert np.all(distance <= derived_bound(a, b, name, out=out, order=order))


def test_no_k_leaves_nothing_to_lose():
    nothing = np.ones((2, 0), np.float32)
    assert derived_bound(nothing, nothing, "deep_gemm.sm90.bf16").max() == 0


@pytest.mark.parametrize("changes", [{"splits": 3}, {"splits": 4, "reduction": "tree"}, {"interval": 32}])
def test_splits_and_promotions_stay_inside(changes):
    arithmetic = ARITHMETICS["deep_gemm.sm90.bf16"].but(**changes)
    a, b = operands(arithmetic, 1, 512, 4)
    assert np.max(excess(arithmetic, a, b)) <= 1


def aligned_to_lose_most():
    """One product of 2^16, whose last kept bit is worth 8, then products of 7.5 that vanish one by one."""
    a = np.full((1, 128), 7.5, np.float32)
    b = np.ones((1, 128), np.float32)
    a[0, 0] = b[0, 0] = 256
    return [ScaledTensor(FORMATS["float8_e4m3fn"].encode(x), "float8_e4m3fn") for x in (a, b)]


def test_the_worst_inputs_nearly_reach_the_bound():
    arithmetic = ARITHMETICS["cublaslt.fp8_fast"].but(scales="none")
    assert 0.8 < excess(arithmetic, *aligned_to_lose_most()).item() <= 1


def test_random_inputs_stay_a_known_factor_below():
    arithmetic = ARITHMETICS["deep_gemm.sm90.fp8_1d2d"]
    generator = np.random.default_rng(0)
    a = operand(generator, "float8_e4m3fn", Scaling((1, 128)), (64, 1024), 0)
    b = operand(generator, "float8_e4m3fn", Scaling((128, 128)), (128, 1024), 0)
    assert 1 / 60 < np.max(excess(arithmetic, a, b)) < 1 / 10


def test_a_narrower_accumulator_than_declared_breaks_the_bound_and_its_own_holds():
    narrow = TensorCore("narrow", 16, 16, 10, "e8m13", "assumed", "this test")
    honest = ARITHMETICS["cublaslt.fp8_fast"].but(scales="none")
    a, b = aligned_to_lose_most()
    wide = derived_bound(a, b, honest, out="float32")
    own = derived_bound(a, b, honest, out="float32", core=narrow)
    lost = 7.5 * 127  # with 10 fraction bits the last kept bit is worth 64
    assert own > 8 * wide * 0.9 and own > lost


def test_a_limit_is_infinite_where_overflow_is_possible_and_nan_where_exact_is():
    a = np.array([[2.0**127, 1.0], [np.nan, 1.0], [np.inf, 1.0], [0.0, 0.0]], np.float32)
    b = np.array([[1.999, 0.0]], np.float32)
    limit = derived_bound(a, b, ARITHMETICS["deep_gemm.sm90.hc_prenorm"].but(round_b=None))[:, 0]
    assert limit[0] == np.inf and np.isnan(limit[1]) and limit[2] == 0 and limit[3] < 1e-37


def test_selected_outputs_have_the_same_limits():
    arithmetic = ARITHMETICS["deep_gemm.sm90.fp8_1d2d"]
    a, b = operands(arithmetic, 3, 256, 2)
    whole = derived_bound(a, b, arithmetic)
    assert np.array_equal(derived_bound(a, b, arithmetic, rows=[4, 1], columns=slice(2, 7, 2)), whole[[4, 1]][:, 2:7:2])


def test_a_chain_across_scale_blocks_is_refused():
    a, b = operands(ARITHMETICS["deep_gemm.sm90.fp8_1d2d"], 3, 256, 2)
    with pytest.raises(InputError, match=r"chain: got K 0\.\.256, need within one scale block of 128"):
        derived_bound(a, b, ARITHMETICS["deep_gemm.sm90.fp8_1d2d"].but(interval=256))
