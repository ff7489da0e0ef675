"""Facts about one weight: each a small function from what was measured to what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dgref.checkpoint.findings import Finding, Level
from dgref.checkpoint.statistics import Statistics, multiplier
from dgref.checkpoint.weights import Weight, implied_block
from dgref.errors import expected
from dgref.formats import FORMATS
from dgref.formats.scaling import FULL
from dgref.registry import Registry

# Thresholds of the statistical facts; docs/checkpoints.md says how each was chosen.
_BINADES = 32  # distinct exponents that no tensor of weights has
_PEAK_SHARE, _PEAK_BLOCKS = 0.9, 512
_STRUCTURE_GAIN = 0.1
_PLAUSIBLE = (2.0**-14, 2.0**10)  # the largest weight of a layer


@dataclass(frozen=True)
class Measured:
    """A weight, what was measured of it, and what the configuration claims."""

    weight: Weight
    statistics: Statistics
    claims: frozenset[str]


Found = Iterator[tuple[Level, str, str]]  # level, message, fix


@dataclass(frozen=True)
class Fact:
    """One check of one weight."""

    name: str
    description: str
    check: Callable[[Measured], Found]

    def findings(self, measured: Measured) -> Iterator[Finding]:
        """Yield what is wrong under this fact's name."""
        for level, message, fix in self.check(measured):
            yield Finding(level, self.name, measured.weight.name, message, fix)


FACTS: Registry[Fact] = Registry("checkpoint fact")


def _fact(check: Callable[[Measured], Found]) -> Callable[[Measured], Found]:
    """Register a check under its function's name, described by its docstring."""
    FACTS.add(Fact(check.__name__, (check.__doc__ or "").splitlines()[0], check))
    return check


@_fact
def scale_missing(m: Measured) -> Found:
    """A quantised payload has no scales, or lacks the global scale that its convention multiplies by."""
    row = m.weight.convention
    if m.weight.scale is None:
        need = " or ".join(m.weight.name + suffix for suffix in row.scale)
        yield "contradiction", expected("scales", "none", need), "without scales the values are off by 2^8 and more"
    elif row.global_scale and m.weight.global_scale is None:
        message = expected("global scale", "none", m.weight.name + row.global_scale, row.name)
        yield "contradiction", message, "a missing global scale reads as 1.0"


@_fact
def scale_dtype(m: Measured) -> Found:
    """The scales' dtype is not one that the convention stores."""
    scale, row = m.weight.scale, m.weight.convention
    if scale is not None and scale.dtype not in row.scale_dtypes:
        yield "contradiction", expected(scale.name, scale.dtype, " or ".join(row.scale_dtypes), row.name), ""


@_fact
def scale_shape(m: Measured) -> Found:
    """The grid of scales does not cover the payload in any block of the convention."""
    scale, row = m.weight.scale, m.weight.convention
    if scale is None or m.weight.block is not None:
        return
    if len(m.weight.shape) < 2:
        yield "contradiction", expected(m.weight.payload.name, f"rank {len(m.weight.shape)}", "2 or more"), ""
        return
    need = " or ".join(str(list(row.scale_shape(m.weight.shape, block))) for block in row.blocks)
    message = expected(scale.name, list(scale.shape), need, f"{row.name}, weight {list(m.weight.shape)}")
    yield "contradiction", message, _explain_shape(m.weight)


def _explain_shape(weight: Weight) -> str:
    """Say what the scales' shape would fit."""
    block = implied_block(weight.shape, weight.scale.shape)
    if block:
        return f"the shape is that of blocks of {_block_text(block)}: wrong granularity or wrong convention"
    from dgref.formats.layouts import LAYOUTS

    for name in ("swizzle_128x4", "swizzle_8x4", "linear_padded_4", "mn_major_tma"):
        for rule in weight.convention.blocks:
            grid = weight.convention.scale_shape(weight.shape, rule)
            if LAYOUTS[name].size(grid) == weight.scale.count != int(np.prod(grid)):
                return f"the size is that of {name}: the scales are padded, and perhaps swizzled"
    for rule in weight.convention.blocks:
        missing = int(np.prod(weight.convention.scale_shape(weight.shape, rule))) - weight.scale.count
        if missing > 0:
            return f"{missing} scales are missing for blocks of {_block_text(rule)}: truncated"
    return "more scales than blocks"


def _block_text(block: tuple[int, int]) -> str:
    return "x".join("all" if size == FULL else str(size) for size in block)


