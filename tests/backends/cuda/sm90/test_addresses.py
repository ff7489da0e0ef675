"""A plan serves every call of its geometry: what is launched at other addresses is what a new plan would launch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from dgref.backends.cuda.binding import Address
from dgref.backends.cuda.driver import DriverError
from dgref.backends.cuda.sm90 import launch, workspace
from dgref.backends.cuda.sm90.gemm import bf16_gemm, fp8_gemm
from dgref.backends.cuda.sm90.grouped import gemm_grouped_contiguous, gemm_grouped_k, gemm_grouped_masked
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import UnsupportedError
from tests.backends.cuda.sm90.recording import Driver, keep_workspaces_here, record

M, N, K, GROUPS = 64, 256, 512, 4
LONG = 16384
BF16, E4M3, F32, I32 = torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.int32


def empty(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def ready(rows: int, lines: int) -> torch.Tensor:
    """Return scales that are MN-major, as the copy engine reads them."""
    return empty(lines, rows, dtype=F32).t()


def plain(*shape: int) -> torch.Tensor:
    """Return scales that are read by pointer."""
    return empty(*shape, dtype=F32)


def words(rows: int, lines: int) -> torch.Tensor:
    """Return scales of four powers of two to a word, MN-major."""
    return empty(lines, rows, dtype=I32).t()


def fp8(*shape: int) -> torch.Tensor:
    return empty(*shape, dtype=E4M3)


def block(*shape: int) -> torch.Tensor:
    return empty(*shape[:-2], shape[-2] // 128, shape[-1] // 128, dtype=F32)


def vector(call: Callable) -> Callable:
    return lambda *tensors: call(*tensors, b_block=(1, 128))


def per_32(call: Callable) -> Callable:
    return lambda *tensors: call(*tensors, b_block=(1, 32))


def packed(granule: int) -> Callable:
    return lambda *tensors: fp8_gemm(*tensors, b_block=(1, granule), packed=True)


def masked(a: Any, b: Any, d: Any, counts: Any, *scales: Any) -> None:
    gemm_grouped_masked(a, b, d, counts, 8, *scales)


def ends(*tensors: Any) -> None:
    gemm_grouped_contiguous(*tensors, prefix_sum=True, zero_padding=True)


def layout(count: int) -> torch.Tensor:
    return empty(count, dtype=I32)


def codes(rows: int) -> torch.Tensor:
    return empty(rows, K // 2, dtype=torch.uint8)


def masked_scales() -> tuple[torch.Tensor, torch.Tensor]:
    return plain(GROUPS, M, K // 128), block(GROUPS, N, K)


def total() -> torch.Tensor:
    return empty(2, M, N, dtype=F32)


STACK = (GROUPS, N, K)
CALLS: dict[str, tuple[Callable, Callable[[], tuple]]] = {
    "bf16": (bf16_gemm, lambda: (empty(M, K), empty(N, K), empty(M, N), None)),
    "bf16, transposed, c": (bf16_gemm, lambda: (empty(K, M).t(), empty(K, N).t(), empty(M, N), empty(M, N))),
    "bf16, unaligned d": (bf16_gemm, lambda: (empty(M, K), empty(N, K), empty(M, N + 1)[:, 1:], None)),
    "bf16, split": (bf16_gemm, lambda: (empty(16, 8192), empty(N, 8192), empty(16, N), None)),
    "fp8": (fp8_gemm, lambda: (fp8(M, K), ready(M, 4), fp8(N, K), block(N, K), empty(M, N), None)),
    "fp8, scales by pointer": (fp8_gemm, lambda: (fp8(M, K), plain(M, 4), fp8(N, K), block(N, K), empty(M, N), None)),
    "fp8, every other scale": (
        fp8_gemm,
        lambda: (fp8(M, K), plain(M, 8)[:, 1::2], fp8(N, K), block(N, K), empty(M, N), None),
    ),
    "fp8, all scales by pointer, c": (
        vector(fp8_gemm),
        lambda: (fp8(M, K), plain(M, 4), fp8(N, K), plain(N, 4), empty(M, N), empty(M, N)),
    ),
    "fp8, transposed": (
        fp8_gemm,
        lambda: (fp8(K, M).t(), ready(M, 4), fp8(K, N).t(), block(N, K), empty(M, N), None),
    ),
    "fp4": (packed(32), lambda: (fp8(M, K), ready(M, 4), codes(N), ready(N, 16), empty(M, N), None)),
    "fp4, scales by pointer": (packed(32), lambda: (fp8(M, K), plain(M, 4), codes(N), plain(N, 16), empty(M, N), None)),
    "fp4, widened": (
        packed(128),
        lambda: (fp8(4096, K), ready(4096, 4), codes(4096), ready(4096, 4), empty(4096, 4096), None),
    ),
    "fp4, words": (packed(32), lambda: (fp8(M, K), ready(M, 4), codes(N), words(N, 4), empty(M, N), None)),
    "fp4, folded": (
        packed(32),
        lambda: (fp8(4096, K), plain(4096, 4), codes(4096), words(4096, 4), empty(4096, 4096), None),
    ),
    "labels, per 32, scales moved": (
        per_32(gemm_grouped_contiguous),
        lambda: (fp8(M, LONG), fp8(1, N, LONG), empty(M, N), layout(M), plain(M, LONG // 128), plain(1, N, LONG // 32)),
    ),
    "labels": (
        gemm_grouped_contiguous,
        lambda: (fp8(M, K), fp8(*STACK), empty(M, N), layout(M), plain(M, 4), block(*STACK)),
    ),
    "ends": (ends, lambda: (empty(M, K), empty(*STACK), empty(M, N), layout(GROUPS))),
    "masked": (
        masked,
        lambda: (fp8(GROUPS, M, K), fp8(*STACK), empty(GROUPS, M, N), layout(GROUPS), *masked_scales()),
    ),
    "groups of k": (
        gemm_grouped_k,
        lambda: (fp8(K, M), fp8(K, N), total(), layout(2), total(), plain(M, 4), plain(N, 4)),
    ),
}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return record(monkeypatch)


def noted(driver: Driver, call: Callable, tensors: tuple) -> list[tuple]:
    driver.launches.clear()
    call(*tensors)
    return list(driver.launches)


def planned(driver: Driver, call: Callable, tensors: tuple) -> list[tuple]:
    """Return what a plan that is made for these tensors launches."""
    launch._kept.plans.clear()
    return noted(driver, call, tensors)


@pytest.mark.parametrize("name", CALLS)
def test_other_addresses_reach_every_argument_and_every_map(name: str, driver: Driver) -> None:
    call, make = CALLS[name]
    first, other = make(), make()
    before = noted(driver, call, first)
    mixtures = [other, first]
    for index, tensor in enumerate(first):
        if tensor is not None:  # one operand elsewhere, all others where they were
            mixtures.append((*first[:index], other[index], *first[index + 1 :]))
    found = [noted(driver, call, tensors) for tensors in mixtures]
    assert len(launch._kept.plans) == 1
    assert found == [planned(driver, call, tensors) for tensors in mixtures]
    assert len({tuple(launches) for launches in found}) == len(found) and found[1] == before


def only_plan() -> Any:
    (plan,) = launch._kept.plans.values()
    return plan


class Words:
    """An argument block's words; `amid` is called before one of them is written for the first time."""

    def __init__(self, words: Any, amid: Callable[[], None]):
        self._words, self._amid, self._left = words, amid, 2

    def __setitem__(self, place: int, value: int) -> None:
        self._left -= 1
        if self._left == 0:  # half of the addresses are written
            self._amid()
        self._words[place] = value


