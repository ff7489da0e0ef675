"""Quantiser speed, million elements a second, all cores of this process: `python -m dgref.bench.quantize`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dgref.bench import best_seconds
from dgref.formats import FORMATS, RECIPES, blockwise, dequantize, quantize

FP4_BAR = 250.0  # the least speed that mxfp4 and nvfp4 must reach on two cores
_SHAPE = (4096, 4096)
_REPEATS = 7
_NAMES = (
    "mxfp4",
    "mxfp4/deep_gemm",
    "nvfp4",
    "nvfp4/transformer_engine",
    "mxfp8",
    "deepseek_fp8",
    "deepseek_fp8_weight",
)


def rows() -> Iterator[dict]:
    """Yield one row a recipe: the speed of `quantize`, of its readable form, and of `dequantize`."""
    values = np.random.default_rng(0).standard_normal(_SHAPE).astype(np.float32)
    for name in _NAMES:
        yield _row(name, values)


def _row(name: str, values: np.ndarray) -> dict:
    t = quantize(values, name)
    few = values[:512]
    readable = _speed(few.size, lambda: _readable(name, few, t.global_scale), 2)
    return {
        "name": f"float32 -> {name}",
        "unit": "M elements/s",
        "dgref": _speed(values.size, lambda: quantize(values, name), _REPEATS),
        "readable": readable,
        "dequantize": _speed(values.size, lambda: dequantize(t), 2),
        "at_least": FP4_BAR if name in ("mxfp4", "nvfp4") else None,
    }


def _readable(name: str, values: np.ndarray, stored: np.ndarray | None) -> None:
    row = RECIPES[name]
    blockwise.quantize_blocks(values, FORMATS[row.format], row.scaling, stored)


def _speed(size: int, call: Callable, repeats: int) -> float:
    return size / best_seconds(call, repeats) / 1e6


if __name__ == "__main__":
    for row in rows():
        bar = f" (at least {row['at_least']:.0f})" if row["at_least"] else ""
        print(
            f"{row['name']:38s} {row['dgref']:6.0f} M/s{bar}, readable {row['readable']:5.0f}, "
            f"dequantize {row['dequantize']:5.0f}"
        )
