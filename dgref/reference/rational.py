"""The second oracle: plain fractions, one element at a time, sharing nothing with the first but the format rows.

It decodes bits by the definition of a format's fields, multiplies and adds fractions, and rounds by comparing the two
neighbours. Slow on purpose: its only job is to be obviously right.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from dgref.formats.element import FORMATS, Format
from dgref.formats.tensor import ScaledTensor

Number = Fraction | float  # float only for NaN and infinities


def decode_code(row: Format, code: int) -> Number:
    """Return the value of one code, from the format's fields alone."""
    code >>= row.storage_shift
    exponent = (code >> row.mantissa_bits) & ((1 << row.exponent_bits) - 1)
    mantissa = code & ((1 << row.mantissa_bits) - 1)
    negative = row.sign == "signed" and code >> (row.exponent_bits + row.mantissa_bits) & 1
    top = exponent == (1 << row.exponent_bits) - 1
    if row.nan_style == "negative_zero" and negative and exponent == mantissa == 0:
        return math.nan
    if row.nan_style == "all_ones" and top and mantissa == (1 << row.mantissa_bits) - 1:
        return math.nan
    if row.nan_style == "ieee" and top:
        return math.nan if mantissa else (-math.inf if negative else math.inf)
    if row.power_of_two:
        return Fraction(2) ** (exponent - row.bias)
    whole = mantissa + (1 << row.mantissa_bits if exponent else 0)
    value = whole * Fraction(2) ** (max(exponent, 1) - row.bias - row.mantissa_bits)
    return -value if negative else value


def decode_float(value: float) -> Number:
    """Return a Python or NumPy float as a fraction, NaN and infinities as they are."""
    value = float(value)
    return Fraction(value) if math.isfinite(value) else value


def element(tensor: ScaledTensor, row: int, column: int) -> Number:
    """Return one dequantised element of a matrix."""
    value = decode_code(FORMATS[tensor.format], int(tensor.data[row, column]))
    if tensor.scale is not None:
        value = product(value, _scale(tensor, row, column))
    if tensor.global_scale is None:
        return value
    stored = decode_float(tensor.global_scale)
    if tensor.scaling.global_scale == "divide":
        return value / stored
    largest = decode_code(FORMATS[tensor.format], FORMATS[tensor.format].max_code)
    scales = FORMATS[tensor.scaling.scale_format]
    reach = largest * Fraction(tensor.scaling.scale_max or decode_code(scales, scales.max_code))
    return product(value, stored / reach if tensor.scaling.global_scale == "amax" else stored)


def _scale(tensor: ScaledTensor, row: int, column: int) -> Number:
    height, width = tensor.scaling.block
    stored = tensor.scale[row // height if height else 0, column // width if width else 0]
    if tensor.scaling.scale_format == "float32":
        return decode_float(stored)
    return decode_code(FORMATS[tensor.scaling.scale_format], int(stored))


def product(x: Number, y: Number) -> Number:
    """Return x * y; IEEE rules where one is NaN or infinite."""
    if isinstance(x, Fraction) and isinstance(y, Fraction):
        return x * y
    return _sign(x) * _sign(y)


def total(terms: list[Number]) -> Number:
    """Return the sum of terms; NaN for NaN or for both infinities."""
    odd = [term for term in terms if not isinstance(term, Fraction)]
    return sum(odd) if odd else sum(terms, Fraction(0))


def _sign(x: Number) -> float:
    if isinstance(x, Fraction):
        return float((x > 0) - (x < 0))
    return x


def round_once(value: Number, out: str) -> float:
    """Return the nearest value of a format, ties to the even code, by comparing both neighbours."""
    if not isinstance(value, Fraction):
        return value
    if value < 0:
        return -round_once(-value, out)
    if out == "float64":
        return float(value)  # Python divides integers with one correct rounding
    row = FORMATS[out]
    step = Fraction(2) ** (1 - row.bias - row.mantissa_bits)
    while value >= step * 2 ** (row.mantissa_bits + 1):
        step *= 2
    below = value // step
    rest = value - below * step
    up = 2 * rest > step or (2 * rest == step and below % 2 == 1)
    rounded = (below + up) * step
    return float(rounded) if rounded <= decode_code(row, row.max_code) else math.inf


def contract_rational(
    a: ScaledTensor, b: ScaledTensor, c: np.ndarray | None = None, alpha: float = 1.0, out: str = "bfloat16"
) -> np.ndarray:
    """Return c + alpha * a @ b.T of two matrices as float64 values already rounded once to `out`."""
    factor = decode_float(alpha)
    left = [[product(element(a, m, k), factor) for k in range(a.shape[1])] for m in range(a.shape[0])]
    right = [[element(b, n, k) for k in range(b.shape[1])] for n in range(b.shape[0])]
    result = np.empty((len(left), len(right)))
    for m, x in enumerate(left):
        for n, y in enumerate(right):
            terms = [product(p, q) for p, q in zip(x, y, strict=True)]
            terms += [] if c is None else [decode_float(c[m, n])]
            result[m, n] = round_once(total(terms), out)
    return result
