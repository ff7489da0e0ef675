"""Speed of the exact oracle and tightness of the derived bound: `python -m dgref.bench.exact [--large]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np

from dgref.bench import resident_peak
from dgref.formats import quantize
from dgref.formats.element import FORMATS
from dgref.formats.tensor import ScaledTensor
from dgref.reference import exact_engine
from dgref.reference.bound import derived_bound
from dgref.reference.contraction import contract
from dgref.reference.exact import contract_exact, exact_weighted_relu_sum

BAR = 0.1  # G multiply-accumulates per second
_REPEATS = 3
_SHAPE, _LARGE = (1024, 2048, 4096), (4096, 7168, 16384)
_CONTRACTIONS = (
    ("deepseek_fp8", "deepseek_fp8_weight", "bfloat16"),
    ("deepseek_fp8", "deepseek_fp8_weight", "float32"),
    ("mxfp8", "mxfp4", "bfloat16"),
    ("nvfp4", "nvfp4", "bfloat16"),
    ("bfloat16", "bfloat16", "bfloat16"),
    ("float32", "float32", "float32"),
)


def rows(large: bool = False) -> Iterator[dict]:
    """Yield speeds in G multiply-accumulates per second, then the largest observed error over the bound."""
    for a, b, out in _CONTRACTIONS:
        yield _contraction(a, b, out, _SHAPE)
    if large:
        yield _contraction(*_CONTRACTIONS[0], _LARGE)
    yield _superaccumulator()
    yield _logits()
    yield from _tightness()


def _speed(name: str, macs: float, call: Callable, repeats: int = _REPEATS) -> dict:
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return {"name": name, "unit": "G MAC/s", "value": macs / min(times) / 1e9, "at_least": BAR}


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _contraction(a_recipe: str, b_recipe: str, out: str, shape: tuple[int, int, int]) -> dict:
    m, n, k = shape
    a, b = quantize(_normal(0, m, k), a_recipe), quantize(_normal(1, n, k), b_recipe)
    name = f"exact {a_recipe} x {b_recipe} -> {out}, {m} x {n} x {k}"
    return _speed(name, m * n * k, lambda: contract_exact(a, b, out=out), 1 if shape == _LARGE else _REPEATS)


def _superaccumulator() -> dict:
    """Time the slow path alone: what an input would cost whose every element lies next to a tie."""
    a, pairs = _normal(0, 1, 128, 4096).astype(np.float64), np.arange(1 << 13) % 128
    call = lambda: exact_engine.exact_dots(a, a, np.zeros((pairs.size, 1)), pairs, pairs, 24, -126, 3e38)  # noqa: E731
    return _speed("exact, superaccumulator only", pairs.size * 4096, call)


def _logits() -> dict:
    tokens, heads, keys, depth = 128, 64, 2048, 128
    q, kv = quantize(_normal(0, tokens, heads, depth), "per_row_fp8"), quantize(_normal(1, keys, depth), "per_row_fp8")
    weights = _normal(2, tokens, heads)
    call = lambda: exact_weighted_relu_sum(q, kv, weights)  # noqa: E731
    return _speed(f"exact logits {tokens} x {heads} x {keys} x {depth}", tokens * heads * keys * depth, call)


def _tightness() -> Iterator[dict]:
    a, b = quantize(_normal(0, 64, 1024), "deepseek_fp8"), quantize(_normal(1, 128, 1024), "deepseek_fp8_weight")
    for order in ("ascending", "instructions", "any"):
        name = f"largest error / bound, normal data, K {order}"
        yield _ratio(name, a, b, "deep_gemm.sm90.fp8_1d2d", order)
    a, b = worst_operands()
    yield _ratio("error / bound, worst data", a, b, "cublaslt.fp8_fast", "ascending")


def worst_operands() -> tuple[ScaledTensor, ScaledTensor]:
    """Return one product of 2^16, whose last kept bit is worth 8, and 127 of 7.5 that vanish one by one."""
    a, b = np.full((1, 128), 7.5, np.float32), np.ones((1, 128), np.float32)
    a[0, 0] = b[0, 0] = 256
    return tuple(ScaledTensor(FORMATS["float8_e4m3fn"].encode(x), "float8_e4m3fn") for x in (a, b))


def _ratio(name: str, a: ScaledTensor, b: ScaledTensor, arithmetic: str, order: str) -> dict:
    distance = np.abs(contract(a, b, arithmetic) - contract_exact(a, b, out="float64"))
    limit = derived_bound(a, b, arithmetic, out="float32", order=order)
    return {"name": name, "unit": "", "value": float((distance / limit).max()), "at_least": None}


def main() -> None:
    """Print every row; with `--large` also the largest case, and the most memory that the process held."""
    large = "--large" in sys.argv
    for row in rows(large):
        bar = "" if row["at_least"] is None else f"   (at least {row['at_least']:g})"
        print(f"{row['name']:<72} {row['value']:9.4f} {row['unit']}{bar}", flush=True)
    if large:
        print(f"resident memory at most, operands in float32 included {resident_peak():27.4f} GiB")


if __name__ == "__main__":
    main()
