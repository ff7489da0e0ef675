"""What other projects compute: scores over whole arrays. Here for comparison with them; no verdict is built on any.

Each of them passes results that are plainly wrong: a calc_diff below 1e-3 lets a zeroed row of 512 through, a cosine
above 0.97 any uniform gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from dgref.compare.scan import matrix
from dgref.compare.ulp import Codes

CHUNK = 1 << 20
TOLERANCES = {  # (rtol, atol) of torch.testing.assert_close, per dtype
    "bfloat16": (1.6e-2, 1e-5),
    "float16": (1e-3, 1e-5),
    "float32": (1.3e-6, 1e-5),
}
FLASHINFER_BENCH = 1e-2  # both the absolute and the relative limit; an element fails only beyond both


@dataclass(frozen=True)
class Metrics:
    """Scores of `actual` against `expected`, as other projects define them."""

    calc_diff: float  # DeepGEMM: 1 - 2<x, y> / (|x|^2 + |y|^2)
    cosine: float
    sqnr_db: float  # 10 log10(|y|^2 / |x - y|^2)
    max_absolute: float
    max_relative: float
    mean_relative: float  # sum|x - y| / sum|y|
    allclose: bool  # torch.testing.assert_close with its defaults for the format
    flashinfer_bench: float  # share of elements within 1e-2 absolute or 1e-2 relative

    def to_dict(self) -> dict[str, float | bool | None]:
        """Return plain data; a score that is not finite is None."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}


def metrics(actual: Codes, expected: Codes, mask: np.ndarray | None = None) -> Metrics:
    """Compute every score in chunks, in float64; NaN and Inf make scores NaN or Inf, as they do there."""
    rtol, atol = TOLERANCES.get(expected.name, (1.3e-6, 1e-5))
    sums, largest, close, near, count = np.zeros(6), np.zeros(2), True, 0, 0
    with np.errstate(all="ignore"):
        for x, y in _chunks(actual, expected, mask):
            error, size = np.abs(x - y), np.abs(y)
            sums += (x @ x, y @ y, x @ y, error @ error, size.sum(), error.sum())
            largest = np.maximum(largest, (error.max(initial=0.0), (error / (size + 1e-300)).max(initial=0.0)))
            close &= bool(((x == y) | (error <= atol + rtol * size)).all())
            near += int(np.count_nonzero((error <= FLASHINFER_BENCH) | (error / (size + 1e-8) <= FLASHINFER_BENCH)))
            count += x.size
    return _scores(sums, largest, close, near / count if count else 1.0)


def _scores(sums: np.ndarray, largest: np.ndarray, close: bool, near: float) -> Metrics:
    xx, yy, xy, ee, y_sum, error_sum = (float(value) for value in sums)
    with np.errstate(all="ignore"):
        cosine = np.float64(xy) / np.sqrt(np.float64(xx) * yy) if xx or yy else 1.0
        sqnr = 10 * np.log10(np.float64(yy) / ee) if yy or ee else math.inf
    return Metrics(
        calc_diff=1 - 2 * xy / (xx + yy) if xx + yy else 0.0,
        cosine=float(cosine),
        sqnr_db=float(sqnr),
        max_absolute=float(largest[0]),
        max_relative=float(largest[1]),
        mean_relative=error_sum / y_sum if y_sum else 0.0,
        allclose=close,
        flashinfer_bench=near,
    )


def _chunks(actual: Codes, expected: Codes, mask: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield flat float64 pieces of both arrays, masked elements left out."""
    flat = [matrix(side.array).reshape(-1) for side in (actual, expected)]
    chosen = None if mask is None else matrix(mask).reshape(-1)
    for start in range(0, flat[0].size, CHUNK):
        part = slice(start, start + CHUNK)
        x, y = (Codes(array[part], actual.format).values() for array in flat)
        yield (x, y) if chosen is None else (x[chosen[part]], y[chosen[part]])
