"""Random Hadamard transform: spread outliers over 16 columns before quantising, and take it back afterwards.

y = x @ (diag(signs) @ H16 / 4) on every run of 16 columns, H16 being the Sylvester matrix. The matrix is orthogonal, so
a GEMM whose two operands were rotated with the same signs along K gives the same product.
"""

from __future__ import annotations

import numpy as np

from dgref.errors import FormatError, ShapeError, choice, expected
from dgref.formats.philox import check_seed, philox4x32

POINTS = 16
# TransformerEngine common/recipe, get_wgrad_sign_vector: one fixed draw
_TRANSFORMER_ENGINE_SIGNS = np.array([1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1], np.float64)
_SIGN_COUNTER = 1 << 63  # apart from the counters that stochastic rounding draws from under the same seed


def signs(kind: str, seed: int | None = None) -> np.ndarray:
    """Return the 16 signs of a kind of transform: `sylvester` (all plus), `seeded` or `transformer_engine`."""
    if kind == "seeded":
        if seed is None:
            raise FormatError(expected("seed", None, "an integer: the signs must be drawn again to undo the transform"))
        word = int(philox4x32(np.array([_SIGN_COUNTER], np.uint64), check_seed(seed))[0, 0])
        return np.array([-1.0 if word >> i & 1 else 1.0 for i in range(POINTS)])
    choice("Hadamard transform", kind, ("sylvester", "seeded", "transformer_engine"))
    return _TRANSFORMER_ENGINE_SIGNS if kind == "transformer_engine" else np.ones(POINTS)


def rotate(values: np.ndarray, kind: str = "sylvester", seed: int | None = None) -> np.ndarray:
    """Return float32 values rotated along their last axis; sums are float64 butterflies, rounded to float32 once."""
    return _rounded(_butterflies(_runs(values) * signs(kind, seed)), values.shape)


def rotate_back(values: np.ndarray, kind: str = "sylvester", seed: int | None = None) -> np.ndarray:
    """Return what `rotate` was given, up to rounding."""
    return _rounded(_butterflies(_runs(values)) * signs(kind, seed), values.shape)


def _runs(values: np.ndarray) -> np.ndarray:
    if not values.ndim or values.shape[-1] % POINTS:
        size = values.shape[-1] if values.ndim else "no axis"
        raise ShapeError(expected("columns of a Hadamard transform", size, f"a multiple of {POINTS}"))
    return values.astype(np.float64).reshape(-1, POINTS)


def _rounded(runs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    with np.errstate(over="ignore"):  # a sum of 16 that float32 cannot hold is Inf
        return runs.astype(np.float32).reshape(shape)


def _butterflies(runs: np.ndarray) -> np.ndarray:
    """Return runs @ H16 / 4."""
    half = POINTS // 2
    while half:
        pairs = runs.reshape(-1, POINTS // (2 * half), 2, half)
        low, high = pairs[:, :, 0], pairs[:, :, 1]
        runs = np.stack([low + high, low - high], axis=2).reshape(-1, POINTS)
        half //= 2
    return runs * 0.25