@_fact
def payload_nan(m: Measured) -> Found:
    """Payload bytes that decode to NaN or infinity."""
    row = FORMATS[m.weight.convention.format]
    if m.weight.convention.packing > 1:
        return
    count = int(m.statistics.payload[row.nan_codes].sum() + m.statistics.payload[row.infinity_codes].sum())
    if count:
        fix = "one NaN poisons its whole output row"
        yield "contradiction", expected("payload", f"{count} NaN or Inf codes", "finite values"), fix


@_fact
def scale_values(m: Measured) -> Found:
    """Scales that are NaN, infinite, negative or zero."""
    summary, counted = m.statistics.scale, m.statistics.scale.count
    for count, what in ((summary.nan, "NaN"), (summary.infinite, "infinite"), (summary.negative, "negative")):
        if count:
            yield "contradiction", expected("scales", f"{count} of {counted} {what}", "positive finite values"), ""
    if summary.zero and summary.zero == counted:
        yield "contradiction", expected("scales", f"all {counted} zero", "positive values"), "the weight reads as zero"
    elif summary.zero:
        message = expected("scales", f"{summary.zero} of {counted} zero", "positive values")
        yield "suspicion", message, "a zero scale is right only for a block of zeros"


@_fact
def power_of_two_claimed(m: Measured) -> Found:
    """The configuration claims UE8M0 scales, and the float32 scales are not powers of two."""
    summary = m.statistics.scale
    if "fp8/ue8m0" not in m.claims or m.weight.convention.scale_format != "float32" or not summary.count:
        return
    other = summary.count - summary.powers_of_two
    if other:
        fix = "truncating them to UE8M0 changes weights by up to 2x: requantise the payload"
        yield (
            "contradiction",
            expected("scales", f"{other} of {summary.count} not powers of two", "scale_fmt ue8m0"),
            fix,
        )


@_fact
def float32_read_as_bytes(m: Measured) -> Found:
    """One-byte scales whose bytes repeat with period four, as those of float32 do."""
    counts = m.statistics.scale.bytes
    if counts is None or counts.sum() < 256:
        return
    spread = (counts > 0).sum(axis=1)
    top = counts[3].argmax() in range(0x2E, 0x46)  # float32 of 2^-35 to 2^13
    if top and spread[3] <= 6 and spread[:3].max() >= 8 * spread[3] + 8:
        fix = "the tensor holds float32 bits: view it as float32, four times fewer scales"
        got = f"{spread.tolist()} distinct bytes by address modulo 4"
        yield "contradiction", expected("scales", got, "the same spread at every address"), fix


@_fact
def e4m3_read_as_e8m0(m: Measured) -> Found:
    """UE8M0 scales that span more binades than weights ever do: E4M3 bytes look like that."""
    counts = m.statistics.scale.bytes
    if counts is None or m.weight.convention.scale_format != "float8_e8m0fnu" or counts.sum() < 1024:
        return
    total = counts.sum(axis=0)
    used = np.flatnonzero(total)
    common = int((total > total.sum() / 10000).sum())
    if common > _BINADES and used.max() < 0x7F:
        fix = "these look like float8_e4m3fn scales: blocks of 16 and a global scale (NVFP4), not MXFP4"
        yield (
            "contradiction",
            expected("scales", f"{common} distinct exponents in one tensor", f"under {_BINADES}"),
            fix,
        )


@_fact
def e8m0_read_as_e4m3(m: Measured) -> Found:
    """E4M3 scales with negative or NaN bytes, or so few distinct bytes that they look like exponents."""
    counts = m.statistics.scale.bytes
    if counts is None or m.weight.convention.scale_format != "float8_e4m3fn" or not counts.sum():
        return
    total = counts.sum(axis=0)
    signed = int(total[0x7F:].sum())
    fix = "these look like UE8M0 exponents: blocks of 32 without a global scale (MXFP4), not NVFP4"
    used = np.flatnonzero(total)
    if signed and used.size <= _BINADES:
        yield "contradiction", expected("scales", f"{signed} bytes 0x7F or above", "positive finite E4M3"), fix
    elif total.sum() >= 4096 and used.size <= 16 and np.ptp(used) < 20 and used.max() < 0x7E:
        got = f"only the bytes {used.min():#04x} to {used.max():#04x}, never 0x7e"
        yield "suspicion", expected("scales", got, "a spread of mantissas up to 448"), fix


