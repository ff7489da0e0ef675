"""Where the conventions disagree, as the tables of docs/numerics.md: `python -m dgref.formats.disagreements`."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dgref.errors import FormatError
from dgref.formats.conventions import CONVENTIONS, Convention
from dgref.formats.element import FORMATS, Format

_NAN = (("NaN", np.nan), ("-NaN", -np.nan))
_INFINITY = (("Inf", np.inf), ("-Inf", -np.inf))
_ZERO = (("0", 0.0), ("-0", -0.0))
_BELOW_QUARTER = ("0.25 - 2^-26", 0.25 - 2.0**-26)

# What is asked of every convention of a destination; values that all agree on are left out of the table.
PROBES: dict[str, tuple[tuple[str, float], ...]] = {
    "float8_e4m3fn": (
        *_ZERO,
        ("-2^-12", -(2.0**-12)),
        ("2^-10 - 2^-34, half the smallest", 2.0**-10 - 2.0**-34),
        ("1.0625, a tie above even", 1.0625),
        ("1.1875, a tie above odd", 1.1875),
        ("1.0625 + 2^-40 (float64)", 1.0625 + 2.0**-40),
        ("464, the last tie", 464.0),
        ("465", 465.0),
        ("-465", -465.0),
        *_INFINITY,
        *_NAN,
    ),
    "float8_e5m2": (
        *_ZERO,
        ("1.125, a tie above even", 1.125),
        ("1.125 + 2^-40 (float64)", 1.125 + 2.0**-40),
        ("61439", 61439.0),
        ("61440, the last tie", 61440.0),
        ("-61440", -61440.0),
        *_INFINITY,
        *_NAN,
    ),
    "float8_e8m0fnu": (
        *_ZERO,
        ("2^-149", 2.0**-149),
        ("2^-127", 2.0**-127),
        ("1.25 * 2^-127", 1.25 * 2.0**-127),
        ("1.25", 1.25),
        ("1.5, a tie", 1.5),
        ("3, a tie", 3.0),
        ("-3", -3.0),
        ("1.75 * 2^127", 1.75 * 2.0**127),
        *_INFINITY,
        *_NAN,
    ),
    "float6_e2m3fn": (*_ZERO, ("0.0625, a tie", 0.0625), ("0.3125, a tie", 0.3125), ("8", 8.0), *_INFINITY, *_NAN),
    "float6_e3m2fn": (*_ZERO, ("0.03125, a tie", 0.03125), ("1.125, a tie", 1.125), ("30", 30.0), *_INFINITY, *_NAN),
    "float4_e2m1fn": (
        *_ZERO,
        ("-0.1", -0.1),
        _BELOW_QUARTER,
        *((f"{tie:g}, a tie", tie) for tie in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)),
        ("0.75 - 2^-12", 0.75 - 2.0**-12),
        ("100", 100.0),
        *_INFINITY,
        *_NAN,
    ),
    "bfloat16": (("1 + 2^-8 + 2^-40 (float64)", 1 + 2.0**-8 + 2.0**-40), *_INFINITY, *_NAN),
    "float16": (("1 + 2^-11 + 2^-40 (float64)", 1 + 2.0**-11 + 2.0**-40), *_INFINITY, *_NAN),
}


def text() -> str:
    """Return every table in Markdown."""
    parts = ["### The formats", formats_table(), "### The conventions", conventions_table()]
    for name in PROBES:
        parts += [f"### Values to {name}", disagreement_table(FORMATS[name])]
    return "\n\n".join(parts) + "\n"


def formats_table() -> str:
    """Return one row for each format, all of it derived from the format's data."""
    header = ("format", "bits", "e.m", "bias", "largest", "smallest normal", "smallest", "NaN codes", "Inf code")
    return _markdown(header, (_format_row(format) for format in FORMATS.values()))


def _format_row(format: Format) -> tuple[str, ...]:
    nan = {
        "ieee": "IEEE",
        "all_ones": f"{format.nan_code or 0:#x}" + (" and its negative" if format.signed else ""),
        "negative_zero": f"{format.nan_code or 0:#x}",
        "none": "none",
    }[format.nan_style]
    return (
        format.name,
        str(format.bits),
        f"{format.exponent_bits}.{format.mantissa_bits}",
        str(format.bias),
        f"{format.max:.10g} = {format.max_code:#x}",
        f"2^{format.emin}",
        f"2^{format.emin - format.mantissa_bits}",
        nan if format.sign != "ignored" else f"{format.nan_code:#x}, top bit ignored",
        "none" if format.infinity_code is None else f"{format.infinity_code:#x}",
    )


def conventions_table() -> str:
    """Return one row for each convention: where it comes from and what proves it here."""
    header = ("convention", "destinations", "source", "tested against")
    return _markdown(header, ((c.name, ", ".join(c.conversions), c.source, c.proof) for c in CONVENTIONS.values()))


def disagreement_table(format: Format) -> str:
    """Return the codes each convention gives, for those probes on which not all of them agree."""
    conventions = [c for c in CONVENTIONS.values() if format.name in c.conversions]
    rows = []
    for label, value in PROBES[format.name]:
        codes = [_code(format, convention, value) for convention in conventions]
        if len(set(codes)) > 1:
            rows.append((label, *codes))
    return _markdown(("value", *(c.name for c in conventions)), rows)


def _code(format: Format, convention: Convention, value: float) -> str:
    try:
        code = format.encode(np.float64(value), convention=convention.name)
    except FormatError:
        return "no code"
    return f"{int(code):0{-(-format.bits // 4)}X}"


def _markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    print(text(), end="")
