"""Codec speed on one thread against torch and ml_dtypes, million elements a second: `python -m dgref.bench.codecs`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from dgref.bench import best_seconds
from dgref.formats import FORMATS, Format

ENCODE_BAR, DECODE_BAR = 4.0, 3.0  # the least ratio to ml_dtypes that E4M3 must reach
_ELEMENTS = 1 << 22
_REPEATS = 9


def rows() -> Iterator[dict]:
    """Yield one row for each format and direction: each library's speed, and the ratio to ml_dtypes."""
    with _one_torch_thread():
        for name in ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn", "bfloat16", "float16"):
            yield _row(f"float32 -> {name}", _encoders(FORMATS[name]), ENCODE_BAR if name == "float8_e4m3fn" else None)
            yield _row(f"{name} -> float32", _decoders(FORMATS[name]), DECODE_BAR if name == "float8_e4m3fn" else None)


def _row(name: str, calls: dict[str, Callable], bar: float | None) -> dict:
    speeds = _speeds(calls)
    ratio = speeds["dgref"] / speeds["ml_dtypes"]
    return {"name": name, "unit": "M elements/s", **speeds, "ratio": ratio, "at_least": bar}


def _encoders(format: Format) -> dict[str, Callable]:
    values = (np.random.default_rng(0).standard_normal(_ELEMENTS) * 2).astype(np.float32)
    calls = {"dgref": lambda: format.encode(values), "ml_dtypes": lambda: values.astype(format.native_dtype)}
    torch, dtype = _torch_dtype(format)
    if dtype is not None:
        tensor = torch.from_numpy(values)
        calls["torch"] = lambda: tensor.to(dtype)
    return calls


def _decoders(format: Format) -> dict[str, Callable]:
    codes = np.random.default_rng(0).integers(0, 1 << format.bits, _ELEMENTS).astype(format.code_dtype)
    native = codes.view(format.native_dtype)
    calls = {"dgref": lambda: format.decode(codes), "ml_dtypes": lambda: native.astype(np.float32)}
    torch, dtype = _torch_dtype(format)
    if dtype is not None:
        tensor = torch.from_numpy(codes).view(dtype)
        calls["torch"] = lambda: tensor.to(torch.float32)
    return calls


def _torch_dtype(format: Format) -> tuple:
    import torch

    return torch, getattr(torch, format.name, None)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _speeds(calls: dict[str, Callable]) -> dict[str, float]:
    """Return million elements a second of each call."""
    with np.errstate(all="ignore"):
        return {name: _ELEMENTS / best_seconds(call, _REPEATS) / 1e6 for name, call in calls.items()}


if __name__ == "__main__":
    for row in rows():
        torch_speed = f"{row['torch']:7.0f}" if "torch" in row else "      -"
        bar = f" (at least {row['at_least']:.0f})" if row["at_least"] else ""
        print(
            f"{row['name']:28s} dgref {row['dgref']:6.0f}  torch {torch_speed}  ml_dtypes {row['ml_dtypes']:6.0f}"
            f"  M/s  {row['ratio']:5.1f}x ml_dtypes{bar}"
        )
