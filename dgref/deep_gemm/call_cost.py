"""What a warm call costs the CPU, on the GPU here: `python -m dgref.deep_gemm.call_cost`.

Shapes are so small, and waits so frequent, that the GPU is never what is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import dgref.deep_gemm as deep_gemm

M, N, K, GROUPS = 64, 128, 512, 4
CALLS, ROUNDS = 100, 30


def calls() -> Iterator[tuple[str, Callable[..., None], tuple]]:
    """Yield calls by name, and arguments; scales that are `moved` lie as a quantiser leaves them: a kernel rewrites."""
    x, w = _normal(M, K), _normal(N, K)
    a, b = (deep_gemm.per_token_cast_to_fp8(matrix, False) for matrix in (x, w))
    weights = deep_gemm.per_block_cast_to_fp8(w, False)
    ready = (a[0], deep_gemm.get_mn_major_tma_aligned_tensor(a[1]))
    d, sums = torch.empty(M, N, dtype=torch.bfloat16, device="cuda"), torch.zeros(M, N, device="cuda")
    stack = tuple(part.expand(GROUPS, *part.shape).contiguous() for part in weights)
    labels = torch.zeros(M, dtype=torch.int32, device="cuda")
    yield "bf16_gemm_nt", deep_gemm.bf16_gemm_nt, (x, w, d)
    yield "fp8_gemm_nt", deep_gemm.fp8_gemm_nt, (ready, weights, d)
    yield "fp8_gemm_nt, moved", deep_gemm.fp8_gemm_nt, (a, weights, d)
    yield "fp8_gemm_nt, both moved, c", deep_gemm.fp8_gemm_nt, (a, b, sums, sums, (1, 1, 128))
    yield "contiguous, moved", deep_gemm.m_grouped_fp8_gemm_nt_contiguous, (a, stack, d, labels)
    masked = tuple(part.expand(GROUPS, *part.shape).contiguous() for part in a)
    out, counts = d.expand(GROUPS, M, N).contiguous(), torch.full((GROUPS,), 8, dtype=torch.int32, device="cuda")
    yield "masked, moved", deep_gemm.m_grouped_fp8_gemm_nt_masked, (masked, stack, out, counts, 8)


def microseconds(call: Callable[..., None], arguments: list[tuple]) -> float:
    """Return what a call costs whose geometry is known, with these arguments in turn: the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        for given in arguments:
            call(*given)
        best = min(best, (time.perf_counter() - begun) / len(arguments) * 1e6)
    torch.cuda.synchronize()
    return best


def elsewhere(value: Any) -> Any:
    """Return an argument whose tensors are copies, with the same strides."""
    if isinstance(value, tuple):
        return tuple(map(elsewhere, value))
    return value.clone() if isinstance(value, torch.Tensor) else value


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda").bfloat16()


if __name__ == "__main__":
    print(f"{'us of CPU':28s} same addresses  new addresses")
    for name, call, arguments in calls():
        same = microseconds(call, [arguments] * CALLS)
        new = microseconds(call, [elsewhere(arguments) for _ in range(CALLS)])
        print(f"{name:28s} {same:14.2f} {new:14.2f}")
