"""Element formats: one row of data each; every other property is derived from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from dgref.errors import FormatError, expected
from dgref.registry import Registry

NanStyle = Literal["ieee", "all_ones", "negative_zero", "none"]
Array = Any  # a NumPy array or a torch tensor; both kinds pass through unchanged


@dataclass(frozen=True)
class Format:
    """What the bits of one element mean.

    `nan_style` says which codes are NaN: `ieee` (largest exponent, nonzero mantissa), `all_ones` (every bit below
    the sign set), `negative_zero` (the code of -0) or `none`. `sign` is `signed`, or `ignored` for a format whose
    top bit exists and means nothing, or `absent`.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    nan_style: NanStyle
    infinity: bool = False
    sign: Literal["signed", "ignored", "absent"] = "signed"
    power_of_two: bool = False  # no zero, no mantissa, no subnormals: the code is the exponent
    storage_shift: int = 0  # unused low bits of the stored word (TF32 lives in the top of 32 bits)
    source: str = ""

    # -- widths and masks ---------------------------------------------------------------------------------------

    @cached_property
    def magnitude_bits(self) -> int:
        """Bits below the sign."""
        return self.exponent_bits + self.mantissa_bits

    @cached_property
    def bits(self) -> int:
        """Bits that carry meaning or a sign position."""
        return self.magnitude_bits + (self.sign != "absent")

    @cached_property
    def storage_bits(self) -> int:
        """Bits of one unpacked code, unused low bits included."""
        return self.bits + self.storage_shift

    @cached_property
    def code_dtype(self) -> np.dtype:
        """The unsigned integer that holds one unpacked code."""
        width = self.storage_bits
        return np.dtype(np.uint8 if width <= 8 else np.uint16 if width <= 16 else np.uint32)

    @cached_property
    def sign_mask(self) -> int:
        """The sign's bit in a code; 0 where the format has no sign."""
        return 1 << (self.storage_bits - 1) if self.sign == "signed" else 0

    @cached_property
    def signed(self) -> bool:
        """Whether negative values exist."""
        return self.sign == "signed"

    # -- special codes ------------------------------------------------------------------------------------------

    @cached_property
    def max_code(self) -> int:
        """The code of the largest finite value."""
        top = 1 << self.magnitude_bits
        reserved = {"ieee": 1 << self.mantissa_bits, "all_ones": 1, "negative_zero": 0, "none": 0}[self.nan_style]
        return (top - reserved - 1) << self.storage_shift

    @cached_property
    def infinity_code(self) -> int | None:
        """The code of +Inf, or None."""
        return self.max_code + (1 << self.storage_shift) if self.infinity else None

    @cached_property
    def nan_code(self) -> int | None:
        """The code of the canonical quiet NaN, or None for a format that has no NaN."""
        if self.nan_style == "none":
            return None
        if self.nan_style == "negative_zero":
            return self.sign_mask
        if self.nan_style == "all_ones":
            return self.max_code + (1 << self.storage_shift)
        quiet = 1 << (self.mantissa_bits - 1 + self.storage_shift)
        return self.max_code + (1 << self.storage_shift) + quiet

    @cached_property
    def codes(self) -> np.ndarray:
        """Every code in ascending order; only for formats of 16 bits or fewer."""
        if self.storage_bits > 16:
            raise FormatError(
                expected(f"{self.name}.codes", f"{self.storage_bits} bits", "a format of at most 16 bits")
            )
        return np.arange(1 << self.bits, dtype=self.code_dtype)

    @cached_property
    def nan_codes(self) -> np.ndarray:
        """Every code that is NaN; only for formats of 16 bits or fewer."""
        return self.codes[self.is_nan(self.codes)]

    @cached_property
    def infinity_codes(self) -> np.ndarray:
        """The codes of +Inf and -Inf; empty where there is none."""
        codes = [] if self.infinity_code is None else [self.infinity_code, self.infinity_code | self.sign_mask]
        return np.array(codes, self.code_dtype)

    @cached_property
    def has_nan(self) -> bool:
        """Whether any code is NaN."""
        return self.nan_style != "none"

    @cached_property
    def has_negative_zero(self) -> bool:
        """Whether -0 is a value of its own, so that NaN has a sign too."""
        return self.signed and self.nan_style != "negative_zero"

    @cached_property
    def has_zero(self) -> bool:
        """Whether zero is a value."""
        return not self.power_of_two

    def magnitude(self, codes: np.ndarray) -> np.ndarray:
        """Return the codes without sign and unused bits, as plain integers."""
        unused = self.code_dtype.type(self.storage_shift)
        return (codes >> unused) & self.code_dtype.type((1 << self.magnitude_bits) - 1)

    def is_nan(self, codes: np.ndarray) -> np.ndarray:
        """Return which codes are NaN."""
        codes = np.asarray(codes, self.code_dtype)
        if self.nan_style == "negative_zero":
            return codes == self.sign_mask
        top = self.infinity_code if self.infinity else self.max_code
        return self.magnitude(codes) > (top >> self.storage_shift)

    # -- extremes -----------------------------------------------------------------------------------------------

    @cached_property
    def emin(self) -> int:
        """The exponent of the smallest normal value."""
        return -self.bias if self.power_of_two else 1 - self.bias

    @cached_property
    def emax(self) -> int:
        """The exponent of the largest finite value."""
        return int(np.frexp(self.max)[1]) - 1

    @cached_property
    def max(self) -> float:
        """The largest finite value."""
        return self._value(self.max_code)

    @cached_property
    def min_normal(self) -> float:
        """The smallest positive value with a full significand."""
        return 2.0**self.emin

    @cached_property
    def min_subnormal(self) -> float:
        """The smallest positive value; equal to `min_normal` where there are no subnormals."""
        return 2.0 ** (self.emin - self.mantissa_bits)

    def ulp(self, values: Array) -> np.ndarray:
        """Return the distance from each value's magnitude to the next one up in its binade; NaN for Inf and NaN.

        Beyond the largest value it is the distance that a larger exponent would give.
        """
        from dgref.formats.codec import checked_values

        magnitude = np.abs(checked_values(values).astype(np.float64))
        exponent = np.maximum(np.frexp(magnitude)[1] - 1, self.emin)
        step = np.ldexp(1.0, np.where(magnitude == 0, self.emin, exponent) - self.mantissa_bits)
        return np.where(np.isfinite(magnitude), step, np.nan)

    def _value(self, code: int) -> float:
        from dgref.formats.readable import finite_values

        return float(finite_values(self, np.array([code], self.code_dtype))[0])

    # -- conversions --------------------------------------------------------------------------------------------

    def decode(self, codes: Array) -> Array:
        """Return the float32 values of codes, exactly; NaN keeps its sign and, in IEEE formats, its payload."""
        from dgref.formats.codec import decode

        return decode(self, codes)

    def encode(
        self,
        values: Array,
        rounding: str = "nearest_even",
        overflow: str | None = None,
        nan: str | int | None = None,
        convention: str | None = None,
        seed: int | None = None,
    ) -> Array:
        """Return the codes of values, rounded once from the precision they come in.

        `overflow` is `saturate` (the default of formats of 8 bits or fewer; Inf becomes the largest finite value),
        `inf` (the default of wider ones) or `nan`. `nan` is `quiet` (sign and leading payload kept), `sign`,
        `positive`, `negative` or a code. `convention` names a row of CONVENTIONS instead of all of these.
        """
        from dgref.formats.codec import encode
        from dgref.formats.conversion import conversion_of

        return encode(self, values, conversion_of(self, rounding, overflow, nan, convention, seed))

    @property
    def native_dtype(self) -> np.dtype | None:
        """The NumPy (or ml_dtypes) dtype whose elements are these codes, or None."""
        from dgref.formats.native import native_dtype

        return native_dtype(self)