def test_a_map_that_hides_its_address_is_refused() -> None:
    hidden = TensorMap(bytes(128), Address(0, 4096))
    with pytest.raises(UnsupportedError, match="tensor map: got 0x0 in front, need its address, 0x1000"):
        assert hidden.addresses


def test_a_move_that_is_interrupted_is_made_again_in_full(driver: Driver) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    first, other = ((empty(M, K), empty(N, K), empty(M, N)) for _ in range(2))
    bf16_gemm(*first)
    plan = only_plan()
    words, plan._words = plan._words, Words(plan._words, interrupt)
    with pytest.raises(KeyboardInterrupt):
        bf16_gemm(*other)
    plan._words = words
    assert noted(driver, bf16_gemm, first) == planned(driver, bf16_gemm, first)


def test_a_thread_that_launches_amid_another_ones_launch_changes_nothing_of_it(driver: Driver) -> None:
    first, second, third = ((empty(M, K), empty(N, K), empty(M, N)) for _ in range(3))
    alone = [planned(driver, bf16_gemm, tensors) for tensors in (second, third)]
    launch._kept.plans.clear()
    bf16_gemm(*first)
    driver.launches.clear()
    amid = threading.Thread(target=bf16_gemm, args=second)

    def begin() -> None:
        amid.start()
        amid.join()

    plan = only_plan()
    plan._words = Words(plan._words, begin)
    bf16_gemm(*third)
    assert [[noted] for noted in driver.launches] == alone


