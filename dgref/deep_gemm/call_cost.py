"""What a warm call costs the CPU, on the GPU here: `python -m dgref.deep_gemm.call_cost` prints the table of the docs.

Shapes are so small, and waits so frequent, that the GPU is never what is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import dgref.deep_gemm as deep_gemm
from dgref import machine

M, N, K, GROUPS = 64, 128, 512, 4
CALLS, ROUNDS = 100, 200
HEAD = ("call", "the same tensors again", "tensors elsewhere each time")


def calls(device: str) -> Iterator[tuple[str, Callable[..., None], tuple]]:
    """Yield calls by name, and arguments; K-major scales lie as a quantiser leaves them."""
    x, w = (torch.randn(rows, K, device=device).bfloat16() for rows in (M, N))
    a, b = (deep_gemm.per_token_cast_to_fp8(matrix, False) for matrix in (x, w))
    weights = deep_gemm.per_block_cast_to_fp8(w, False)
    ready = (a[0], deep_gemm.get_mn_major_tma_aligned_tensor(a[1]))
    d, sums = torch.empty(M, N, dtype=torch.bfloat16, device=device), torch.zeros(M, N, device=device)
    yield "`bf16_gemm_nt`", deep_gemm.bf16_gemm_nt, (x, w, d)
    yield "`fp8_gemm_nt`", deep_gemm.fp8_gemm_nt, (ready, weights, d)
    yield "`fp8_gemm_nt`, a's scales K-major", deep_gemm.fp8_gemm_nt, (a, weights, d)
    yield "`fp8_gemm_nt`, both scales K-major, c", deep_gemm.fp8_gemm_nt, (a, b, sums, sums, (1, 1, 128))
    stack, rows = (tuple(map(stacked, pair)) for pair in (weights, a))
    labels = torch.zeros(M, dtype=torch.int32, device=device)
    contiguous = deep_gemm.m_grouped_fp8_gemm_nt_contiguous
    yield "`m_grouped_fp8_gemm_nt_contiguous`, a's scales K-major", contiguous, (a, stack, d, labels)
    counts = torch.full((GROUPS,), 8, dtype=torch.int32, device=device)
    masked = deep_gemm.m_grouped_fp8_gemm_nt_masked
    yield "`m_grouped_fp8_gemm_nt_masked`, a's scales K-major", masked, (rows, stack, stacked(d), counts, 8)
    turned = tuple(part.t().contiguous() for part in weights)
    yield "`fp8_gemm_nn`: one launch more", deep_gemm.fp8_gemm_nn, (ready, turned, d)


def stacked(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor for each group."""
    return tensor.expand(GROUPS, *tensor.shape).contiguous()


def microseconds(call: Callable[..., None], arguments: list[tuple]) -> float:
    """Return what a call costs with these arguments in turn."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for given in arguments:
        call(*given)
    return (time.perf_counter() - begun) / len(arguments) * 1e6


def elsewhere(value: Any) -> Any:
    """Return an argument whose tensors are copies, with the same strides."""
    if isinstance(value, tuple):
        return tuple(map(elsewhere, value))
    return value.clone() if isinstance(value, torch.Tensor) else value


if __name__ == "__main__":
    machine.leave_without_gpu()
    measured = [
        (name, call, ([arguments] * CALLS, [elsewhere(arguments) for _ in range(CALLS)]))
        for name, call, arguments in calls("cuda")
    ]
    best = [[float("inf")] * 2 for _ in measured]
    for _ in range(ROUNDS):  # of all calls in turn: a moment in which the machine is slow falls on each of them
        for row, (_, call, given) in zip(best, measured, strict=True):
            row[:] = map(min, row, (microseconds(call, arguments) for arguments in given))
    print(f"| {' | '.join(HEAD)} |\n|---|---|---|")
    for (name, *_), (same, new) in zip(measured, best, strict=True):
        print(f"| {name} | {same:.1f} | {new:.1f} |")
