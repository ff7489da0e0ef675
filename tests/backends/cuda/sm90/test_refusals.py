"""What a call cannot mean is an error before anything is launched; what is nothing to compute launches nothing."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgref.backends.cuda.launch import Resources
from dgref.backends.cuda.sm90 import launch
from dgref.backends.cuda.sm90.configuration import configuration, configure
from dgref.backends.cuda.sm90.gemm import bf16_gemm, fp8_gemm
from dgref.backends.cuda.sm90.grouped import gemm_grouped_contiguous, gemm_grouped_k, gemm_grouped_masked
from dgref.backends.cuda.sm90.operands import strided
from dgref.backends.cuda.sm90.shape import Shape, Tile
from dgref.errors import DgrefError, FormatError, InputError, LayoutError, ShapeError, UnsupportedError
from tests.backends.cuda.sm90.recording import Driver, record
from tests.deep_gemm.spoiled import spoiled

M, N, K, GROUPS = 64, 128, 256, 2
BF16, E4M3 = torch.bfloat16, torch.float8_e4m3fn


def made(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def labels(count: int) -> torch.Tensor:
    return made(count, dtype=torch.int32)


def dense(**changes: Any) -> Callable:
    call = {"a": made(M, K, dtype=E4M3), "a_scale": torch.ones(M, 2), "b": made(N, K, dtype=E4M3)}
    call |= {"b_scale": torch.ones(1, 2), "d": made(M, N)}
    return lambda: fp8_gemm(**call | changes)


def batch(**changes: Any) -> Callable:
    call = {"a": made(GROUPS, M, K, dtype=E4M3), "a_scale": torch.ones(GROUPS, M, 2)}
    call |= {"b": made(GROUPS, N, K, dtype=E4M3), "b_scale": torch.ones(GROUPS, 1, 2), "d": made(GROUPS, M, N)}
    return dense(**call | changes)


def contiguous(**changes: Any) -> Callable:
    call = {"a": made(M, K), "b": made(GROUPS, N, K), "d": made(M, N), "layout": labels(M)}
    return lambda: gemm_grouped_contiguous(**call | changes)


def masked(rows: int, groups: int = GROUPS, **changes: Any) -> Callable:
    call = {"a": made(groups, rows, K), "b": made(groups, N, K), "d": made(groups, rows, N), "expected_m": 1}
    call |= {"masked_m": labels(groups)}
    return lambda: gemm_grouped_masked(**call | changes)


def of_k(**changes: Any) -> Callable:
    call = {"a": made(K, M), "b": made(K, N), "d": made(GROUPS, M, N), "layout": labels(GROUPS)}
    return lambda: gemm_grouped_k(**call | changes)


def stacked(groups: int, k: int, transposed: str) -> Callable:
    """A batch of BF16, some operands of which lie with their rows next to each other."""
    rows = {"a": M, "b": N}
    laid = {name: made(groups, k, rows[name]).transpose(1, 2) for name in transposed}
    whole = {name: made(groups, count, k) for name, count in rows.items()} | laid
    return lambda: bf16_gemm(whole["a"], whole["b"], made(groups, M, N))


def shared_words() -> torch.Tensor:
    """Scales of one group's weights that stand for those of every group."""
    return made(1, 2, N, dtype=torch.int32).transpose(1, 2).expand(GROUPS, N, 2)


