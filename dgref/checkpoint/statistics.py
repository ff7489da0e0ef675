"""What is measured of a weight: counts of every byte, facts about its scales, and samples of its values."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dgref.checkpoint.counting import byte_counts
from dgref.checkpoint.decode import Sample, float_values, grid_part, samples, scalar, table, whole_grid
from dgref.checkpoint.header import BITS
from dgref.checkpoint.layouts import LINEAR
from dgref.checkpoint.reading import Amount, Reader
from dgref.checkpoint.weights import Weight, stored_as

PEAK_BLOCKS = (8, 16, 32, 64, 128)
PROFILE = 1024  # columns of the channel profile


@dataclass
class ScaleSummary:
    """Counts over all scales of a weight, as float32 values."""

    count: int = 0
    nan: int = 0
    infinite: int = 0
    zero: int = 0
    negative: int = 0
    powers_of_two: int = 0
    whole: int = 0  # integers from 1 to 254, as bytes cast to floats are
    smallest: float = np.inf  # of the positive finite ones
    largest: float = 0.0
    median: float = float("nan")
    bytes: np.ndarray | None = None  # counts[4, 256] of 8-bit scales

    def add(self, values: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Count values, each as often as `weights` says."""
        times = np.ones(values.shape, np.int64) if weights is None else weights
        good = np.isfinite(values) & (values > 0) & (times > 0)
        self.count += int(times.sum())
        self.nan += int(times[np.isnan(values)].sum())
        self.infinite += int(times[np.isinf(values)].sum())
        self.zero += int(times[values == 0].sum())
        self.negative += int(times[values < 0].sum())
        self.powers_of_two += int(times[good][np.frexp(values[good])[0] == 0.5].sum())
        byte = good & (values >= 1) & (values <= 254)
        self.whole += int(times[byte][values[byte] == np.floor(values[byte])].sum())
        if good.any():
            self.smallest = min(self.smallest, float(values[good].min()))
            self.largest = max(self.largest, float(values[good].max()))


@dataclass
class Statistics:
    """Everything that the facts about one weight are made from."""

    payload: np.ndarray  # counts[256] of bytes
    partial: bool = False  # only a part of payload or scales was counted: no largest value is certain
    scale: ScaleSummary = field(default_factory=ScaleSummary)
    largest: float = 0.0  # magnitude of the payload
    global_scale: float | None = None
    input_scale: float | None = None
    peaks: dict[int, float] = field(default_factory=dict)  # share of blocks of n columns that reach half the largest
    blocks_seen: int = 0
    mean_square: float = float("nan")  # of sampled values, global scale included
    signature: np.ndarray | None = None  # even minus odd channels, normalised: a nibble swap negates it
    structure: dict[str, float] = field(default_factory=dict)  # share of variance that rows and columns explain

    def release(self) -> None:
        """Drop the counts, which only the facts about one weight need: a checkpoint has many weights."""
        self.payload, self.scale.bytes = np.empty(0, np.int64), None


def measure(weight: Weight, reader: Reader, amount: Amount) -> Statistics:
    """Read as much of one weight as an amount says."""
    result = Statistics(byte_counts(reader.chunks(weight.payload, amount.payload)).sum(axis=0))
    result.partial = any(
        part is not None and limit is not None and part.size > limit
        for part, limit in ((weight.payload, amount.payload), (weight.scale, amount.scales))
    )
    result.largest = _largest(result.payload, weight)
    result.global_scale = scalar(weight.global_scale, reader)
    result.input_scale = scalar(weight.input_scale, reader)
    if not stored_as(weight):  # scales of another dtype mean nothing yet: a fact says so
        return result
    result.scale = _scale_summary(weight, reader, amount.scales)
    taken = list(samples(weight, reader, amount))
    if taken:
        _add_samples(result, weight, taken)
        result.structure = _structure(weight, reader, amount)
    return result


def _largest(counts: np.ndarray, weight: Weight) -> float:
    """Return the largest finite magnitude among the bytes that occur."""
    codes = np.flatnonzero(counts).astype(np.uint8)
    if weight.convention.packing == 2:
        codes = np.concatenate([codes & 15, codes >> 4])
    values = np.abs(table(weight.convention.format)[codes])
    return float(values[np.isfinite(values)].max(initial=0.0))


def multiplier(weight: Weight, statistics: Statistics) -> float:
    """Return what a payload times its block scale is still multiplied by."""
    value = statistics.global_scale
    if value is None or not np.isfinite(value) or value == 0:
        return 1.0
    return value if weight.convention.global_rule == "multiply" else 1.0 / value


