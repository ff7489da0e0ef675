"""The independent path of the tests: plain float64 on values that every order of adding gives exactly.

Payloads are decoded by ml_dtypes and scales spread by index arithmetic, so that nothing is shared with what is tested.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from dgref.formats import FULL, ScaledTensor, Scaling

INTEGERS = np.array([-3, -2, -1, 0, 0, 0, 1, 2], np.float32)  # -3 only in formats that hold it: all of them do
DTYPES = {
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float4_e2m1fn": ml_dtypes.float4_e2m1fn,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float32": np.float32,
}


def codes_of(values: np.ndarray, format: str) -> np.ndarray:
    """Return the codes of values that the format holds exactly."""
    native = np.asarray(values, np.float32).astype(DTYPES[format])
    return native.view(f"u{native.dtype.itemsize}")


def integers(
    seed: int, shape: tuple[int, ...], format: str = "float8_e4m3fn", block=None, powers: int = 1
) -> ScaledTensor:
    """Return small integers under scales that are powers of two between 2^-powers and 2^powers."""
    rng = np.random.default_rng(seed)
    data = codes_of(rng.choice(INTEGERS, shape), format)
    if block is None:
        return ScaledTensor(data, format)
    scaling = Scaling(block)
    scale = np.exp2(rng.integers(-powers, powers + 1, scaling.grid(shape))).astype(np.float32)
    return ScaledTensor(data, format, scale, scaling)


def values(tensor: ScaledTensor) -> np.ndarray:
    """Return what a tensor means, in float64."""
    payload = np.asarray(tensor.data).view(DTYPES[tensor.format]).astype(np.float64)
    if tensor.scale is None:
        return payload
    rows, columns = (extent or size for extent, size in zip(tensor.scaling.block, tensor.shape[-2:], strict=True))
    scale = np.asarray(tensor.scale, np.float64)
    if tensor.scaling.scale_format == "float8_e8m0fnu":
        scale = np.exp2(np.asarray(tensor.scale, np.float64) - 127)
    row_of, column_of = np.arange(tensor.shape[-2]) // max(rows, 1), np.arange(tensor.shape[-1]) // max(columns, 1)
    return payload * scale[..., row_of, :][..., column_of]


def product(a: ScaledTensor, b: ScaledTensor) -> np.ndarray:
    """Return a @ b.T in float64."""
    return values(a) @ np.swapaxes(values(b), -1, -2)


def bits(array: np.ndarray) -> np.ndarray:
    """Return the bits of a native array."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def rounded(values: np.ndarray, out: str) -> np.ndarray:
    """Return float64 values that float32 holds exactly, in the native dtype of `out`."""
    single = values.astype(np.float32)
    assert np.array_equal(single, values)
    return single.astype(DTYPES[out])


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    """Compare dtypes, shapes and bits."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(bits(actual), bits(expected))


__all__ = ["FULL", "Scaling", "assert_same_bits", "bits", "codes_of", "integers", "product", "rounded", "values"]
