"""When a weight can change its convention without changing one value, and how; otherwise why not."""

from __future__ import annotations

from collections.abc import Iterator
from math import frexp, prod

import numpy as np

from dgref.checkpoint.conventions import Block, Convention
from dgref.checkpoint.decode import float_values, scalar, table, unpacked, whole_grid
from dgref.checkpoint.header import BITS, Entry
from dgref.checkpoint.layouts import LINEAR
from dgref.checkpoint.reading import CHUNK, Reader
from dgref.checkpoint.weights import Weight
from dgref.checkpoint.writer import Planned
from dgref.errors import InputError, expected
from dgref.formats.layouts.elements import ue8m0_codes
from dgref.formats.scaling import FULL

FLOATS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def refused(subject: str, got: object, need: object) -> InputError:
    """Return the error of a conversion that would change values."""
    return InputError(expected(subject, got, need, "not lossless"))


def spelled(block: Block) -> str:
    """Return which part of a weight one scale is for."""
    rows, columns = block
    if block == (FULL, FULL):
        return "one scale for the whole weight"
    return f"a scale a {'row' if rows == 1 else f'{rows} rows'}" if columns == FULL else f"a scale a {rows}x{columns}"


def replanned(weight: Weight, to: Convention, reader: Reader) -> Iterator[Planned]:
    """Yield the tensors that hold a weight under another convention; nothing is written yet."""
    here = weight.convention
    if weight.misfit:
        raise refused(weight.name, weight.misfit, "a weight that inspects without contradiction")
    if weight.layout != LINEAR:
        raise refused(weight.name, f"scales in {weight.layout}", f"linear scales: convert with layout={LINEAR!r} first")
    if here.format != to.format:
        raise refused(weight.name, here.format, f"{to.format}: anything else is requantisation")
    if weight.block not in to.blocks:
        need = f"{to.name}: {' or '.join(map(spelled, to.blocks))}"
        raise refused(weight.name, spelled(weight.block), need)
    yield _payload(weight, to, reader)
    yield _scale(weight, to, reader)
    yield from _scalar(weight, weight.global_scale, here.global_scale, to.global_scale, to, reader)
    yield from _scalar(weight, weight.input_scale, here.input_scale, to.input_scale, to, reader)


