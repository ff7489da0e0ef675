"""Speed of the comparison, million elements per second: `python -m dgref.bench.compare`."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import ml_dtypes
import numpy as np

from dgref.compare.comparison import compare

BAR = 200.0
_SHAPE = (4096, 32768)
_REPEATS = 5


def rows() -> Iterator[dict]:
    """Yield one row for each way in which two 4096 x 32768 outputs can differ."""
    generator = np.random.default_rng(0)
    values = generator.standard_normal(_SHAPE, dtype=np.float32)
    for dtype in (ml_dtypes.bfloat16, np.float32):
        expected = values.astype(dtype)
        for name, actual in _pairs(expected):
            yield _row(f"{expected.dtype}, {name}", actual, expected)


def _pairs(expected: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    codes = expected.view(f"u{expected.itemsize}")
    yield "all equal", expected.copy()
    tile = codes.copy()
    tile[256:384, 512:640] ^= 1
    yield "one tile differs", tile.view(expected.dtype)
    half = codes ^ (np.arange(codes.shape[1]) % 2).astype(codes.dtype)
    yield "every second element differs by one", half.view(expected.dtype)
    yield "nothing agrees", np.roll(expected, 1, axis=1)


def _row(name: str, actual: np.ndarray, expected: np.ndarray) -> dict:
    times = []
    for _ in range(_REPEATS):
        start = perf_counter()
        found = compare(actual, expected)
        times.append(perf_counter() - start)
    start = perf_counter()
    sentence = found.summary()
    described = perf_counter() - start
    speed = expected.size / min(times) / 1e6
    return {"name": name, "value": speed, "at_least": BAR, "summary_s": described, "sentence": sentence}


def main() -> None:
    """Print every row."""
    for row in rows():
        print(
            f"{row['name']:<48} {row['value']:8.0f} M elements/s (at least {row['at_least']:g}), sentence in", end=" "
        )
        print(f"{row['summary_s']:.2f} s: {row['sentence']}", flush=True)


if __name__ == "__main__":
    main()