_OCP8, _OCPMX = "OCP 8-bit Floating Point 1.0", "OCP Microscaling Formats 1.0"
_FNUZ, _IEEE = "arXiv 2206.02915", "IEEE 754-2019 3.6"

FORMATS: Registry[Format] = Registry(
    "format",
    [
        Format("float8_e4m3fn", 4, 3, 7, "all_ones", source=_OCP8),
        Format("float8_e5m2", 5, 2, 15, "ieee", infinity=True, source=_OCP8),
        Format("float8_e4m3fnuz", 4, 3, 8, "negative_zero", source=_FNUZ),
        Format("float8_e5m2fnuz", 5, 2, 16, "negative_zero", source=_FNUZ),
        Format("float8_e8m0fnu", 8, 0, 127, "all_ones", sign="absent", power_of_two=True, source=_OCPMX + " 5.4.1"),
        Format("float8_ue4m3", 4, 3, 7, "all_ones", sign="ignored", source="PTX ISA, alternate formats: ue4m3"),
        Format("float6_e2m3fn", 2, 3, 1, "none", source=_OCPMX + " 5.3.2"),
        Format("float6_e3m2fn", 3, 2, 3, "none", source=_OCPMX + " 5.3.2"),
        Format("float4_e2m1fn", 2, 1, 1, "none", source=_OCPMX + " 5.3.3"),
        Format("bfloat16", 8, 7, 127, "ieee", infinity=True, source="the upper half of IEEE binary32"),
        Format("float16", 5, 10, 15, "ieee", infinity=True, source=_IEEE),
        Format(
            "tfloat32", 8, 10, 127, "ieee", infinity=True, storage_shift=13, source="PTX ISA, alternate formats: tf32"
        ),
        Format("float32", 8, 23, 127, "ieee", infinity=True, source=_IEEE),
    ],
    aliases={
        "e4m3": "float8_e4m3fn",
        "e5m2": "float8_e5m2",
        "e8m0": "float8_e8m0fnu",
        "ue8m0": "float8_e8m0fnu",
        "ue4m3": "float8_ue4m3",
        "e2m3": "float6_e2m3fn",
        "e3m2": "float6_e3m2fn",
        "e2m1": "float4_e2m1fn",
        "bf16": "bfloat16",
        "fp16": "float16",
        "tf32": "tfloat32",
        "fp32": "float32",
    },
)


def as_format(format: Format | str) -> Format:
    """Return the row that a name says, or the row itself."""
    return format if isinstance(format, Format) else FORMATS[format]