def _payload(weight: Weight, to: Convention, reader: Reader) -> Planned:
    """Copy the bytes: every convention packs low nibble first, rows in order."""
    shape, entry = weight.shape, weight.payload
    stored = (*shape[:-1], shape[-1] // to.packing)
    if to.grouped:
        stored = (*stored[:-1], shape[-1] // weight.block[1], weight.block[1] // to.packing)
    return Planned(weight.name + to.payload[0], to.payload_dtypes[0], stored, lambda: reader.chunks(entry))


def _scale(weight: Weight, to: Convention, reader: Reader) -> Planned:
    """Copy or re-encode the scales."""
    here, entry, dtype = weight.convention, weight.scale, to.scale_dtypes[0]
    shape = stored_scale_shape(to, weight.shape, weight.block)
    name = weight.name + to.scale[0]
    if here.scale_format == to.scale_format and BITS[entry.dtype] == BITS[dtype]:
        return Planned(name, dtype, shape, lambda: reader.chunks(entry))
    codec = _recoding(here, to, name)
    for chunk in reader.chunks(entry):  # refuse before anything is written
        codec(float_values(chunk, entry.dtype, here.scale_format))
    return Planned(
        name,
        dtype,
        shape,
        lambda: (codec(float_values(chunk, entry.dtype, here.scale_format)) for chunk in reader.chunks(entry)),
    )


def stored_scale_shape(to: Convention, shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """Return the shape in which a convention stores scales: a scale for the whole tensor has its own spelling."""
    if block == (FULL, FULL):
        return () if to.name == "modelopt_fp8" else (1,)
    return to.scale_shape(shape, block)


def _recoding(here: Convention, to: Convention, name: str):
    """Return the function from float32 values to the stored scales, which refuses what it cannot hold."""

    def to_float32(values: np.ndarray) -> np.ndarray:
        if not np.isfinite(values).all():
            raise refused(name, "a NaN or infinite scale", "finite scales")
        return values.astype(np.float32)

    def to_e8m0(values: np.ndarray) -> np.ndarray:
        mantissa, exponent = np.frexp(values)
        good = (values > 0) & (mantissa == 0.5) & (exponent > -127) & (exponent <= 128)
        if not good.all():
            raise refused(name, f"a scale of {float(values[~good][0])!r}", "powers of two, which UE8M0 holds")
        return ue8m0_codes(np.ascontiguousarray(values))

    known = {("float8_e8m0fnu", "float32"): to_float32, ("float32", "float8_e8m0fnu"): to_e8m0}
    known[("float32", "float32")] = to_float32
    if (here.scale_format, to.scale_format) not in known:
        raise refused(name, f"{here.scale_format} scales", f"{to.scale_format} scales of {to.name}")
    return known[here.scale_format, to.scale_format]


def _scalar(
    weight: Weight, entry: Entry | None, here: str, there: str, to: Convention, reader: Reader
) -> Iterator[Planned]:
    """Carry a global or input scale over; a reciprocal is exact only for powers of two."""
    value = scalar(entry, reader)
    if entry is not None and value is None:
        raise refused(entry.name, f"{entry.dtype} {list(entry.shape)}", "one floating point value")
    if not there:
        if value is not None and (value != 1.0 or here == weight.convention.input_scale):
            raise refused(weight.name + here, value, f"1.0: {to.name} has no place for it")
        return
    if value is None:
        if there == to.global_scale:
            raise refused(weight.name + there, "no global scale to carry over", "one")
        return
    if _inverted(weight.convention) != _inverted(to):
        if abs(frexp(value)[0]) != 0.5:
            fix = f"a power of two, because {to.name} stores the reciprocal and 1/{value!r} is not exact"
            raise refused(entry.name, value, fix)
        value = 1.0 / value
    shape = (1,) if to.name.startswith("compressed_tensors") else ()
    yield Planned(weight.name + there, "F32", shape, lambda: [np.array([value], np.float32)])


def _inverted(row: Convention) -> bool:
    """Whether a convention stores global scales as reciprocals, input scales among them."""
    return row.global_rule == "divide"


def dequantized(weight: Weight, to: str, reader: Reader) -> Planned:
    """Plan a weight as plain floats; while it is written, every value is checked to be exact."""
    if weight.misfit or not weight.two_dimensional:
        got = weight.misfit or f"a payload of shape {list(weight.shape)}"
        raise refused(weight.name, got, "a weight that inspects without contradiction")
    return Planned(weight.name + ".weight", FLOATS[to], weight.shape, lambda: _values(weight, to, reader))


def _values(weight: Weight, to: str, reader: Reader) -> Iterator[np.ndarray]:
    """Yield exact values, some rows at a time."""
    rows, columns = weight.shape[-2], weight.shape[-1]
    height, length = weight.block
    width = columns // weight.convention.packing
    grid = whole_grid(weight, reader).astype(np.float64)
    step = max(1, CHUNK // (8 * columns))
    for matrix in range(prod(weight.shape[:-2])):
        for first in range(0, rows, step):
            count = min(step, rows - first)
            raw = reader.read(weight.payload, (matrix * rows + first) * width, count * width).reshape(count, width)
            codes = unpacked(raw) if weight.convention.packing == 2 else raw
            lines = (first + np.arange(count)) // height if height != FULL else np.zeros(count, np.int64)
            scale = grid[matrix, lines]
            scale = scale if length == FULL else np.repeat(scale, length, axis=1)[:, :columns]
            # A payload of 4 bits of significand times scales of 24 and 24 is exact in float64's 53.
            yield _exactly(table(weight.convention.format)[codes] * scale * _factor(weight, reader), to, weight.name)


def _factor(weight: Weight, reader: Reader) -> float:
    """Return the global scale as an exact factor."""
    row = weight.convention
    if not row.global_scale:
        return 1.0
    value = scalar(weight.global_scale, reader)
    if value is None or (row.global_rule == "divide" and abs(frexp(value)[0]) != 0.5):
        need = "a power of two: dividing by anything else is not exact"
        raise refused(weight.name + row.global_scale, value, need)
    return value if row.global_rule == "multiply" else 1.0 / value


def _exactly(values: np.ndarray, to: str, name: str) -> np.ndarray:
    """Round to the target and refuse where that changed a value."""
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if to == "bfloat16" else np.dtype(to)
    with np.errstate(over="ignore"):
        result = values.astype(np.float32).astype(dtype)
    same = result.astype(np.float64) == values
    wrong = ~(same | np.isnan(values))
    if wrong.any():
        raise refused(name, f"the value {float(values[wrong][0])!r}", f"one that {to} holds: try a wider format")
    return result
