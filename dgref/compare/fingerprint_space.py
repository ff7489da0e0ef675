"""The space of arithmetics that a search walks through: likeliest first, no two that compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from dgref.errors import FormatError
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic, Lanes
from dgref.reference.tensor_core import TENSOR_CORES, TensorCore

_INTERVALS = (0, 128, 64, 32, 256, 512, 1024)
_COUNTS = (2, 4, 3, 8, 5, 6, 7, 16, *range(9, 16), 18, 20, 24, 28, 32, 48, 56, 64)
_UNITS = (128, 64, 32, 256)
_PREFERRED = ("wgmma", "tcgen05")
_STATUS = {"status": "inferred", "source": "search over recorded outputs"}


def cores(a: ScaledTensor, b: ScaledTensor, architecture: str | None) -> list[TensorCore]:
    """Return one row for each distinct way an instruction could multiply these formats."""
    distinct: dict[tuple, TensorCore] = {}
    rows = [row for row in TENSOR_CORES.values() if architecture in (None, row.architecture) and _accepts(row, a, b)]
    for row in sorted(rows, key=lambda row: _unlikeliness(row, a, b)):
        seen = (row.operand_format(a.format), row.operand_format(b.format))
        same = (row.step, row.fraction_bits, row.output, row.c, row.group, row.scale_block, *seen)
        distinct.setdefault(same, row)
    return list(distinct.values())


def _unlikeliness(row: TensorCore, a: ScaledTensor, b: ScaledTensor) -> tuple[bool, ...]:
    """Order rows: operands as they are before widened ones, narrow scales inside, the newest instructions."""
    widened = row.format not in (a.format, b.format)
    narrow_scales = any(t.scale is not None and t.scaling.scale_format != "float32" for t in (a, b))
    return widened, bool(row.scale_block) != narrow_scales, not row.instruction.startswith(_PREFERRED)


def _accepts(row: TensorCore, a: ScaledTensor, b: ScaledTensor) -> bool:
    try:
        seen = row.operand_format(a.format), row.operand_format(b.format)
    except FormatError:
        return False
    scaled = {t.scaling.scale_format for t in (a, b) if t.scale is not None}
    if row.format not in seen:
        return False
    readable = {*row.scale_formats, "float32"}  # fp32 scales may hold such values: contract looks at each
    if "float8_ue4m3" in readable:
        readable.add("float8_e4m3fn")
    return not row.scale_block or (bool(scaled) and scaled <= readable)


def plans(a: ScaledTensor, b: ScaledTensor, architecture: str | None) -> list[Arithmetic]:
    """Return every unsplit arithmetic: instruction, promotion, where scales enter, what is rounded beforehand."""
    roundings = product(_roundings(a), _roundings(b))
    modes = [dict(zip(("round_a", "round_b"), pair, strict=True)) for pair in roundings]
    return [
        Arithmetic("inferred", core.name, **scaling, **mode, **_STATUS)
        for core in cores(a, b, architecture)
        for mode in modes
        for scaling in _scalings(core, a, b)
    ]


def _roundings(tensor: ScaledTensor) -> tuple[str | None, ...]:
    """TF32 hardware cuts fp32 words off; a copy engine or a kernel may round them first."""
    return ("tfloat32", None) if tensor.format == "float32" else (None,)


def _scalings(core: TensorCore, a: ScaledTensor, b: ScaledTensor) -> list[dict]:
    """Return the ways in which the scales of these operands can enter, with the promotion intervals that allow it."""
    k = a.shape[-1]
    blocks = [t.scaling.extents(t.shape)[1] for t in (a, b) if t.scale is not None]
    intervals = [i for i in _INTERVALS if i < k and i % core.step == 0]
    if core.scale_block:
        return [{"interval": i, "scales": "core"} for i in intervals]
    narrowest = min(blocks, default=k)
    outside = "epilogue" if blocks else "none"
    found = [{"interval": i, "scales": outside} for i in intervals] if narrowest >= k else []
    if blocks:
        dividing = sorted({i for i in (*intervals, narrowest) if i and not any(x % i for x in blocks if x < k)})[::-1]
        ways = (("fma", "product"), ("multiply_add", "product"), ("fma", "each"), ("multiply_add", "each"))
        found += [{"interval": i, "promotion": p, "scales": s} for p, s in ways for i in dividing]
    return found


def splits(plan: Arithmetic, k: int) -> Iterator[Arithmetic]:
    """Yield the ways to split K of an unsplit arithmetic, each set of boundaries once, small counts first."""
    seen = {()}
    for count, unit in product(_COUNTS, _UNITS):
        if unit % plan.tensor_core.step or (plan.interval and unit % plan.interval and plan.interval % unit):
            continue
        split = plan.but(splits=count, split_unit=unit)
        boundaries = tuple(low for low, _ in split.ranges(k)[1:])
        if boundaries in seen or len(boundaries) != count - 1:
            continue
        seen.add(boundaries)
        orders = ("ascending",) if count == 2 else ("ascending", "tree", "descending")
        yield from (split.but(reduction=order) for order in orders)


def refinements(plan: Arithmetic, with_c: bool) -> Iterator[Arithmetic]:
    """Yield the same sum with other ends: how C enters, how the output is rounded."""
    starts = ("core",) if with_c else ()
    for start in (plan.c, *(s for s in starts if s != plan.c)):
        for rounding in ("nearest_even", "toward_zero"):
            yield plan.but(c=start, output_rounding=rounding)


def presets(a: ScaledTensor, b: ScaledTensor, architecture: str | None, lanes: bool = False) -> list[Arithmetic]:
    """Return the registered arithmetics whose instruction takes these operands and whose scales these have."""
    fitting = ("none", "epilogue") if a.scale is None and b.scale is None else ("product", "each", "core", "epilogue")
    rows = sorted(ARITHMETICS.values(), key=lambda row: bool(row.lanes))
    return [
        row if lanes else row.but(lanes=None)
        for row in rows
        if architecture in (None, row.tensor_core.architecture)
        and (row.lanes or not lanes)
        and row.scales in fitting
        and _accepts(row.tensor_core, a, b)
    ]


def lane_orders(scaled: bool) -> list[Lanes]:
    """Return ways to share a sum among lanes: the registered ones, then a grid over shapes, fusing and shuffles."""
    known = [row.lanes for row in ARITHMETICS.values() if row.lanes]
    shapes = [(4, 8, 2), (4, 4, 1), (4, 8, 1), (1, 4, 4), (1, 2, 2), (1, 1, 1), (2, 4, 2), (8, 16, 2), (32, 32, 1)]
    grid = []
    for (lanes, stride, run), step, start in product(shapes, ("fma", "add", "pairs"), ("zero", "second")):
        if step != "fma" and start == "second":
            continue
        held = stride // lanes
        for sums, shuffles in product(_butterflies(1 if step == "pairs" else held), _butterflies(lanes)):
            for scale in ("before", "after") if scaled and lanes > 1 else ("after",):
                grid.append(Lanes(lanes, stride, run, step, start, sums, shuffles, scale))
    exact = [replace(order, relu_drops_nan=False) for order in known]
    return list(dict.fromkeys([*known, *exact, *grid]))


def _butterflies(count: int) -> list[tuple[int, ...]]:
    """Return both directions of a butterfly over a power of two."""
    up = tuple(1 << bit for bit in range(count.bit_length() - 1))
    return [up] if len(up) < 2 else [up, up[::-1]]
