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
from dgref.reference import bound_engine as engine
from dgref.reference import gemm
from dgref.reference.arithmetic import ARITHMETICS
from dgref.reference.bound import derived_limits
from dgref.reference.bound_engine import binade
from dgref.reference.bound_instructions import whole_instructions
from dgref.reference.bound_steps import as_loaded
from dgref.reference.contraction import contract, finish
from dgref.reference.dispatch import using
from dgref.reference.limits import within

FP8 = "float8_e4m3fn"
NARROW = ARITHMETICS["cublaslt.fp8_fast"].but(scales="none", status="undeclared")
CODES = [code for code in range(256) if code & 0x7C != 0x7C]  # finite ones of both formats of 8 bits
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


def plain_ends(x, y, powers, begin, step, width, unit, floor):
    """Return the ends of one element's error for one kind of instruction as docs/bound.md says it: no chains meet."""
    products, tops = (as_loaded(each[None], width)[0] for each in (x * y, powers))
    instructions = products.reshape(-1, 32).sum(1)
    above, below = (max(s * begin, 0) + np.maximum(s * instructions, 0).sum() for s in (1, -1))
    inside = np.abs(products.reshape(-1, 32)[:, :step].sum(1)).max() if step < 32 else 0.0
    carried = binade(max(above, below) + inside)
    carried = max(carried, max(tops[tops > 0].min(), floor)) if tops.any() else carried
    up, down = (bool((s * np.append(products, begin) > 0).any()) for s in (1, -1))
    while True:
        ends = np.zeros(4)
        for p, top in zip(products.reshape(-1, step), tops.reshape(-1, step).max(1), strict=True):
            first, errors = max(top, floor), []
            for anchor in first * 2.0 ** np.arange(80) if top else ():
                if anchor <= max(first, carried):
                    lost = p.sum() - (np.trunc(p / (anchor * unit)) * anchor * unit).sum()
                    result = min(carried, binade(2 * anchor + abs(p.sum()) + step * anchor * unit))
                    rounding = (max(result - anchor, 0) + anchor * (anchor == first)) * unit
                    errors.append((-lost - rounding * up, -lost + rounding * down))
            if errors:
                least, most = min(e[0] for e in errors), max(e[1] for e in errors)
                ends += least, most, max(-least, 0), max(most, 0)
        seeded = abs(begin) * unit
        if not carried or inside + max(above + ends[3], below + ends[2]) + seeded < 2 * carried:
            return ends[0] - seeded, ends[1] + seeded
        carried *= 2


@pytest.mark.parametrize("k", [5, 32, 40, 64, 132, 200])
@pytest.mark.parametrize(("format", "scale"), [(FP8, 1.0), ("float8_e5m2", 1.0), (FP8, 1 + 2.0**-20)])
def test_blocks_of_steps_give_what_the_definition_gives(k, format, scale):
    rng = np.random.default_rng(k)
    x, y = (FORMATS[format].decode(rng.choice(CODES, (n, k))).astype(np.float64) for n in (3, 9))
    x[0, ::3], y[1] = 0, np.abs(y[1])
    x *= scale
    begin = rng.standard_normal((3, 9)) * 2.0 ** rng.integers(-20, 30, (3, 9))
    powers = [engine.anchors(each, FORMATS[format].emin) for each in (x, y)]
    unit, floor = 2.0**-13, 2.0**-9
    low, high = whole_instructions((x, powers[0]), (y, powers[1]), begin, unit, floor, 0.0)
    for i, j in np.ndindex(low.shape):
        pairs = ((32, 4), (16, 4), (16, 8), (16, 16))
        ends = [plain_ends(x[i], y[j], powers[0][i] * powers[1][j], begin[i, j], *pair, unit, floor) for pair in pairs]
        size = (np.abs(x[i]) @ np.abs(y[j]) + abs(begin[i, j])) * 2.0**-48
        assert abs(low[i, j] - min(e[0] for e in ends)) <= size and abs(high[i, j] - max(e[1] for e in ends)) <= size


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
