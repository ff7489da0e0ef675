"""A rule's name is literally true: each one against exact rational arithmetic, one float32 rounding at a time."""

import math
from fractions import Fraction

import numpy as np
import pytest

from dgref.formats import FORMATS
from dgref.formats.rules import RULES

E4M3, E2M1 = FORMATS["float8_e4m3fn"], FORMATS["float4_e2m1fn"]


def amaxes() -> np.ndarray:
    """Every binade at its boundary, at 1.5, 1.75 and 7/8 of it, one ulp around each, and random ones between."""
    anchors = [np.ldexp(b, e) for e in range(-126, 127, 3) for b in (1.0, 1.5, 1.75, 1.875)]
    bits = np.array(anchors, np.float32).view(np.int32)[:, None] + np.arange(-1, 2, dtype=np.int32)
    drawn = np.random.default_rng(1).integers(1, 0x7F800000, 600).astype(np.int32)
    return np.concatenate([bits.reshape(-1), drawn, [1, 0x400000, 0x7F7FFFFF]]).astype(np.int32).view(np.float32)


def fp32(value: Fraction) -> Fraction:
    """Round to float32, nearest even, by integers."""
    if value == 0:
        return value
    exponent = max(floor_log2(value), -126) - 23
    return Fraction(round(value / Fraction(2) ** exponent)) * Fraction(2) ** exponent


def floor_log2(value: Fraction) -> int:
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if Fraction(2) ** guess <= value else guess - 1


def ceil_log2(value: Fraction) -> int:
    floor = floor_log2(value)
    return floor if Fraction(2) ** floor == value else floor + 1


def rounded_half_up(value: Fraction, bits: int) -> Fraction:
    step = Fraction(2) ** (floor_log2(value) - bits)
    return (value / step + Fraction(1, 2)).__floor__() * step


LITERAL = {
    "floor_amax": lambda a, f: floor_log2(a) - f.emax,
    "ceil_amax": lambda a, f: ceil_log2(a) - f.emax,
    "floor_rounded_amax": lambda a, f: floor_log2(rounded_half_up(a, f.mantissa_bits)) - f.emax,
    "floor_amax_rounded_to_one_bit": lambda a, f: floor_log2(rounded_half_up(a, 1)) - f.emax,
    "ceil_product": lambda a, f: ceil_log2(fp32(a * fp32(1 / Fraction(f.max)))),
    "ceil_quotient": lambda a, f: ceil_log2(fp32(a / Fraction(f.max))),
}


@pytest.mark.parametrize("format", [E4M3, E2M1], ids=lambda f: f.name)
@pytest.mark.parametrize("name", LITERAL)
def test_a_power_of_two_rule_is_what_its_name_says(name, format):
    a = amaxes()
    a = a[a >= 2.0**-110]  # quotients that round to zero or to subnormals have a test of their own
    wanted = RULES[name].find(a, format, None)
    for value, got in zip(a, wanted, strict=True):
        exponent = LITERAL[name](Fraction(float(value)), format)
        assert got == math.ldexp(1.0, exponent), f"{name}({value!r}): got {got}, need 2^{exponent}"


@pytest.mark.parametrize("name", ["amax_over_max", "amax_times_reciprocal_max"])
def test_a_float32_rule_rounds_where_its_name_says(name):
    for value in amaxes()[::7]:
        exact, top = Fraction(float(value)), Fraction(448)
        need = fp32(exact / top) if name == "amax_over_max" else fp32(exact * fp32(1 / top))
        assert Fraction(float(RULES[name].find(np.array([value]), E4M3, None)[0])) == need, value


GLOBAL = {
    "amax_over_max_times_global": lambda a, g: fp32(a / fp32(6 * g)),
    "amax_over_max_over_global": lambda a, g: fp32(fp32(a / 6) / g),
    "global_times_amax_over_max": lambda a, g: fp32(g * fp32(a / 6)),
    "global_times_amax_times_reciprocal_max": lambda a, g: fp32(g * fp32(a * fp32(Fraction(1, 6)))),
    "amax_times_global_over_max": lambda a, g: fp32(a * fp32(g * fp32(Fraction(1, 6)))),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_a_rule_under_a_global_scale_rounds_where_its_name_says(name):
    rng = np.random.default_rng(2)
    a, g = rng.random(300).astype(np.float32) + np.float32(0.01), rng.random(300).astype(np.float32) + np.float32(0.01)
    got = RULES[name].find(a, E2M1, g)
    for i in range(len(a)):
        assert Fraction(float(got[i])) == GLOBAL[name](Fraction(float(a[i])), Fraction(float(g[i]))), (a[i], g[i])


def test_every_rule_is_checked_here_or_against_a_library():
    by_libraries = {
        "ceil_log2_quotient",
        "floor_log2_amax",
        "ceil_product_normal",
        "global_times_bfloat16_amax_over_max",
    }
    assert set(RULES) - by_libraries == {*LITERAL, *GLOBAL, "amax_over_max", "amax_times_reciprocal_max"}


@pytest.mark.parametrize("name", [name for name in RULES if name not in GLOBAL and "global" not in name])
def test_nan_stays_nan_and_zero_stays_the_smallest(name):
    with np.errstate(all="ignore"):
        wanted = RULES[name].find(np.array([np.nan, 0.0], np.float32), E4M3, None)
    assert np.isnan(wanted[0]) and wanted[1] == 0


def test_a_float_logarithm_misses_the_power_of_two_that_an_exact_rule_sees():
    above = np.nextafter(np.float32(448 * 2.0**40), np.float32(np.inf))  # log2 of the quotient rounds to 40
    below = np.nextafter(np.float32(2.0**40), np.float32(0))  # log2 rounds to 40
    assert RULES["ceil_quotient"].find(above[None], E4M3, None) == 2.0**41
    assert RULES["ceil_log2_quotient"].find(above[None], E4M3, None) == 2.0**40
    assert RULES["floor_amax"].find(below[None], E4M3, None) == 2.0**31
    assert RULES["floor_log2_amax"].find(below[None], E4M3, None) == 2.0**32


def test_exponent_bits_round_subnormals_up_to_the_smallest_normal():
    tiny = np.float32(2.0**-130)
    assert RULES["ceil_product_normal"].find(tiny[None], E4M3, None) == 2.0**-126
    assert RULES["ceil_product"].find(tiny[None], E4M3, None) == 2.0**-138


def test_quotient_and_product_by_the_reciprocal_give_the_same_exponent():
    """For 448 on every normal amax, as powers of two; sampled here at every boundary and at random."""
    a = amaxes()
    a = a[a >= 2.0**-126]
    assert np.array_equal(RULES["ceil_quotient"].find(a, E4M3, None), RULES["ceil_product"].find(a, E4M3, None))