FLAT = {"a": made(K * M, dtype=E4M3), "b": made(K * N, dtype=E4M3), "a_scale": torch.ones(M, 2)}
FLAT |= {"b_scale": torch.ones(N, 2)}
GAPS = {"a_scale": torch.ones(M, 4)[:, ::2], "b_scale": torch.ones(N, 4)[:, ::2], "b_block": (1, 128)}
SHORT = {"a": made(K, M, dtype=E4M3), "b": made(K, N, dtype=E4M3), "a_scale": torch.ones(M, 1)}
SHORT |= {"b_scale": torch.ones(N, 1)}
PACKED = {"b": made(GROUPS, N, K // 2, dtype=torch.uint8), "packed": True, "b_block": (1, 32)}
WIDE = configure(Shape(M, N, K, scaling="VECTOR"), Tile(256, 128, 2), 1, 132)
REFUSED = [
    (dense(packed="no"), InputError, "packed: got 'no', need True or False"),
    (dense(batch_invariant=3), InputError, "batch_invariant: got 3, need True or False"),
    (contiguous(packed="no"), InputError, "packed: got 'no', need True or False"),
    (dense(a=made(1, K, dtype=E4M3).expand(M, K)), LayoutError, "need lines that lie apart: copy what is expanded"),
    (lambda: bf16_gemm(made(M, 0), made(N, 0), made(M, N, dtype=E4M3)), FormatError, "d: got torch.float8_e4m3fn"),
    (lambda: bf16_gemm(made(M, 0), made(N, 0, dtype=E4M3), made(M, N)), FormatError, "b: got torch.float8_e4m3fn"),
    (dense(**GAPS, forced=WIDE), UnsupportedError, "need one of at most 128 rows, for scales with gaps between them"),
    (batch(d=made(M, N)), ShapeError, "d: got (64, 128), need (2, 64, 128)"),
    (batch(d=made(1, M, N)), ShapeError, "d: got (1, 64, 128), need (2, 64, 128)"),
    (dense(d=made(GROUPS, M, N)), ShapeError, "d: got (2, 64, 128), need (1, 64, 128)"),
    (dense(d=made(1, N).expand(M, N)), LayoutError, "d: got strides (0, 1), need memory for each element"),
    (dense(d=made(M * N).as_strided((M, N), (96, 1))), LayoutError, "128 or more from row to row"),
    (dense(head_splits=(48, 16, 48), d=made(M, 112)), ShapeError, "n: got 128, need a multiple of left + right = 96"),
    (dense(head_splits=(64, -32, 64), d=made(M, 96)), ValueError, "head_splits: got -32, need an integer from 0 up"),
    (dense(head_splits=(0, 1, 0)), ValueError, "need three extents >= 0 with left + right > 0"),
    (dense(a_scale=torch.ones(M)), ShapeError, "a_scale: got (64,), need a matrix or a stack of matrices"),
    (batch(a_scale=torch.ones(M, 4)), ShapeError, "a_scale: got (64, 4), need 64 rows and 4 scales of each in all"),
    (dense(b_scale=torch.ones(1, 1, 1, 2)), ShapeError, "b_scale: got (1, 1, 1, 2), need a matrix or a stack"),
    (contiguous(alignment=48), UnsupportedError, "alignment: got 48, need a multiple of 64"),
    (contiguous(alignment=0), ShapeError, "alignment: got 0, need an integer from 1 up"),
    (of_k(prefix_sum=True, alignment=32), UnsupportedError, "alignment: got 32, need a multiple of 64"),
    (of_k(prefix_sum=True, alignment=0), ShapeError, "alignment: got 0, need an integer from 1 up"),
    (of_k(b=made(N, K).t()), LayoutError, "b: got K-major, need MN-major, as a"),
    (of_k(sizes=[64, 64, 128]), ShapeError, "sizes: got 3 of them, need 2, one for each group"),
    (of_k(**FLAT, sizes=[256]), ShapeError, "sizes: got 1 of them, need 2, one for each group"),
]
REFUSED += [
    (
        stacked(GROUPS, 96, "ab"),
        ShapeError,
        "a: got K = 96, need a multiple of 64 where several MN-major groups follow",
    ),
    (stacked(GROUPS, 96, "b"), ShapeError, "b: got K = 96, need a multiple of 64 where several MN-major groups follow"),
    (
        contiguous(b=made(GROUPS, N, K // 2), packed=True),
        InputError,
        "scales: got none, need those of a and of b, where b is packed",
    ),
    (contiguous(a=made(1, M, K)), ShapeError, "a: got (1, 64, 256), need one matrix"),
    (of_k(**SHORT), ShapeError, "a_scale: got 1 scales of each row, need one for each 128 of K = 256"),
    (of_k(**SHORT | {"a_scale": torch.ones(M)}), ShapeError, "a_scale: got (64,), need a matrix"),
    (of_k(a=made(1, K, M)), ShapeError, "a: got (1, 256, 64), need a matrix"),
    (of_k(**FLAT, sizes=[128, 128], d=made(M, N)), ShapeError, "d: got (64, 128), need a stack of matrices"),
    (batch(**PACKED | {"b_scale": shared_words()}), LayoutError, "b_scale: got strides (0, 1, 128), need MN-major"),
]
ONE = torch.tensor(1.0)
FEW = {"a": made(GROUPS, 32, K, dtype=E4M3), "a_scale": torch.ones(GROUPS, 32, 2)}
NO_K = {"a": made(M, 0, dtype=E4M3), "a_scale": torch.ones(M, 0), "b": made(N, 0, dtype=E4M3)}
NO_K |= {"b_scale": torch.ones(1, 0)}
REFUSED += [
    (dense(b_block=[128, 128]), InputError, "b_block: got [128, 128], need a tuple"),
    (dense(head_splits=[64, 32, 64], d=made(M, 160)), InputError, "head_splits: got [64, 32, 64], need a tuple"),
    (contiguous(b_block=[128, 128]), InputError, "b_block: got [128, 128], need a tuple"),
    (dense(a=ONE.to(E4M3)), ShapeError, "a: got a tensor without axes, need one of one axis or more"),
    (dense(d=ONE.to(BF16)), ShapeError, "d: got a tensor without axes"),
    (contiguous(layout=ONE.int()), ShapeError, "layout: got a tensor without axes"),
    (of_k(c=ONE), ShapeError, "c: got a tensor without axes"),
    (contiguous(a=ONE.to(BF16), check=True), ShapeError, "a: got a tensor without axes"),
    (of_k(a=ONE.to(BF16), check=True), ShapeError, "a: got a tensor without axes"),
    (masked(M, expected_m=None), InputError, "expected_m: got None, need an integer from 0 up"),
    (masked(M, expected_m=7.5), InputError, "expected_m: got 7.5, need an integer from 0 up"),
    (of_k(sizes=["128", "128"]), InputError, "sizes: got '128', need an integer from 0 up"),
    (of_k(sizes=256), InputError, "sizes: got 256, need a sequence of integers"),
    (dense(resources=Resources(1.5)), InputError, "multiprocessors: got 1.5, need an integer from 0 to 132"),
    (dense(resources=Resources(-1)), InputError, "multiprocessors: got -1, need an integer from 0 to 132"),
    (contiguous(alignment=128.0), ShapeError, "alignment: got 128.0, need an integer from 1 up"),
    (dense(**NO_K, c=made(1, N)), LayoutError, "c: got (torch.bfloat16, (1, 128)), need the dtype, shape and strides"),
    (dense(**NO_K, d=made(M, 1)), ShapeError, "d: got (64, 1), need (64, 128)"),
    (dense(**NO_K | {"b": made(N, K, dtype=E4M3)}), ShapeError, "b: got (1, 256), need (1, 0): a's groups and K"),
    (of_k(a=made(0, M), b=made(0, N), c=made(1, M, N)), LayoutError, "c: got (torch.bfloat16, (1, 64, 128)), need"),
    (of_k(a=made(0, M), b=made(0, N), d=made(1, M, N)), ShapeError, "d: got (1, 64, 128), need (2, 64, 128)"),
    (contiguous(a=made(M, 0), b=made(GROUPS, N, 0), d=made(1, N)), ShapeError, "d: got (1, 128), need (64, 128)"),
    (masked(M, a=made(GROUPS, M, 0)), ShapeError, "b: got K = 256, need K = 0, as in a"),
    (
        batch(d=made(M * N).as_strided((GROUPS, 32, N), (N, N, 1)), **FEW),
        LayoutError,
        "d: got strides (128, 128, 1) of (2, 32, 128), need memory for each element: rows of a group lie in",
    ),
    (
        batch(d=made(3 * M * N).as_strided((GROUPS, M, N), (200, 256, 1))),
        LayoutError,
        "d: got strides (200, 256, 1) of (2, 64, 128), need memory for each element: rows of a group lie in",
    ),
    (
        dense(
            a=made(65536, 16, 16, dtype=E4M3).transpose(1, 2),
            a_scale=torch.ones(65536, 16, 1),
            b=made(65536, 16, 16, dtype=E4M3),
            b_scale=torch.ones(65536, 1, 1),
            d=made(65536, 16, 16),
        ),
        UnsupportedError,
        "groups: got 65,536, need at most 65,535, where a is rewritten first",
    ),
]
REFUSED += [
    (contiguous(a=None), FormatError, "gemm_grouped_contiguous: a: got None, need a torch tensor"),
    (contiguous(layout=[0] * M), FormatError, "gemm_grouped_contiguous: layout: got list, need a torch tensor"),
    (contiguous(zero_padding=None), InputError, "zero_padding: got None, need True or False"),
    (contiguous(prefix_sum=1), InputError, "prefix_sum: got 1, need True or False"),
    (contiguous(check=True, layout=made(M)), FormatError, "layout: got torch.bfloat16 (64,), need one axis of int32"),
    (masked(M, masked_m=(1, 2)), FormatError, "gemm_grouped_masked: masked_m: got (1, 2), need a torch tensor"),
    (masked(M, resources=None), InputError, "gemm_grouped_masked: resources: got None, need Resources"),
    (masked(M, forced=3), InputError, "gemm_grouped_masked: forced: got 3, need Configuration"),
    (of_k(c="c"), FormatError, "gemm_grouped_k: c: got 'c', need a torch tensor"),
    (of_k(d=None), FormatError, "gemm_grouped_k: d: got None, need a torch tensor"),
    (of_k(layout=labels(2)[None], check=True), FormatError, "layout: got torch.int32 (1, 2), need one axis of int32"),
    (of_k(**FLAT | {"b_scale": None}, sizes=[128, 128]), InputError, "need FP8 with scales, and the K of each group"),
    (of_k(**FLAT | {"a": made(0, dtype=E4M3)}, sizes=[128, 128]), ShapeError, "sizes: got a sum of 256, need 0"),
    (of_k(**FLAT | {"b": made(K, N, dtype=E4M3)}, sizes=[128, 128]), ShapeError, "b: got (256, 128), need 32768"),
    (of_k(a=made(0, M), b=made(0, N), sizes=[128, 128]), ShapeError, "sizes: got a sum of 256, need 0, the K of a"),
    (
        of_k(sizes=[64, 192], layout=torch.tensor([192, 64], dtype=torch.int32), check=True),
        InputError,
        "layout: got [192, 64], need [64, 192], the sizes that the host was given",
    ),
]
NOTHING = [
    contiguous(a=made(0, K), d=made(0, N), layout=labels(0)),
    contiguous(b=made(0, N, K), layout=labels(M) - 1),
    masked(0),
    masked(M, 0),
]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return record(monkeypatch)


@pytest.mark.parametrize(("call", "kind", "sentence"), REFUSED, ids=[sentence for *_, sentence in REFUSED])
def test_a_call_that_would_write_elsewhere_or_read_too_far_is_refused(
    call: Callable, kind: type, sentence: str, driver: Driver
) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert sentence in str(caught.value) and driver.launches == []


@pytest.mark.parametrize("call", NOTHING)
def test_no_rows_are_no_launch(call: Callable, driver: Driver) -> None:
    call()
    assert driver.launches == []


NO_SCALES = dict.fromkeys(("a_scale", "b_scale"))
PRODUCTS = {
    fp8_gemm: {
        **{"a": made(M, K, dtype=E4M3), "a_scale": torch.ones(M, 2), "b": made(N, K, dtype=E4M3)},
        **{"b_scale": torch.ones(1, 2), "d": made(M, N), "c": made(M, N)},
    },
    bf16_gemm: {"a": made(M, K), "b": made(N, K), "d": made(M, N), "c": made(M, N)},
    gemm_grouped_contiguous: {
        **{"a": made(M, K), "b": made(GROUPS, N, K), "d": made(M, N), "layout": labels(M)},
        **NO_SCALES,
    },
    gemm_grouped_masked: {
        **NO_SCALES,
        **{"a": made(GROUPS, M, K), "b": made(GROUPS, N, K), "d": made(GROUPS, M, N)},
        **{"masked_m": labels(GROUPS), "expected_m": 3},
    },
    gemm_grouped_k: {
        **NO_SCALES,
        **{"a": made(K, M), "b": made(K, N), "d": made(GROUPS, M, N), "c": made(GROUPS, M, N)},
        **{"layout": torch.tensor([128, 128], dtype=torch.int32), "sizes": [128, 128]},
    },
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), checked=st.booleans())
def test_whatever_comes_is_launched_or_refused_in_a_sentence(
    driver: Driver, data: st.DataObject, checked: bool
) -> None:
    call = data.draw(st.sampled_from(sorted(PRODUCTS, key=lambda function: function.__name__)))
    options = {"prefix_sum": False, "zero_padding": False, "packed": False, "batch_invariant": False, "check": checked}
    options |= {"forced": None, "resources": Resources()}
    arguments = PRODUCTS[call] | {name: options[name] for name in options.keys() & signature(call).parameters}
    name = data.draw(st.sampled_from(sorted(arguments)))
    arguments[name] = data.draw(st.sampled_from(list(spoiled(arguments[name]))))
    driver.launches.clear()
    launch._kept.plans.clear()
    try:
        call(**arguments)
    except DgrefError as error:
        assert str(error).startswith(f"{call.__name__}: ") and driver.launches == []


def test_scales_too_far_apart_for_a_kernel_to_say_so_are_refused() -> None:
    strides = (1 << 31, 2, 1)
    scales = SimpleNamespace(shape=(GROUPS, M, 2), stride=lambda: strides, dim=lambda: 3)
    with pytest.raises(LayoutError, match=r"a_scale: got strides \(2147483648, 2, 1\), need strides below 2\^31"):
        strided("a_scale", scales)


def test_rows_of_groups_are_zero_where_there_is_no_k(driver: Driver) -> None:
    none = {"a": made(M, 0), "b": made(GROUPS, N, 0)}
    for zero_padding in (False, True):
        layout, d = torch.where(torch.arange(M) < 40, 1, -1).int(), torch.ones(M, N)
        contiguous(**none, d=d, layout=layout, zero_padding=zero_padding)()
        assert (d == 0).all(1).tolist() == [zero_padding or row < 40 for row in range(M)]
    none["a"], ends = made(320, 0), torch.tensor([100, 150], dtype=torch.int32)
    for zero_padding in (False, True):
        d = torch.ones(320, N)
        contiguous(**none, d=d, layout=ends, prefix_sum=True, zero_padding=zero_padding)()
        want = [row < 256 if zero_padding else row < 100 or 128 <= row < 150 for row in range(320)]
        assert (d == 0).all(1).tolist() == want
    d = torch.ones(GROUPS, M, N)
    masked(M, a=made(GROUPS, M, 0), b=none["b"], d=d, masked_m=torch.tensor([3, 0], dtype=torch.int32))()
    assert (d == 0).all(2).tolist() == [[row < 3 for row in range(M)], [False] * M] and driver.launches == []


def test_no_k_gives_c_or_zero(driver: Driver) -> None:
    c, d = torch.full((M, N), 3.0), torch.ones(M, N)
    dense(**NO_K, d=d, c=c)()
    assert (d == 3).all()
    dense(**NO_K, d=d)()
    assert (d == 0).all()
    both, start = torch.ones(GROUPS, M, N), torch.full((GROUPS, M, N), 3.0)
    of_k(a=made(0, M), b=made(0, N), d=both, c=start)()
    assert (both == 3).all()
    flat = {"a": made(0, dtype=E4M3), "b": made(0, dtype=E4M3), "a_scale": torch.ones(M, 0)}
    of_k(**flat, b_scale=torch.ones(N, 0), d=both, sizes=[0, 0])()
    assert (both == 0).all() and driver.launches == []


def test_scales_with_gaps_are_read_one_by_one_by_tiles_that_can(driver: Driver) -> None:
    rows = made(4096, K, dtype=E4M3)
    scales = torch.ones(4096, 4)
    for apart in (scales[:, ::2], scales.view(-1)[: 4096 * 2].view(4096, 2)):
        operands = {"a": rows, "b": rows, "a_scale": apart, "b_scale": apart, "d": made(4096, 4096)}
        dense(**operands, b_block=(1, 128))()
    assert configuration(Shape(4096, 4096, K, scaling="VECTOR"), 132).wide
    assert not configuration(Shape(4096, 4096, K, scaling="VECTOR", pointed=True), 132).wide
    assert [name for name, *_ in driver.launches] == ["gemm", *["transpose_floats"] * 2, "gemm"]


def test_scales_that_groups_share_are_not_read_as_if_each_had_its_own(driver: Driver, monkeypatch) -> None:
    maps: list[tuple[int, ...]] = []
    encode = driver.cuTensorMapEncodeTiled

    def noted(dtype: str, rank: int, pointer: int, shape: list[int], *geometry: Any) -> tuple:
        maps.append(tuple(shape))
        return encode(dtype, rank, pointer, shape, *geometry)

    monkeypatch.setattr(driver, "cuTensorMapEncodeTiled", noted)
    own = made(GROUPS, 2, N, dtype=torch.float32).transpose(1, 2)
    for scales in (own, own[:1].expand(GROUPS, N, 2), made(1, N, dtype=torch.float32).t().expand(GROUPS, N, 2)):
        batch(b_scale=scales, b_block=(1, 128))()
    assert maps.count((N, GROUPS * 2)) == 1


def test_heads_and_interleaved_batches_are_launched(driver: Driver) -> None:
    dense(head_splits=(64, 32, 64), d=made(M, 160))()
    batch(d=made(M, GROUPS, N).transpose(0, 1))()
    dense(d=made(1, M, N))()
    assert [name for name, *_ in driver.launches].count("gemm") == 3
