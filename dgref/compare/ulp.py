"""Distances in units in the last place, counted in a format's own codes, and what counts as a difference at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dgref.errors import FormatError, InputError, ShapeError, expected, instance
from dgref.formats.element import FORMATS, Format
from dgref.formats.native import as_codes, format_of, to_numpy

_FAR = 1 << 62  # from here on, a difference of two integers may not fit int64
UNRELATED = np.iinfo(np.int64).max  # the distance between NaN or Inf and anything that it does not equal


@dataclass(frozen=True)
class Policy:
    """What counts as a difference where two codes are not the same.

    `nan`: `equal` takes any NaN for any other, `bits` does not. `zero`: `signed` tells -0 from +0, `equal` does not.
    `infinity`: `apart` puts Inf at no countable distance from finite values, `next` one step past the largest of them.
    """

    nan: Literal["equal", "bits"] = "equal"
    zero: Literal["signed", "equal"] = "signed"
    infinity: Literal["apart", "next"] = "apart"

    def __post_init__(self) -> None:
        for field, choices in (
            ("nan", ("equal", "bits")),
            ("zero", ("signed", "equal")),
            ("infinity", ("apart", "next")),
        ):
            if getattr(self, field) not in choices:
                raise InputError(expected(f"policy {field}", repr(getattr(self, field)), " or ".join(choices)))

    @property
    def flags(self) -> tuple[bool, bool, bool]:
        """The three choices as the scan takes them: NaNs differ, zeros differ, Inf is apart."""
        return self.nan == "bits", self.zero == "signed", self.infinity == "apart"


@dataclass(frozen=True)
class Codes:
    """An array as integers, and how to read them: sign-magnitude codes of a format, or plain integers."""

    array: np.ndarray
    format: Format | None  # None: plain integers

    @property
    def name(self) -> str:
        """The format's name, or the integer type's."""
        return str(self.array.dtype) if self.format is None else self.format.name

    @property
    def fields(self) -> tuple[int, int, int, int, int]:
        """Return (sign mask, magnitude mask, shift, first NaN magnitude, Inf magnitude), -1 where there is none."""
        row = self.format
        if row is None:
            return 0, -1, 0, -1, -1
        shift = row.storage_shift
        magnitude = ((1 << row.magnitude_bits) - 1) << shift
        infinity = -1 if row.infinity_code is None else row.infinity_code >> shift
        first_nan = {"none": -1, "negative_zero": -1}.get(row.nan_style, (row.max_code >> shift) + 1 + row.infinity)
        return row.sign_mask, magnitude, shift, first_nan, infinity

    @property
    def negative_zero_is_nan(self) -> bool:
        """Whether the code of -0 is the format's NaN."""
        return self.format is not None and self.format.nan_style == "negative_zero"

    def values(self) -> np.ndarray:
        """Return the values as float64."""
        if self.format is None:
            return self.array.astype(np.float64)
        with np.errstate(invalid="ignore"):  # signalling NaNs become quiet ones
            return self.format.decode(self.array).astype(np.float64)


def _format(values: np.ndarray, name: str) -> Format:
    try:
        return format_of(values)
    except FormatError as error:
        raise FormatError(f"{name} {error}") from None


def codes_of(array: Any, format: str | None, name: str) -> Codes:
    """Return an array as codes: native float arrays by their dtype, unsigned ones by `format`, integers as they are."""
    values = to_numpy(array, name)
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    if format is None:
        row = None if values.dtype.kind in "iu" else _format(values, name)
        if row is None and values.size and max(int(values.max()), -int(values.min())) >= _FAR:
            raise FormatError(expected(name, f"{values.dtype} up to {values.max()}", f"magnitudes below {_FAR}"))
        return Codes(values if row is None else as_codes(values), row)
    row = FORMATS[format]
    if values.dtype.kind not in "iu" and _format(values, name) is not row:
        raise FormatError(expected(f"{name} dtype", values.dtype, row.name, "compare never casts"))
    codes = as_codes(values) if values.dtype.kind not in "iu" else values
    if codes.dtype != row.code_dtype:
        raise FormatError(expected(f"{name} dtype", values.dtype, f"{row.code_dtype} codes", row.name))
    return Codes(codes, row)


def paired_codes(actual: Any, expected_array: Any, format: str | None) -> tuple[Codes, Codes]:
    """Return both arrays as codes of one format and one shape."""
    left, right = codes_of(actual, format, "actual"), codes_of(expected_array, format, "expected")
    if left.name != right.name:
        raise FormatError(expected("actual", left.name, f"{right.name}, as expected is", "compare never casts"))
    if left.array.shape != right.array.shape:
        raise ShapeError(expected("actual shape", left.array.shape, right.array.shape))
    return left, right


def ordinals(codes: Codes) -> np.ndarray:
    """Return integers that are ordered, and spaced, as the format's values are; both zeros are 0."""
    if codes.format is None:
        return codes.array.astype(np.int64)
    sign, magnitude, shift, _, _ = codes.fields
    size = (codes.array & codes.array.dtype.type(magnitude)).astype(np.int64) >> shift
    return np.where(codes.array & codes.array.dtype.type(sign), -size, size)


def ulp_distance(
    actual: Any, expected_array: Any, format: str | None = None, policy: Policy | None = None
) -> np.ndarray:
    """Return how many representable values lie between two arrays, element by element, as int64.

    NaN against a number is UNRELATED, and so is Inf unless the policy counts it as the next value. -0 and +0 are at
    distance 0. This is the readable definition; `compare` scans with a compiled one that is tested against it.
    """
    policy = Policy() if policy is None else instance("policy", policy, Policy, "a Policy")
    left, right = paired_codes(actual, expected_array, format)
    distance = np.abs(ordinals(left) - ordinals(right))
    if left.format is None:
        return distance
    same = left.array == right.array
    nan = [left.format.is_nan(side.array) for side in (left, right)]
    unlike = (nan[0] | nan[1]) if policy.nan == "bits" else nan[0] != nan[1]
    distance[nan[0] & nan[1]] = 0
    if policy.infinity == "apart" and left.format.infinity:
        infinite = [np.isinf(side.values()) for side in (left, right)]
        unlike |= infinite[0] | infinite[1]
    distance[unlike & ~same & ~(nan[0] & nan[1] & (policy.nan == "equal"))] = UNRELATED
    return distance
