"""Whole instructions of a narrow accumulator stay inside the bound in every order, whatever K is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.errors import InputError
from dgref.formats import FORMATS, ScaledTensor, quantize
from dgref.ops.typical import limit_arithmetic
from dgref.reference import gemm
from dgref.reference.arithmetic import ARITHMETICS
from dgref.reference.bound import derived_limits
from dgref.reference.bound_instructions import as_loaded
from dgref.reference.contraction import contract, finish
from dgref.reference.dispatch import using
from dgref.reference.limits import within

FP8 = "float8_e4m3fn"
NARROW = ARITHMETICS["cublaslt.fp8_fast"].but(scales="none", status="assumed")
PROFILES = {
    "even": lambda k: np.ones(k),
    "ramp": lambda k: np.arange(1, k + 1) / k,
    "decay": lambda k: 2.0 ** (-12 * np.arange(k) / k),
    "large, then small": lambda k: np.where(np.arange(k) < k // 2, 1.0, 2.0**-6),
    "one outlier": lambda k: np.where(np.arange(k) == 0, 128.0, 1.0),
    "outliers in front": lambda k: np.where(np.arange(k) < 32, 64.0, 1.0),
}
SIGNS = {
    "random": lambda k: np.ones(k),
    "alternating": lambda k: 1 - 2.0 * (np.arange(k) % 2),
    "halves": lambda k: np.where(np.arange(k) < k // 2, 1.0, -0.9),
    "small ones negative": lambda k: np.where(np.arange(k) < k // 4, 1.0, -1.0),
}
ORDERS = {
    "ascending": lambda i: i,
    "descending": lambda i: i[::-1],
    "blocks of 128 descending": lambda i: i.reshape(-1, 128)[::-1].reshape(-1),
    "every other 64": lambda i: i.reshape(-1, 2, 64).swapaxes(0, 1).reshape(-1),
    "every fourth instruction": lambda i: i.reshape(-1, 4, 32).swapaxes(0, 1).reshape(-1),
}


def operand(seed: int, rows: int, profile: np.ndarray, positive: bool) -> ScaledTensor:
    values = np.random.default_rng(seed).standard_normal((rows, profile.size))
    values = np.abs(values) if positive else values
    return ScaledTensor(FORMATS[FP8].encode((4 * values * profile).astype(np.float32), overflow="saturate"), FP8)


def permuted(tensor: ScaledTensor, order: np.ndarray) -> ScaledTensor:
    return replace(tensor, data=tensor.data[:, order])


def allowed(a: ScaledTensor, b: ScaledTensor, out: str) -> np.ndarray:
    with using("bound"):
        return gemm(a, b, arithmetic=NARROW, out=out)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32),
    *map(st.sampled_from, (sorted(PROFILES), sorted(PROFILES), sorted(SIGNS), sorted(ORDERS))),
    st.sampled_from(["sm89.mma", "sm90.wgmma", "sm100.mma"]),
    st.sampled_from([(0, 1), (32, 1), (128, 1), (0, 2), (64, 4), (0, 8)]),
    st.sampled_from([256, 512]),
)
def test_no_order_of_whole_instructions_gets_outside(seed, of_a, of_b, signs, order, core, chains, k):
    a = operand(seed, 9, PROFILES[of_a](k) * SIGNS[signs](k), positive=signs != "random")
    b = operand(seed + 1, 10, PROFILES[of_b](k), positive=signs != "random")
    interval, splits = chains
    arithmetic = NARROW.but(core=f"{core}.{FP8}", interval=interval, splits=splits, split_unit=32)
    index = ORDERS[order](np.arange(k))
    found = finish(contract(permuted(a, index), permuted(b, index), arithmetic), None, "float32")
    assert within(found, allowed(a, b, "float32")).all()


@pytest.mark.parametrize("width", [4, 8, 16])
def test_what_threads_load_at_once_may_be_permuted_on_ada(width):
    a = operand(2, 24, PROFILES["one outlier"](256), True)
    b = operand(3, 24, PROFILES["outliers in front"](256), True)
    index = as_loaded(np.arange(256)[None], width)[0]
    found = contract(permuted(a, index), permuted(b, index), NARROW.but(core=f"sm89.mma.{FP8}"))
    assert within(finish(found, None, "float32"), allowed(a, b, "float32")).all()


def test_threads_that_load_16_elements_share_64():
    index = as_loaded(np.arange(64)[None], 16)[0]
    assert index[:8].tolist() == [0, 1, 2, 3, 16, 17, 18, 19] and sorted(index) == list(range(64))
    assert as_loaded(np.ones((2, 40)), 16).sum() == 80, "zeros fill the last instructions"


def test_small_products_may_vanish_beside_large_ones_that_come_later_in_k():
    """Descending, the large products at the end of K come first, and nothing that follows is added in full."""
    k = 512
    a, b = (
        operand(0, 32, PROFILES["one outlier"](k)[::-1], True),
        operand(1, 40, PROFILES["outliers in front"](k)[::-1], True),
    )
    sums = {}
    for name in ("ascending", "descending"):
        index = ORDERS[name](np.arange(k))
        sums[name] = contract(permuted(a, index), permuted(b, index), NARROW.but(core=f"sm89.mma.{FP8}"))
        assert within(finish(sums[name], None, "float32"), allowed(a, b, "float32")).all()
    assert (sums["descending"] / sums["ascending"]).mean() < 1 - 2.0**-10


def test_a_seed_of_more_bits_than_the_accumulator_has_is_charged():
    a, b = (ScaledTensor(np.zeros((1, 32), np.uint8), FP8) for _ in range(2))
    c = np.full((1, 1), 1 + 2.0**-20, np.float32)
    arithmetic = NARROW.but(c="core")
    found = contract(a, b, arithmetic, c)
    assert found != c and within(found, derived_limits(a, b, arithmetic, c, "float32", order="instructions")).all()


@pytest.mark.parametrize(("recipe", "k", "least"), [("per_tensor_fp8", 1024, 0.005), ("deepseek_fp8", 2048, 0.002)])
def test_normal_data_leave_no_room_for_a_small_gain(recipe, k, least):
    a, b = (quantize(np.random.default_rng(i).standard_normal((48, k)).astype(np.float32), recipe) for i in (0, 1))
    with using("bound"):
        limits = gemm(a, b, arithmetic=limit_arithmetic("gemm", [(t.format, t.scaling) for t in (a, b)], True))
    exact = np.abs(gemm(a, b, out="float32").astype(np.float64))
    assert ((limits["high"] - limits["low"]) / 2 / exact).min() < least + 2.0**-8


def test_a_core_that_adds_c_later_has_no_such_order():
    a, b = operand(0, 2, np.ones(64), False), operand(1, 2, np.ones(64), False)
    with pytest.raises(InputError, match=r"order instructions: got sm100\.mma"):
        derived_limits(a, b, NARROW.but(core=f"sm100.mma.{FP8}"), order="instructions")