def test_scales_are_moved_where_reading_them_one_by_one_would_take_longer(driver: Driver) -> None:
    names = {name: [launched for launched, *_ in noted(driver, call, make())] for name, (call, make) in CALLS.items()}
    assert names["labels, per 32, scales moved"] == ["transpose_floats", "transpose_floats", "gemm"]
    assert all(names[name] == ["gemm"] for name in names if "by pointer" in name or "every other" in name)


def test_launches_that_follow_each_other_on_a_stream_let_no_other_threads_between(driver: Driver) -> None:
    call, make = CALLS["fp8, transposed"]  # both threads rewrite their operands into the stream's one workspace
    first, second = make(), make()
    alone = [planned(driver, call, tensors) for tensors in (first, second)]
    driver.launches.clear()
    amid, launch_one = threading.Thread(target=call, args=second), driver.launch

    def launched(*given: Any) -> int:
        status = launch_one(*given)
        if not amid.ident:  # the first thread has rewritten an operand, and not yet multiplied
            amid.start()
            amid.join(0.2)
        return status

    driver.launch = launched
    launch._kept.plans.clear()
    call(*first)
    amid.join()
    assert driver.launches == [*alone[0], *alone[1]]


def test_threads_that_need_a_workspace_at_once_get_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_workspaces_here(monkeypatch)
    allocate = workspace._allocate

    def slow(*given: Any, **options: Any) -> torch.Tensor:
        time.sleep(0.05)
        return allocate(*given, **options)

    monkeypatch.setattr(workspace, "_allocate", slow)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: workspace.partial_sums(0, 7, 64), range(2)))
    assert found[0] is found[1]


def test_a_launch_that_the_driver_refuses_is_an_error(driver: Driver) -> None:
    driver.launch_refusal = 1
    with pytest.raises(DriverError, match=r"cuLaunchKernelEx: got 1 .refused., need CUDA_SUCCESS"):
        bf16_gemm(empty(M, K), empty(N, K), empty(M, N))


def test_an_address_that_no_map_can_have_is_an_error_at_every_call(driver: Driver) -> None:
    a, b, d = empty(M, K), empty(N, K), empty(M, N)
    bf16_gemm(a, b, d)
    odd = empty(M * K + 1)[1:].view(M, K)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a, address: got 0x.*multiple of 16"):
            bf16_gemm(odd, b, d)
    assert len(driver.launches) == 1


def test_groups_of_k_with_maps_in_gpu_memory_are_planned_for_their_addresses(driver: Driver) -> None:
    def call(a: torch.Tensor, b: torch.Tensor) -> None:
        gemm_grouped_k(a, b, total(), layout(2), None, plain(M, 4), plain(N, 4), sizes=[128, 384])

    first, other = ((fp8(M * K), fp8(N * K)) for _ in range(2))
    for tensors in (first, other, first, (first[0], other[1])):
        call(*tensors)
    assert len(launch._kept.plans) == 3


@pytest.mark.parametrize(("offset", "kernel", "bulk_stores"), [(0, "gemm", 1), (1, "gemm_by_pointer", 0)])
def test_a_c_that_the_copy_engine_cannot_reach_is_read_element_by_element(driver, offset, kernel, bulk_stores):
    c = torch.zeros(M * N + 4)[offset : offset + M * N].view(M, N)
    fp8_gemm(fp8(M, K), ready(M, K // 128), fp8(N, K), block(N, K), empty(M, N, dtype=F32), c)
    name, _, _, *arguments = driver.launches[-1]
    assert (name, int.from_bytes(arguments[-1], "little")) == (kernel, bulk_stores)
