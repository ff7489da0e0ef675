"""Speed of the tensor-core engine, in multiply-accumulates per second: `python -m dgref.bench.reference`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np

from dgref.formats.element import FORMATS
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.contraction import contract

_SHAPE = (512, 1024, 2048)  # m, n, k
_REPEATS = 5
_E4M3, _E2M1 = "float8_e4m3fn", "float4_e2m1fn"


def rows() -> Iterator[dict]:
    """Yield one row an arithmetic: billions of multiply-accumulates per second, and the bar it has to pass."""
    for name, bar, make in _CASES:
        generator = np.random.default_rng(0)
        a, b = make(generator, _SHAPE[0]), make(generator, _SHAPE[1])
        contract(a, b, name, rows=slice(0, 8))
        seconds = min(_timed(lambda a=a, b=b, name=name: contract(a, b, name)) for _ in range(_REPEATS))
        yield {"name": name, "shape": _SHAPE, "gmacs": np.prod(_SHAPE) / seconds / 1e9, "bar": bar}


def _timed(call: Callable) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


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
    """Print the rows."""
    m, n, k = _SHAPE
    print(f"{'arithmetic':34} {'G MAC/s':>8} {'bar':>5}   at {m} x {n} x {k}")
    for row in rows():
        print(f"{row['name']:34} {row['gmacs']:8.2f} {row['bar']:5.1f}")


if __name__ == "__main__":
    main()
