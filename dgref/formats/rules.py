"""Scale rules: how the largest magnitude of a block becomes its scale. A rule's name is literally what it computes.

Every rule takes float32 amaxes (NaN propagates), the payload format and the global scale, and returns the wanted scale
before it is clamped and rounded to the scale format. Rules for E8M0 return powers of two, so nothing is left to round.
An infinite amax counts as 2^128, the exponent that its bits carry. A global scale that is stored as an amax arrives
here as the encode scale that is made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dgref.formats.element import FORMATS, Format
from dgref.registry import Registry

ONE = np.float32(1)
FLOAT32_MAX = np.finfo(np.float32).max
Find = Callable[[np.ndarray, Format, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Rule:
    """One way to find a scale: `find(amax, format, stored_global_scale)`."""

    name: str
    find: Find
    description: str

    @property
    def uses_global(self) -> bool:
        """Whether a global scale takes part; the name says all that the rule computes, so it says this too."""
        return "global" in self.name


RULES: Registry[Rule] = Registry("scale rule")


def rule(description: str, *aliases: str) -> Callable[[Find], Find]:
    """Register a function as the rule of its own name."""

    def register(find: Find) -> Find:
        RULES.add(Rule(find.__name__, find, description), *aliases)
        return find

    return register


def binade(values: np.ndarray) -> np.ndarray:
    """Return floor(log2(values)) as float64: -inf of zero, 128 of Inf, NaN of NaN."""
    exponent = np.frexp(values.astype(np.float64))[1] - 1.0
    special = np.where(values == 0, -np.inf, np.where(np.isinf(values), 128.0, values.astype(np.float64)))
    return np.where(np.isfinite(values) & (values != 0), exponent, special)


def is_power_of_two(values: np.ndarray) -> np.ndarray:
    """Return where a value is 2^n exactly; Inf counts, as its mantissa bits are zero."""
    return (np.frexp(values)[0] == 0.5) | np.isinf(values)


def power_of_two_at_least(values: np.ndarray) -> np.ndarray:
    """Return the smallest power of two that is not below each value, as float64."""
    return np.exp2(binade(values) + ~is_power_of_two(values))


def fp32_log2(values: np.ndarray) -> np.ndarray:
    """Return log2 as a correctly rounded float32 logarithm gives it, widened to float64."""
    return np.log2(values.astype(np.float64)).astype(np.float32).astype(np.float64)


def reciprocal_max(format: Format) -> np.float32:
    """Return 1 / max rounded to float32, the constant that compilers fold a division into."""
    return ONE / np.float32(format.max)


@rule("fp32 amax / max", "amax")
def amax_over_max(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    return amax / np.float32(format.max)


@rule("fp32 amax * fp32(1 / max)")
def amax_times_reciprocal_max(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    return amax * reciprocal_max(format)


@rule("2^(floor(log2 amax) - emax): the block's largest value may saturate", "floor")
def floor_amax(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    return np.exp2(binade(amax) - format.emax)


@rule("2^(ceil(log2 amax) - emax)", "ceil")
def ceil_amax(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    return power_of_two_at_least(amax) * 2.0**-format.emax


def floor_rounded(amax: np.ndarray, format: Format, mantissa_bits: int) -> np.ndarray:
    """Return 2^(floor(log2 amax') - emax), amax' being amax rounded half up to this many mantissa bits."""
    half_ulp = np.uint32(1 << (22 - mantissa_bits))  # carries into the exponent field of the fp32 bits
    bits = np.where(np.isfinite(amax), amax, 0).astype(np.float32).view(np.uint32) + half_ulp
    rounded = (bits >> np.uint32(23)).astype(np.float64) - 127
    return np.exp2(np.where(np.isfinite(amax) & (amax > 0), rounded, binade(amax)) - format.emax)


@rule("2^(floor(log2 amax') - emax), amax' rounded half up to the payload's mantissa", "even")
def floor_rounded_amax(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    return floor_rounded(amax, format, format.mantissa_bits)


@rule("2^(floor(log2 amax') - emax), amax' rounded half up to one mantissa bit whatever the payload")
def floor_amax_rounded_to_one_bit(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    return floor_rounded(amax, format, 1)


@rule("2^(floor(fp32(log2 amax)) - emax): just below a power of two the logarithm rounds up to it")
def floor_log2_amax(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    return np.exp2(np.floor(fp32_log2(amax)) - format.emax)


@rule("the smallest power of two >= fp32(amax * fp32(1 / max))", "rceil")
def ceil_product(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    return power_of_two_at_least(amax * reciprocal_max(format))


@rule("the smallest normal power of two >= fp32(amax * fp32(1 / max)), as exponent bits plus one give it")
def ceil_product_normal(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    ceiling = power_of_two_at_least(amax * reciprocal_max(format))
    return np.where(ceiling == 0, ceiling, np.maximum(ceiling, 2.0**-126))


@rule("the smallest power of two >= fp32(amax / max)")
def ceil_quotient(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    return power_of_two_at_least(amax / np.float32(format.max))


@rule("2^ceil(fp32(log2(fp32(amax / max)))): just above a power of two the logarithm rounds down to it")
def ceil_log2_quotient(amax: np.ndarray, format: Format, stored: np.ndarray | None) -> np.ndarray:
    quotient = amax / np.float32(format.max)
    return np.exp2(np.ceil(fp32_log2(quotient)))


@rule("fp32(amax / fp32(max * global))")
def amax_over_max_times_global(amax: np.ndarray, format: Format, stored: np.ndarray) -> np.ndarray:
    return amax / (np.float32(format.max) * stored)


@rule("fp32(fp32(amax / max) / global)")
def amax_over_max_over_global(amax: np.ndarray, format: Format, stored: np.ndarray) -> np.ndarray:
    return amax / np.float32(format.max) / stored


@rule("fp32(global * fp32(amax / max)), global being the reciprocal kind")
def global_times_amax_over_max(amax: np.ndarray, format: Format, stored: np.ndarray) -> np.ndarray:
    return stored * (amax / np.float32(format.max))


@rule("fp32(global * fp32(amax * fp32(1 / max))), global being the reciprocal kind")
def global_times_amax_times_reciprocal_max(amax: np.ndarray, format: Format, stored: np.ndarray) -> np.ndarray:
    return stored * (amax * reciprocal_max(format))


@rule("fp32(global * bf16(amax / max)), global being the reciprocal kind")
def global_times_bfloat16_amax_over_max(amax: np.ndarray, format: Format, stored: np.ndarray) -> np.ndarray:
    bfloat16 = FORMATS["bfloat16"]
    return stored * bfloat16.decode(bfloat16.encode(amax / np.float32(format.max)))


@rule("fp32(amax * fp32(global * fp32(1 / max))), at most the fp32 maximum, global being the reciprocal kind")
def amax_times_global_over_max(amax: np.ndarray, format: Format, stored: np.ndarray) -> np.ndarray:
    return np.minimum(amax * (stored * reciprocal_max(format)), FLOAT32_MAX)