@_fact
def reciprocal_scale(m: Measured) -> Found:
    """The largest weight is absurd, and would be ordinary if a scale were its reciprocal."""
    row, summary = m.weight.convention, m.statistics.scale
    largest = FORMATS[row.format].max
    if not summary.count or not 0 < summary.largest < np.inf or m.weight.scale is None:
        return
    if row.global_scale and m.statistics.global_scale:
        factor = multiplier(m.weight, m.statistics)
        value, inverse = largest * summary.largest * factor, largest * summary.largest / factor
        name = m.weight.name + row.global_scale
    elif row.scale_format == "float32":
        name = m.weight.scale.name
        value, inverse = largest * summary.largest, largest / summary.smallest
    else:
        return
    low, high = _PLAUSIBLE
    if not low <= value <= high and low <= inverse <= high:
        rule = {"multiply": "multiplied", "divide": "divided"}.get(row.global_rule, "multiplied")
        fix = f"the scale is stored as its reciprocal: {row.name} is {rule} by it"
        yield "contradiction", expected(name, f"a largest weight of {value:.3g}", f"{inverse:.3g}, if inverted"), fix
    elif not low <= value <= high:
        yield "suspicion", expected("scales", f"a largest weight of {value:.3g}", f"{low:.1g} to {high:.0f}"), ""


@_fact
def granularity(m: Measured) -> Found:
    """Blocks that do not reach the top of the payload format, or that halves of reach it as surely."""
    block, peaks = m.weight.block, m.statistics.peaks
    if block is None or block[1] not in peaks or m.statistics.blocks_seen < _PEAK_BLOCKS or block[0] != 1:
        return
    here = peaks[block[1]]
    if here < _PEAK_SHARE:
        wider = [size for size, share in peaks.items() if size > block[1] and share >= 0.98]
        hint = f"blocks of {wider[0]} all do: the payload was scaled by those" if wider else _unused(here)
        got = f"{here:.0%} of blocks of {block[1]} reach half the largest {m.weight.convention.format}"
        yield "suspicion", expected("payload", got, "nearly all"), hint
    finer = peaks.get(block[1] // 2, 0.0)
    if here >= 0.999 and finer >= 0.999:
        got = f"every block of {block[1] // 2} reaches half the largest value"
        fix = f"the payload was scaled by blocks of {block[1] // 2} or fewer, and the scales are for {block[1]}"
        yield "suspicion", expected("payload", got, f"only blocks of {block[1]} to"), fix


def _unused(share: float) -> str:
    return "the top binades are unused: an exponent offset, or scales rounded up" if share < 0.5 else ""


@_fact
def swizzled(m: Measured) -> Found:
    """Scales whose rows and columns make sense only once a swizzle is undone."""
    structure = m.statistics.structure
    if not structure:
        return
    name = max(structure, key=structure.__getitem__)
    gain = structure[name] - structure["linear"]
    if name != "linear" and gain > _STRUCTURE_GAIN and structure[name] > 2 * structure["linear"]:
        got = f"{structure['linear']:.0%} of the variance explained by rows and columns"
        message = expected("scales", got, f"{structure[name]:.0%}, as when {name} is undone")
        yield "contradiction", message, f"the bytes are in {name} order: unpack them, or declare the layout"


@_fact
def input_scale(m: Measured) -> Found:
    """A static activation scale that is not positive and finite."""
    value = m.statistics.input_scale
    if value is not None and not (np.isfinite(value) and value > 0):
        yield "contradiction", expected("input scale", value, "a positive finite value"), ""


@_fact
def global_scale(m: Measured) -> Found:
    """A global scale that is not positive and finite, or block scales that do not fill its range."""
    value, row = m.statistics.global_scale, m.weight.convention
    if value is None:
        return
    if not (np.isfinite(value) and value > 0):
        yield "contradiction", expected("global scale", value, "a positive finite value"), ""
    elif row.scale_format == "float8_e4m3fn" and 0 < m.statistics.scale.largest < 128:
        got = f"a largest block scale of {m.statistics.scale.largest:g}"
        yield "suspicion", expected("global scale", got, "448, as amax / (6 * 448) gives"), "precision is lost"


@_fact
def unaligned(m: Measured) -> Found:
    """Extents that end inside a block: right only in kernels that pad."""
    block = m.weight.block
    if block is None or m.weight.scale is None:
        return
    tails = [extent for extent, size in zip(m.weight.shape[-2:], block, strict=True) if size != FULL and extent % size]
    if tails:
        yield (
            "note",
            expected("shape", list(m.weight.shape), f"multiples of {_block_text(block)}"),
            "the tail needs padding",
        )
