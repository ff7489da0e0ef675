"""SwiGLU with a routing weight, and the requantisation after it, rounding by rounding.

The model computes FP32 steps, each rounded to nearest; `expf` and the division are taken as correctly rounded, which
CUDA promises for neither `expf` (2 ulp) nor the fast-math `ex2.approx` and `rcp.approx`. Exactly, the product is
computed as a real number and rounded once to FP32.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np

from dgref.errors import InputError, ShapeError, counted, expected, whole_number
from dgref.formats.element import FORMATS
from dgref.formats.rules import reciprocal_max
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.checks import real
from dgref.reference.dispatch import rounded

DOUBT = 2.0**-49  # relative error of the float64 path below, with room to spare
DIGITS = 60


def swiglu(hidden: np.ndarray, gains: np.ndarray, clamp: float | None, *, exact: bool) -> np.ndarray:
    """Return silu(gate) * up * gain as float32, for BF16 [rows, gate then up] and one gain a row.

    `clamp` bounds gate from above and up on both sides, in BF16, before the activation; a NaN becomes the
    bound that it meets first: the upper one for gate, the lower one for up, as minimum and maximum instructions do.
    """
    gate, up = clamped(hidden, clamp)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return (_exact if exact else _stepwise)(gate, up, gains[:, None].astype(np.float32))


def clamped(hidden: np.ndarray, clamp: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Return gate and up as float32, bounded."""
    values = np.asarray(hidden, np.float32)
    if values.shape[1] % 2:
        raise ShapeError(expected("hidden", counted(values.shape[1], "column"), "gate and up, an even number"))
    gate, up = np.split(values, 2, axis=1)
    if clamp is None:
        return gate, up
    if not real(clamp, "activation_clamp") >= 0:
        raise InputError(expected("activation_clamp", clamp, "a number of at least 0, or None"))
    bound = np.float32(rounded(np.float32(clamp), "bfloat16"))
    return np.fmin(gate, bound), np.fmin(np.fmax(up, -bound), bound)


def _stepwise(gate: np.ndarray, up: np.ndarray, gain: np.ndarray) -> np.ndarray:
    sigmoid_inverse = np.float32(1) + exponential(-gate)
    return (gate / sigmoid_inverse * up) * gain


def exponential(x: np.ndarray) -> np.ndarray:
    """Return e^x correctly rounded to float32."""
    return _settled(np.exp(x.astype(np.float64)), lambda i: Decimal(float(x[i])).exp())


def _exact(gate: np.ndarray, up: np.ndarray, gain: np.ndarray) -> np.ndarray:
    wide = gate.astype(np.float64)
    close = wide / (1 + np.exp(-wide)) * up * gain
    gain = np.broadcast_to(gain, gate.shape)

    def precise(i: tuple[int, ...]) -> Decimal:
        g = Decimal(float(gate[i]))
        return g / (1 + (-g).exp()) * Decimal(float(up[i])) * Decimal(float(gain[i]))

    return _settled(close, precise)


def _settled(close: np.ndarray, precise) -> np.ndarray:
    """Return float64 values rounded to float32, computed again in decimal where their error could matter."""
    low, high = (np.asarray(close * (1 + sign * DOUBT)).astype(np.float32) for sign in (-1, 1))
    result = close.astype(np.float32)
    with localcontext() as context:
        context.prec = DIGITS
        for i in zip(*np.nonzero((low != high) & np.isfinite(close)), strict=True):
            result[i] = _nearest(precise(i), result[i])
    return result


def _nearest(exact: Decimal, guess: np.float32) -> np.float32:
    """Return the float32 nearest to an exact value among a guess and its neighbours; ties go to the even one."""
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    finite = [value for value in around if np.isfinite(value)]
    return min(finite, key=lambda value: (abs(Decimal(float(value)) - exact), int(value.view(np.uint32)) & 1))


def requantize(values: np.ndarray, granularity: int) -> ScaledTensor:
    """Return float32 [rows, n] as E4M3 with a UE8M0 scale for each `granularity` columns, as the fused kernel does.

    The exponent is that of amax * (1/448) rounded up. A group of zeros has scale byte 0; one that holds Inf or NaN has
    scale byte 0xFF, which is NaN. Values saturate.
    """
    rows, columns = values.shape
    if columns % whole_number("granularity", granularity, 1):
        raise ShapeError(expected("intermediate", columns, f"a multiple of the granularity {granularity}"))
    groups = values.reshape(rows, columns // granularity, granularity)
    amax = np.abs(groups).max(axis=-1, initial=np.float32(0))
    bits = (amax * reciprocal_max(FORMATS["float8_e4m3fn"])).view(np.uint32)
    exponent = np.where(np.isfinite(amax), (bits >> 23) + ((bits & 0x7FFFFF) != 0), 255).astype(np.int32)
    inverse = np.ldexp(np.float32(1), np.minimum(127 - exponent, 127)).astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (groups * inverse[..., None]).reshape(rows, columns)
    codes = FORMATS["float8_e4m3fn"].encode(scaled, convention="cuda")
    scaling = Scaling((1, granularity), "float8_e8m0fnu", "ceil_quotient", payload="multiply_reciprocal")
    return ScaledTensor(codes, "float8_e4m3fn", exponent.astype(np.uint8), scaling)
