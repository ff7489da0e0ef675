"""`python -m dgref.backends.cuda.benchmark`: what the common kernels reach on this GPU, beside a copy of as many bytes.

Each kernel runs over inputs that together exceed the second-level cache, captured in one CUDA graph, so that neither
the cache nor the host is measured. A figure is the median of five replays.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from dgref import machine
from dgref.backends.cuda import quantizers, scale_layouts, verifier
from dgref.backends.cuda.jit import compile_kernel

_BEYOND_CACHE = 600_000_000  # bytes touched by one round
_RECIPES = "deepseek_fp8 deepseek_fp8_weight deepseek_fp8_channel per_row_fp8 deepseek_fp8_ue8m0 mxfp8 mxfp4 nvfp4"
_SHAPES = ((1024, 8192), (8192, 16384))
_VERIFIED = (
    ("deep_gemm.sm90.fp8_1d2d", torch.float8_e4m3fn),
    ("cublaslt.fp8_fast", torch.float8_e4m3fn),
    ("deep_gemm.sm90.bf16", torch.bfloat16),
)
Make = Callable[[], torch.Tensor]
Run = Callable[[torch.Tensor], Any]


def seconds(calls: Sequence[Callable[[], object]]) -> float:
    """Return the time of one call, when all of them run one after the other in a graph."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return statistics.median(_replay(graph) for _ in range(5)) / len(calls)


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) * 1e-3


def copy_rate(count: int) -> float:
    """Return bytes read and written a second, when a copy moves `count` of them."""
    rounds = max(2, _BEYOND_CACHE // count)
    sources = [torch.full((count // 2,), i, dtype=torch.uint8, device="cuda") for i in range(rounds)]
    targets = [torch.empty_like(source) for source in sources]
    pairs = zip(sources, targets, strict=True)
    return count / seconds([lambda pair=pair: pair[1].copy_(pair[0]) for pair in pairs])


def moved(make: Make, run: Run) -> str:
    """Return a line: bytes, time, rate and the ratio to a copy of as many bytes."""
    first = make()
    count = first.nbytes + sum(tensor.nbytes for tensor in _results(run(first)))
    inputs = [make() for _ in range(max(2, _BEYOND_CACHE // count))]
    took, copied = seconds([lambda x=x: run(x) for x in inputs]), copy_rate(count)
    rate = count / took
    return f"{count / 1e6:8.1f} MB {took * 1e6:8.1f} us {rate / 1e9:6.0f} GB/s {rate / copied:5.2f} of a copy"


def _results(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [result.data, result.scale]


def quantizer_lines() -> Iterator[str]:
    """Yield one line for each recipe, input type and shape."""
    given = torch.tensor(1e-3, device="cuda")
    for shape in _SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            for recipe in _RECIPES.split():
                extra = {"global_scale": given} if recipe == "nvfp4" else {}
                line = moved(
                    lambda shape=shape, dtype=dtype: torch.randn(shape, device="cuda", dtype=dtype),
                    lambda x, recipe=recipe, extra=extra: quantizers.quantize(x, recipe, **extra),
                )
                yield f"{recipe:22s} {shape[0]:5d} x {shape[1]:5d} {str(dtype)[6:]:9s} {line}"


def layout_lines() -> Iterator[str]:
    """Yield one line for each layout."""
    rows = 262144
    ends = torch.arange(1, 65, dtype=torch.int32, device="cuda") * (rows // 64) - 7
    extents = torch.full((64,), 64, dtype=torch.int32, device="cuda")

    def powers(*shape: int) -> Make:
        return lambda: torch.exp2(torch.randint(-20, 20, shape, device="cuda").float())

    def codes(*shape: int) -> Make:
        return lambda: torch.randint(0, 255, shape, dtype=torch.uint8, device="cuda")

    cases: list[tuple[str, Make, dict[str, Any]]] = [
        ("mn_major_tma", powers(rows, 56), {}),
        ("packed_ue8m0", powers(rows, 56), {}),
        ("packed_ue8m0", powers(rows, 224), {}),
        ("packed_ue8m0_psum", powers(rows, 56), {"ends": ends}),
        ("packed_ue8m0_k_grouped", powers(4096, 7168), {"extents": extents, "total_words": 1024}),
        ("utccp_4x32_packed_ue8m0", powers(rows, 224), {}),
        ("swizzle_128x4", codes(rows, 448), {}),
        ("utccp_4x32", codes(rows, 448), {}),
    ]
    for name, make, parameters in cases:
        line = moved(make, lambda x, name=name, parameters=parameters: scale_layouts.pack(name, x, **parameters))
        yield f"{name:36s} {line}"
    line = moved(codes(rows * 448), lambda x: scale_layouts.unpack("swizzle_128x4", x, (rows, 448)))
    yield f"{'swizzle_128x4, undone':36s} {line}"


def verifier_lines(size: int = 4096) -> Iterator[str]:
    """Yield one line for each arithmetic: multiply-accumulates a second of a square product."""
    for arithmetic, dtype in _VERIFIED:
        a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        blocks = size // 128
        scales = {
            "scale_a": torch.rand(size, blocks, device="cuda"),
            "scale_b": torch.rand(blocks, blocks, device="cuda"),
        }
        given = scales if "1d2d" in arithmetic else {}
        took = min(
            _elapsed(lambda a=a, b=b, n=arithmetic, g=given: verifier.verify_gemm(a, b, n, **g)) for _ in range(4)
        )
        rate = size**3 / took / 1e12
        yield f"{arithmetic:26s} {size} cubed {took * 1e3:8.2f} ms {rate:6.2f} T multiply-accumulates/s"


def _elapsed(call: Callable[[], object]) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop) * 1e-3


def host_lines() -> Iterator[str]:
    """Yield what a warm call costs on the CPU, beside two of torch's own."""
    source, target = torch.randn(64, 64, device="cuda"), torch.zeros(64, 64, device="cuda")
    kernel = compile_kernel(scale_layouts.SOURCE, "transpose_floats", {"side": 64})
    problem = scale_layouts.Geometry(64, 64, 64).packed(source, target)
    plan = kernel.prepare((1,), (256,), (problem,))
    x = torch.randn(128, 1024, device="cuda")
    for name, call in (
        ("launch", lambda: kernel.launch((1,), (256,), (problem,))),
        ("prepared launch", plan.again),
        ("quantize", lambda: quantizers.quantize(x, "deepseek_fp8")),
        ("pack", lambda: scale_layouts.pack("mn_major_tma", source)),
        ("torch: x + y in place", lambda: target.add_(source)),
        ("torch: an empty tensor", lambda: torch.empty(128, 1024, device="cuda")),
    ):
        yield f"{name:26s} {_host_microseconds(call):6.1f} us of CPU"


def _host_microseconds(call: Callable[[], object], rounds: int = 500) -> float:
    best = float("inf")
    for _ in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(rounds):
            call()
        best = min(best, (time.perf_counter() - start) / rounds)
    torch.cuda.synchronize()
    return best * 1e6


def main() -> None:
    """Print every line as it is measured."""
    machine.leave_without_gpu()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    for lines in (host_lines, verifier_lines, layout_lines, quantizer_lines):
        print(f"\n{lines.__name__.removesuffix('_lines')}", flush=True)
        for line in lines():
            print(line, flush=True)


if __name__ == "__main__":
    main()