def _scale_summary(weight: Weight, reader: Reader, limit: int | None) -> ScaleSummary:
    """Count scales, in chunks; 8-bit scales by their bytes."""
    summary, entry = ScaleSummary(), weight.scale
    if weight.layout != LINEAR:
        if weight.block is not None:
            values = whole_grid(weight, reader).reshape(-1)
            summary.add(values)
            summary.median = float(np.median(values)) if values.size else float("nan")
        return summary
    if BITS[entry.dtype] == 8:
        summary.bytes = byte_counts(reader.chunks(entry, limit))
        values = float_values(np.arange(256, dtype=np.uint8), entry.dtype, weight.convention.scale_format)
        times = summary.bytes.sum(axis=0)
        summary.add(values, times)
        summary.median = _weighted_median(values, times)
        return summary
    medians = []
    for chunk in reader.chunks(entry, limit):
        values = float_values(chunk, entry.dtype)
        summary.add(values)
        medians.append(float(np.median(values)) if values.size else float("nan"))
    summary.median = float(np.median(medians)) if medians else float("nan")
    return summary


def _weighted_median(values: np.ndarray, times: np.ndarray) -> float:
    order = np.argsort(values)
    reached = np.cumsum(times[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)]) if reached[-1] else float("nan")


def _add_samples(result: Statistics, weight: Weight, taken: list[Sample]) -> None:
    """Fill in peaks, magnitude and profile."""
    payload = np.abs(np.concatenate([sample.payload for sample in taken]))
    result.peaks = peaks(payload)
    result.blocks_seen = payload.size // 16
    with np.errstate(invalid="ignore", over="ignore"):
        factor = np.float32(multiplier(weight, result))
        values = np.concatenate([np.abs(sample.payload * sample.scale) for sample in taken]) * factor
        result.mean_square = float(np.mean(np.square(values), dtype=np.float64))
        result.signature = channel_signature(values)


def peaks(payload: np.ndarray) -> dict[int, float]:
    """Return, for each block width, the share of nonzero blocks that reach half the largest magnitude of all."""
    width, result = payload.shape[1] // PEAK_BLOCKS[0] * PEAK_BLOCKS[0], {}
    threshold = np.nanmax(payload, initial=0) / 2
    # Eight flags are one 64-bit word; wider blocks are then unions of neighbours.
    reached = np.ascontiguousarray(payload[:, :width] >= threshold).view(np.uint64)
    filled = np.ascontiguousarray(payload[:, :width] > 0).view(np.uint64)
    for size in PEAK_BLOCKS:
        if reached.shape[1] == 0:
            break
        blocks = int(np.count_nonzero(filled))
        result[size] = np.count_nonzero(reached) / blocks if blocks else float("nan")
        even = reached.shape[1] // 2 * 2
        reached = reached[:, 0:even:2] | reached[:, 1:even:2]
        filled = filled[:, 0:even:2] | filled[:, 1:even:2]
    return result


def channel_signature(values: np.ndarray) -> np.ndarray:
    """Return the normalised difference of neighbouring columns' mean magnitudes, in half precision to save memory."""
    profile = np.nan_to_num(values[:, :PROFILE].mean(axis=0, dtype=np.float64))
    even, odd = profile[0 : profile.size // 2 * 2 : 2], profile[1::2]
    difference = (even - odd) / np.maximum(even + odd, np.finfo(np.float64).tiny)
    norm = float(np.linalg.norm(difference))
    return (difference / norm if norm > 0 else difference).astype(np.float16)


def _structure(weight: Weight, reader: Reader, amount: Amount) -> dict[str, float]:
    """Return how well rows and columns explain the scales, read as they are and with tiles undone."""
    from dgref.formats.layouts import LAYOUTS

    height, width = weight.convention.scale_shape(weight.shape, weight.block)[-2:]
    rows = min(height, amount.structure_rows, amount.structure_scales // max(width, 1)) // 128 * 128
    if weight.layout != LINEAR or rows < 128 or width % 4 or width < 8:
        return {}
    grid = grid_part(weight, reader, 0, rows, width)
    if not (np.isfinite(grid).all() and (grid > 0).all()):
        return {}
    grid = np.log2(grid)
    result = {LINEAR: explained(grid)}
    for name in ("swizzle_128x4", "swizzle_8x4"):
        result[name] = explained(LAYOUTS[name].unpack(grid.reshape(-1), grid.shape))
    return result


def explained(grid: np.ndarray) -> float:
    """Return the share of a grid's variance that its row and column means explain, beyond chance."""
    rows, columns = grid.shape
    total = grid.var()
    if total == 0:
        return 0.0
    share = (grid.mean(axis=1).var() + grid.mean(axis=0).var()) / total
    return float(share - (rows + columns - 2) / (rows * columns - 1))
