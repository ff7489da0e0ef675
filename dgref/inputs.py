"""Seeded input generators: the same kind, shape, recipe and seed give the same bits on every machine.

Random bits come from Philox raw words (their stream is fixed by its authors' paper), and every transformation of them
uses integer arithmetic and single IEEE operations, so no math library can change a bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dgref.errors import InputError, expected, whole_number, whole_numbers
from dgref.formats import FORMATS, RECIPES, Format, Recipe, ScaledTensor, quantize
from dgref.registry import Registry

FIRST_OPERANDS = ("a", "q", "x")  # kinds that need a dense side and a sparse side make these the dense one


class Stream:
    """Random words for one operand of one case."""

    def __init__(self, seed: int, name: str):
        self.first = name.split("/")[0] in FIRST_OPERANDS  # "a/3" is group 3 of operand a
        key = hashlib.sha256(f"{whole_number('seed', seed)}/{name}".encode()).digest()[:16]
        self._words = np.random.Philox(key=int.from_bytes(key, "little"))

    def words(self, count: int) -> np.ndarray:
        """Return `count` uniform 64-bit words."""
        return self._words.random_raw(count)

    def integers(self, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return integers in [low, high); the modulo bias is below 2^-31 for the small ranges used here."""
        draws = self.words(_count(shape)) >> np.uint64(33)
        return (draws % np.uint64(max(high - low, 1))).astype(np.int64).reshape(shape) + low

    def uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return float32 values in [-1, 1) on a grid of 2^-23."""
        steps = (self.words(_count(shape)) >> np.uint64(40)).astype(np.int32) - (1 << 23)
        return (steps.astype(np.float32) * np.float32(2.0**-23)).reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return float32 values that are normal to within 1%: the popcount of 64 bits, smoothed by a uniform."""
        bits = np.bitwise_count(self.words(_count(shape))).astype(np.float32).reshape(shape)
        return (bits - 32 + self.uniform(shape)) * np.float32(0.24744)  # 1 / sqrt(64/4 + 1/3)


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


@dataclass(frozen=True)
class Generator:
    """A way to fill an operand: `make(shape, recipe, stream)` returns values to quantise, or a finished tensor."""

    name: str
    why: str
    make: Callable[[tuple[int, ...], str, Stream], np.ndarray | ScaledTensor]


GENERATORS: Registry[Generator] = Registry("input kind")


def _generator(why: str) -> Callable:
    def register(make: Callable) -> Callable:
        GENERATORS.add(Generator(make.__name__, why, make))
        return make

    return register


def generate(kind: str, shape: tuple[int, ...], recipe: str, seed: int, name: str) -> ScaledTensor:
    """Return the operand `name` of a case: values of the given kind, quantised by the recipe."""
    row = RECIPES[recipe]
    made = GENERATORS[kind].make(_extents(shape), row.name, Stream(seed, name))
    return made if isinstance(made, ScaledTensor) else quantize(made, recipe, seed=_drawn(RECIPES[recipe], seed))


def _drawn(recipe: Recipe, seed: int) -> int | None:
    """Return the case's seed for a recipe that draws, None for the others."""
    return seed if recipe.scaling is not None and recipe.scaling.draws else None


def _extents(shape: tuple[int, ...]) -> tuple[int, ...]:
    extents = whole_numbers("shape", shape)
    if not extents:
        raise InputError(expected("shape", repr(shape), "at least one extent"))
    return extents


@_generator("what most tests use: weights and activations of unit variance")
def normal(shape: tuple[int, ...], recipe: str, stream: Stream) -> np.ndarray:
    return stream.normal(shape)


@_generator("magnitudes over 24 binades, so that alignment and truncation in the accumulator show")
def wide(shape: tuple[int, ...], recipe: str, stream: Stream) -> np.ndarray:
    return np.ldexp(stream.uniform(shape), stream.integers(-12, 12, shape).astype(np.int32))


@_generator("products that nearly cancel in pairs along K: what is left is all rounding")
def cancelling(shape: tuple[int, ...], recipe: str, stream: Stream) -> np.ndarray:
    values = stream.normal(shape)
    half = shape[-1] // 2
    sign = np.float32(1 if stream.first else -1)
    values[..., half : 2 * half] = sign * values[..., :half]
    return values + np.float32(2.0**-6) * stream.uniform(shape)


@_generator("a few channels a thousand times larger than the rest, as activations of real models have")
def outliers(shape: tuple[int, ...], recipe: str, stream: Stream) -> np.ndarray:
    gain = np.where(stream.integers(0, 64, shape[-1:]) == 0, np.float32(1024), np.float32(1))
    return stream.normal(shape) * gain


