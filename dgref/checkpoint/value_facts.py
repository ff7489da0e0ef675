"""Facts about values: counts and statistics that betray a wrong type, granularity, layout or constant."""

from __future__ import annotations

import numpy as np

from dgref.checkpoint.facts import Found, Measured, fact
from dgref.checkpoint.layouts import LINEAR
from dgref.checkpoint.statistics import multiplier
from dgref.errors import expected
from dgref.formats import FORMATS
from dgref.formats.scaling import FULL

# Thresholds of the statistical facts; docs/checkpoints.md says how each was chosen.
_BINADES = 32  # distinct exponents that no tensor of weights has
_PEAK_BLOCKS = 512  # blocks that a share is made of, at least
_MOST, _ALL, _CERTAIN = 0.99, 0.995, 0.999  # shares of blocks that reach half the largest payload
_STRUCTURE_GAIN = 0.1
_PLAUSIBLE = (2.0**-14, 2.0**10)  # the largest weight of a layer


@fact
def payload_nan(m: Measured) -> Found:
    """Payload bytes that decode to NaN or infinity."""
    row = FORMATS[m.weight.convention.format]
    if m.weight.convention.packing > 1:
        return
    count = int(m.statistics.payload[row.nan_codes].sum() + m.statistics.payload[row.infinity_codes].sum())
    if count:
        fix = "one NaN poisons its whole output row"
        yield "contradiction", expected("payload", f"{count} NaN or Inf codes", "finite values"), fix


@fact
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


@fact
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


@fact
def float32_read_as_bytes(m: Measured) -> Found:
    """One-byte scales whose bytes repeat with period four, as those of float32 do."""
    counts = m.statistics.scale.bytes
    if counts is None or counts.sum() < 256:
        return
    spread = (counts > 0).sum(axis=1)
    top = counts[3].argmax() in range(0x2E, 0x46) and spread[3] <= 6  # float32 of 2^-35 to 2^13
    powers = counts[:2, 1:].sum() == 0  # float32 powers of two have two zero bytes
    if top and (powers or spread[:3].max() >= 8 * spread[3] + 8):
        fix = "the tensor holds float32 bits: view it as float32, four times fewer scales"
        got = f"{spread.tolist()} distinct bytes by address modulo 4"
        yield "contradiction", expected("scales", got, "the same spread at every address"), fix


@fact
def bytes_cast_to_floats(m: Measured) -> Found:
    """Float32 scales that are all integers of one byte: exponents whose number was taken, not their meaning."""
    summary = m.statistics.scale
    if m.weight.convention.scale_format != "float32" or summary.count < 4 or summary.smallest < 16:
        return
    if summary.whole == summary.count:
        got = f"only whole numbers, {summary.smallest:g} to {summary.largest:g}"
        fix = "UE8M0 bytes were cast to float instead of decoded: 120.0 stands for 2^-7"
        yield "contradiction", expected("scales", got, "powers of two, or fractions"), fix


@fact
def zero_bytes(m: Measured) -> Found:
    """UE8M0 scales of which most are the byte 0, which is 2^-127 and what unwritten memory holds."""
    counts = m.statistics.scale.bytes
    if counts is None or m.weight.convention.scale_format != "float8_e8m0fnu" or not counts.sum():
        return
    zeros = int(counts[:, 0].sum())
    if 2 * zeros > counts.sum():
        fix = "zero bytes are padding, floats truncated to bytes, or were never written"
        yield "contradiction", expected("scales", f"{zeros} of {counts.sum()} bytes zero", "exponents"), fix


@fact
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


@fact
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


@fact
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


@fact
def granularity(m: Measured) -> Found:
    """Blocks that do not reach half the largest payload, where wider ones do; or halves that reach it as surely."""
    block, peaks = m.weight.block, m.statistics.peaks
    if block is None or block[1] not in peaks or m.statistics.blocks_seen < _PEAK_BLOCKS or block[0] != 1:
        return
    here, finer = peaks[block[1]], peaks.get(block[1] // 2, 0.0)
    wider = [size for size, share in peaks.items() if size > block[1] and share >= _ALL]
    if here < _MOST and wider:
        got = f"{here:.1%} of blocks of {block[1]} reach half of {m.statistics.largest:g}, the largest"
        fix = f"blocks of {wider[0]} all do: the payload was scaled by those"
        yield "suspicion", expected("payload", got, "all of them"), fix
    if here >= _CERTAIN and finer >= _CERTAIN:
        got = f"every block of {block[1] // 2} reaches half of {m.statistics.largest:g}, the largest"
        fix = f"the payload was scaled by blocks of {block[1] // 2} or fewer, and the scales are for {block[1]}"
        yield "suspicion", expected("payload", got, f"only blocks of {block[1]} to"), fix


@fact
def unused_range(m: Measured) -> Found:
    """A payload that leaves the top binade of its format empty everywhere."""
    limit, block = FORMATS[m.weight.convention.format].max, m.weight.block
    if m.statistics.partial and (block is None or block[0] != 1 or block[1] == FULL):
        return  # the largest of a wide block may lie where nothing was read
    if 0 < m.statistics.largest < limit / 2:
        fix = "the quantiser's exponent is off, or the scales are for another format"
        yield "suspicion", expected("payload", f"magnitudes up to {m.statistics.largest:g}", f"up to {limit:g}"), fix


@fact
def swizzled(m: Measured) -> Found:
    """Scales whose rows and columns make sense only once a swizzle is undone."""
    structure = m.statistics.structure
    if not structure:
        return
    name = max(structure, key=structure.__getitem__)
    gain = structure[name] - structure[LINEAR]
    if name != LINEAR and gain > _STRUCTURE_GAIN and structure[name] > 2 * structure[LINEAR]:
        got = f"{structure[LINEAR]:.0%} of the variance explained by rows and columns"
        message = expected("scales", got, f"{structure[name]:.0%}, as when {name} is undone")
        yield "contradiction", message, f"the bytes are in {name} order: unpack them, or declare the layout"


@fact
def input_scale(m: Measured) -> Found:
    """A static activation scale that is not positive and finite."""
    value = m.statistics.input_scale
    if value is not None and not (np.isfinite(value) and value > 0):
        yield "contradiction", expected("input scale", value, "a positive finite value"), ""


@fact
def global_scale(m: Measured) -> Found:
    """A global scale that is not positive and finite, or block scales that do not fill its range."""
    value, row = m.statistics.global_scale, m.weight.convention
    if value is None:
        return
    if not (np.isfinite(value) and value > 0):
        yield "contradiction", expected("global scale", value, "a positive finite value"), ""
    elif row.scale_format == "float8_e4m3fn" and 0 < m.statistics.scale.largest < 128 and not m.statistics.partial:
        got = f"a largest block scale of {m.statistics.scale.largest:g}"
        yield "suspicion", expected("global scale", got, "448, as amax / (6 * 448) gives"), "precision is lost"
