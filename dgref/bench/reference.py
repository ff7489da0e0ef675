"""Speed of the tensor-core engine, in multiply-accumulates per second: `python -m dgref.bench.reference [--large]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np

from dgref.bench import best_seconds, resident_peak
from dgref.formats.element import FORMATS
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.contraction import contract
from dgref.reference.gemm import gemm

_SHAPE, _LARGE = (512, 1024, 2048), (4096, 7168, 16384)  # m, n, k
_REPEATS = 5
_E4M3, _E2M1 = "float8_e4m3fn", "float4_e2m1fn"


def rows() -> Iterator[dict]:
    """Yield one row an arithmetic: billions of multiply-accumulates per second, and the bar it has to pass."""
    for name, bar, make in _CASES:
        generator = np.random.default_rng(0)
        a, b = make(generator, _SHAPE[0]), make(generator, _SHAPE[1])
        seconds = best_seconds(lambda a=a, b=b, name=name: contract(a, b, name), _REPEATS)
        yield {"name": name, "shape": _SHAPE, "gmacs": np.prod(_SHAPE) / seconds / 1e9, "bar": bar}


def streamed() -> dict:
    """Compute the largest case once: its speed, and the most memory that the process held, operands included."""
    m, n, k = _LARGE
    a, b = _drawn(m, k, (1, 128)), _drawn(n, k, (128, 128))
    gemm(a, b, arithmetic="deep_gemm.sm90.fp8_1d2d", rows=slice(0, 8))
    start = perf_counter()
    gemm(a, b, arithmetic="deep_gemm.sm90.fp8_1d2d")
    seconds = perf_counter() - start
    return {"seconds": seconds, "gmacs": m * n * k / seconds / 1e9, "resident_peak": resident_peak()}


def _drawn(rows: int, k: int, block: tuple[int, int]) -> ScaledTensor:
    """Return random finite E4M3 codes and scales; drawn as codes, so that no wider copy ever exists."""
    generator = np.random.default_rng(rows)
    data = generator.integers(0, 0x7F, (rows, k), np.uint8) | generator.integers(0, 2, (rows, k), np.uint8) << 7
    scaling = Scaling(block, "float32")
    scale = generator.uniform(0.5, 2, scaling.grid((rows, k))).astype(np.float32)
    return ScaledTensor(data, _E4M3, scale, scaling)


def _plain(format: str) -> Callable:
    def make(generator: np.random.Generator, rows: int) -> ScaledTensor:
        values = generator.standard_normal((rows, _SHAPE[2])).astype(np.float32)
        return ScaledTensor(FORMATS[format].encode(values), format)

    return make


def _scaled(format: str, width: int, scale_format: str) -> Callable:
    def make(generator: np.random.Generator, rows: int) -> ScaledTensor:
        grid = generator.uniform(0.5, 2, (rows, _SHAPE[2] // width)).astype(np.float32)
        scale = grid if scale_format == "float32" else FORMATS[scale_format].encode(grid)
        payload = _plain(format)(generator, rows).data
        return ScaledTensor(payload, format, scale, Scaling((1, width), scale_format))

    return make


_CASES = (
    ("deep_gemm.sm90.fp8_1d1d", 1.0, _scaled(_E4M3, 128, "float32")),
    ("cublaslt.fp8_fast", 1.0, _plain(_E4M3)),
    ("deep_gemm.sm90.bf16", 0.3, _plain("bfloat16")),
    ("deep_gemm.sm90.hc_prenorm", 0.3, _plain("tfloat32")),
    ("deep_gemm.sm100.fp8_1d1d", 0.3, _scaled(_E4M3, 32, "float8_e8m0fnu")),
    ("deep_gemm.sm100.mqa_logits_fp4", 0.3, _scaled(_E2M1, 32, "float8_e8m0fnu")),
    ("cublaslt.sm100.nvfp4", 0.3, _scaled(_E2M1, 16, "float8_ue4m3")),
)


def main() -> None:
    """Print the rows; with `--large`, the largest case alone."""
    if "--large" in sys.argv:
        found, shape = streamed(), " x ".join(map(str, _LARGE))
        speed = f"{found['seconds']:.1f} s, {found['gmacs']:.2f} G MAC/s"
        print(f"deep_gemm.sm90.fp8_1d2d at {shape}: {speed}, {found['resident_peak']:.2f} GiB resident at most")
        return
    m, n, k = _SHAPE
    print(f"{'arithmetic':34} {'G MAC/s':>8} {'bar':>5}   at {m} x {n} x {k}")
    for row in rows():
        print(f"{row['name']:34} {row['gmacs']:8.2f} {row['bar']:5.1f}")


if __name__ == "__main__":
    main()