@_generator("sparse small integers that every format holds and every order of adding gives exactly")
def lossless(shape: tuple[int, ...], recipe: str, stream: Stream) -> np.ndarray:
    keep = stream.integers(0, 4, shape) == 0
    return np.where(keep, stream.integers(-2, 3, shape), 0).astype(np.float32)


@_generator("row, column and channel gains on top of noise: the shape of real projection weights")
def model_like(shape: tuple[int, ...], recipe: str, stream: Stream) -> np.ndarray:
    values = stream.normal(shape)
    for axis in range(max(len(shape) - 2, 0), len(shape)):
        gains = np.ldexp(
            np.float32(1) + stream.uniform(shape[axis : axis + 1]) / 2, stream.integers(-3, 3, shape[axis : axis + 1])
        )
        values *= np.expand_dims(gains.astype(np.float32), tuple(i for i in range(len(shape)) if i != axis))
    return values * np.float32(2.0**-5)


@_generator("values on and beside rounding ties, subnormals and range limits of the payload")
def boundary(shape: tuple[int, ...], recipe: str, stream: Stream) -> np.ndarray:
    row = FORMATS[RECIPES[recipe].format]
    positive = np.unique(np.abs(_finite_values(row)))
    ties = (positive[:-1].astype(np.float64) + positive[1:]) / 2
    edges = np.concatenate([positive, ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])
    edges = np.concatenate([edges, -edges]).astype(np.float32)
    return edges[stream.integers(0, len(edges), shape)]


def _finite_values(row: Format) -> np.ndarray:
    count = 1 << min(row.bits, 16)
    codes = (np.arange(count, dtype=np.uint32) << (row.storage_bits - min(row.bits, 16))).astype(row.code_dtype)
    values = row.decode(codes)
    return values[np.isfinite(values) & (np.abs(values) < np.float32(2.0**60))]


@_generator(
    "every scale differs from its neighbours; one side holds a single one per row: an address shows in the output"
)
def coordinate_exponents(shape: tuple[int, ...], recipe: str, stream: Stream) -> np.ndarray | ScaledTensor:
    row = RECIPES[recipe]
    values = _dense_signs(shape, stream) if stream.first else _one_hot(shape)
    if row.scaling is None:
        return values
    data = FORMATS[row.format].encode(values)
    global_scale = np.float32(1) if row.scaling.has_global else None
    scales = distinct_scales(row.scaling.scale_format, row.scaling.grid(shape))
    return ScaledTensor(data, row.format, scales, row.scaling, global_scale)


def _dense_signs(shape: tuple[int, ...], stream: Stream) -> np.ndarray:
    return np.where(stream.integers(0, 2, shape) == 0, np.float32(-1), np.float32(1))


def _one_hot(shape: tuple[int, ...]) -> np.ndarray:
    """Return rows with a single one each, whose position visits every part of K as the row number grows."""
    rows, columns = _count(shape[:-1]), shape[-1]
    values = np.zeros((rows, columns), np.float32)
    if columns:
        step = next(s for s in range(max(columns * 5 // 8, 1), 2 * columns + 2) if np.gcd(s, columns) == 1)
        values[np.arange(rows), np.arange(rows) * step % columns] = 1
    return values.reshape(shape)


def distinct_scales(format: str, grid: tuple[int, ...]) -> np.ndarray:
    """Return scales of which no two close by are equal: 61 exponents, or 96 codes, in an order without short cycles."""
    index = np.arange(_count(grid), dtype=np.int64).reshape(grid)
    scrambled = index * 37 + index // 61
    if format == "float8_e8m0fnu":
        return (scrambled % 61 + 97).astype(np.uint8)
    if format == "float32":
        mantissa = 1 + (index % 1021).astype(np.float64) / 1024
        return np.ldexp(mantissa, scrambled % 61 - 30).astype(np.float32)
    return (scrambled % 96 + 16).astype(FORMATS[format].code_dtype)


@_generator("NaN, infinities, zeros of both signs and the largest values, sparsely among ordinary ones")
def specials(shape: tuple[int, ...], recipe: str, stream: Stream) -> np.ndarray | ScaledTensor:
    row = RECIPES[recipe]
    tensor = quantize(stream.normal(shape), recipe)
    codes = _special_codes(FORMATS[row.format])
    chosen = codes[stream.integers(0, len(codes), shape)]
    rare = stream.integers(0, 97, shape) == 0
    return replace(tensor, data=np.where(rare, chosen, tensor.data))


def _special_codes(row: Format) -> np.ndarray:
    values = [0.0, -0.0, row.max, -row.max, float(row.min_subnormal), np.inf, -np.inf, np.nan]
    encoded = row.encode(np.array(values, np.float32), overflow="inf" if row.infinity else "saturate")
    return np.unique(encoded)
