"""Arithmetics: the order and width in which an implementation adds up one output, as data a backend can declare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dgref.errors import InputError, expected, whole_number, whole_numbers
from dgref.formats.element import FORMATS
from dgref.reference.tensor_core import TENSOR_CORES, TensorCore
from dgref.registry import Registry

Promotion = Literal["add", "fma", "multiply_add"]
Scales = Literal["none", "product", "each", "core", "epilogue"]
Reduction = Literal["ascending", "descending", "tree"]
Start = Literal["core", "after"]


@dataclass(frozen=True)
class Lanes:
    """How the lanes of a warp share a sum over elements and put it together.

    Of every `stride` elements, element e belongs to lane (e // `run`) % `lanes`; a lane has stride / lanes of them and
    keeps one running sum for each. `step` fma: each sum takes its element by one fused multiply-add; add: by a rounded
    product and an addition; pairs: the lane's elements of a stride are added first, and their sum is added to a single
    running sum. `start` second: the compiler fused the first product onto the rounded second one. A lane's sums meet
    by butterfly adds at the distances `sums`, the lanes at the distances `shuffles`; a scale multiplies before or after
    the lanes meet.
    Every result is rounded to `precision`. `relu_drops_nan`: fmaxf(NaN, 0) is 0, where x + |x| keeps NaN.
    """

    lanes: int
    stride: int
    run: int
    step: Literal["fma", "add", "pairs"] = "fma"
    start: Literal["zero", "second"] = "zero"
    sums: tuple[int, ...] = ()
    shuffles: tuple[int, ...] = ()
    scale: Literal["before", "after"] = "after"
    precision: Literal["float32", "bfloat16"] = "float32"
    relu_drops_nan: bool = False

    def __post_init__(self) -> None:
        _check_choices(self, "lanes")
        for field in ("lanes", "stride", "run"):
            object.__setattr__(self, field, whole_number(f"lanes {field}", getattr(self, field), 1))
        if self.stride % (self.lanes * self.run):
            raise InputError(
                expected("lanes stride", self.stride, f"a multiple of lanes * run, {self.lanes * self.run}")
            )
        held = 1 if self.step == "pairs" else self.stride // self.lanes
        for field, count in (("sums", held), ("shuffles", self.lanes)):
            if not _meets(getattr(self, field), count):
                need = f"distances of a butterfly that brings {count} sums together"
                raise InputError(expected(f"lanes {field}", getattr(self, field), need))


@dataclass(frozen=True)
class Arithmetic:
    """How one output element of a contraction is added up, rounding by rounding.

    K is cut into splits (`splits` equal ranges of whole `split_unit`s, or explicit `boundaries`). Within a split the
    instruction `core` chains over K; every `interval` of K (0: never) the chain is promoted into an fp32 total and
    starts again from zero. Splits are summed in fp32 in the order that `reduction` names.

    `scales` says where block scales enter: `product` multiplies a chain by fp32(sa * sb), `each` by sa and then by
    sb, `core` adds their exponents inside the instruction, `epilogue` multiplies the finished sum. `promotion` says
    how a chain enters the total: `add` (after a rounded multiplication), or `fma` of scale, chain and total.
    `c` says whether C seeds the first chain (`core`) or is added in fp32 at the end (`after`).
    `output_rounding` is how the finished sum becomes the output format.
    `round_a` and `round_b` name a format that the operand is rounded to beforehand, to nearest even. `fold_b` names
    one whose normal numbers hold b's codes times a part of their scales: where the scales of an interval let them, the
    first is left for the chain; elsewhere each scale has a chain of its own (dgref.reference.folding).
    """

    name: str
    core: str
    interval: int = 0
    promotion: Promotion = "add"
    scales: Scales = "none"
    splits: int = 1
    split_unit: int = 1
    boundaries: tuple[int, ...] = ()
    reduction: Reduction = "ascending"
    c: Start = "after"
    round_a: str | None = None
    round_b: str | None = None
    fold_b: str | None = None
    partial: str = "float32"  # the format that a split's total is kept in until the splits are added
    output_rounding: Literal["nearest_even", "toward_zero"] = "nearest_even"
    lanes: Lanes | None = None
    status: Literal["hardware", "published", "assumed", "inferred", "declared", "undeclared"] = "declared"
    source: str = ""

    def __post_init__(self) -> None:
        subject = f"arithmetic {self.name}:"
        TENSOR_CORES[self.core]
        for format in (self.partial, self.round_a, self.round_b, self.fold_b):
            FORMATS[format or self.partial]
        _check_choices(self, subject)
        for field, low in (("interval", 0), ("splits", 1), ("split_unit", 1)):
            object.__setattr__(self, field, whole_number(f"{subject} {field}", getattr(self, field), low))
        if not isinstance(self.boundaries, tuple):
            raise InputError(expected(f"{subject} boundaries", repr(self.boundaries), "a tuple of K positions"))
        object.__setattr__(self, "boundaries", whole_numbers(f"{subject} boundaries", self.boundaries))
        if any(low >= high for low, high in pairwise((0, *self.boundaries))):
            raise InputError(expected(f"{subject} boundaries", self.boundaries, "ascending K positions"))
        if not isinstance(self.lanes, Lanes | None):
            raise InputError(expected(f"{subject} lanes", repr(self.lanes), "Lanes, or None"))

    @property
    def tensor_core(self) -> TensorCore:
        """The row that `core` names."""
        return TENSOR_CORES[self.core]

    def ranges(self, k: int) -> list[tuple[int, int]]:
        """Return the K range of each split; the first ranges are one unit longer where units do not divide evenly."""
        inner = [b for b in self.boundaries if b < k] if self.boundaries else self._equal_boundaries(k)
        edges = [0, *inner, k]
        return list(pairwise(edges))

    def _equal_boundaries(self, k: int) -> list[int]:
        units = -(-k // self.split_unit)
        each, longer = divmod(units, self.splits)
        starts = [split * each + min(split, longer) for split in range(1, self.splits)]
        return sorted({start * self.split_unit for start in starts if 0 < start * self.split_unit < k})

    def chains(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the K ranges that one chain of instructions covers within a split."""
        interval = self.interval or max(stop - start, 1)
        return [(low, min(low + interval, stop)) for low in range(start, stop, interval)]

    def but(self, **changes: Any) -> Arithmetic:
        """Return the same arithmetic with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: only the fields that differ from their defaults, JSON-ready."""
        plain = asdict(self)
        return _plain({f.name: plain[f.name] for f in fields(self) if plain[f.name] != f.default})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Arithmetic:
        """Build an arithmetic from plain data; unknown fields are an error that names them."""
        values = _fields(cls, data, "arithmetic")
        if values.get("lanes"):
            values["lanes"] = Lanes(**_fields(Lanes, values["lanes"], "arithmetic lanes"))
        return cls(**values)


def _fields(cls: type, data: Any, subject: str) -> dict[str, Any]:
    """Return plain data with tuples for lists, all of it fields of a class, none that it needs missing."""
    if not isinstance(data, Mapping):
        raise InputError(expected(subject, repr(data), "a mapping of fields"))
    names = [field.name for field in fields(cls)]
    unknown = sorted(set(data) - set(names))
    if unknown:
        raise InputError(expected(subject, f"fields {unknown}", f"of {names}"))
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.name not in data]
    if missing:
        raise InputError(expected(subject, f"no {' and no '.join(missing)}", "every field that has no default"))
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


@cache
def _choices(cls: type) -> dict[str, tuple[str, ...]]:
    """Return what each field of a class may be whose type lists its values."""
    hints = get_type_hints(cls).items()
    return {name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}


def _check_choices(row: Any, subject: str) -> None:
    for name, choices in _choices(type(row)).items():
        if getattr(row, name) not in choices:
            raise InputError(expected(f"{subject} {name}", repr(getattr(row, name)), " or ".join(choices)))


def _meets(distances: Any, count: int) -> bool:
    """Return whether exchanges at these distances give every one of `count` lanes the sum of all, each taken once."""
    if not isinstance(distances, tuple):
        return False
    return sorted(distances) == [1 << bit for bit in range(len(distances))] and 1 << len(distances) == count


def _plain(value: Any) -> Any:
    """Return the same data with lists for tuples, as JSON gives it back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def resolve(arithmetic: str | Arithmetic) -> Arithmetic:
    """Return the arithmetic itself, or the registered one of that name."""
    if not isinstance(arithmetic, str | Arithmetic):
        raise InputError(expected("arithmetic", repr(arithmetic), "the name of one, or an Arithmetic"))
    return ARITHMETICS[arithmetic] if isinstance(arithmetic, str) else arithmetic


def sm90_fp8(
    boundaries: tuple[int, ...] = (),
    core: str = "sm90.wgmma.float8_e4m3fn",
    interval: int = 128,
    fold_b: str | None = None,
) -> Arithmetic:
    """Return what dgref's own Hopper FP8 kernels declare, for given split boundaries along K.

    Each 128 of K is four wgmma from zero and one fma(sa * sb, chain, total); splits are added in ascending order,
    then C, then the output is rounded.
    """
    scaled = {"promotion": "fma", "scales": "product", "fold_b": fold_b}
    return Arithmetic("dgref.sm90.fp8_1d2d", core, interval, boundaries=boundaries, **scaled)


def sm90_bf16(boundaries: tuple[int, ...] = (), core: str = "sm90.wgmma.bfloat16") -> Arithmetic:
    """Return what dgref's own Hopper BF16 kernels declare: one chain a split, splits added in ascending order."""
    return Arithmetic("dgref.sm90.bf16", core, boundaries=boundaries)


_FP8, _FP4 = "float8_e4m3fn", "float4_e2m1fn"
_BLOCKS = {"interval": 128, "promotion": "fma", "scales": "product"}
_REPLAYED = {"status": "hardware", "source": "recorded outputs of an H200, every bit equal"}
_READ = {"status": "published", "source": "DeepGEMM 2.6.1 source with the published tcgen05 model"}
_HC = {"round_b": "tfloat32", "split_unit": 64}
_HOPPER_SQUARES = Lanes(4, stride=8, run=1, step="pairs", shuffles=(2, 1))
_BLACKWELL_SQUARES = Lanes(4, stride=8, run=2, sums=(1,), shuffles=(2, 1))
_HOPPER_HEADS = Lanes(
    4, stride=8, run=2, start="second", sums=(1,), shuffles=(1, 2), scale="before", relu_drops_nan=True
)
_BLACKWELL_HEADS = Lanes(1, stride=4, run=4, sums=(2, 1))
_BLACKWELL_HEADS_BF16 = replace(_BLACKWELL_HEADS, precision="bfloat16")

ARITHMETICS: Registry[Arithmetic] = Registry(
    "arithmetic",
    [
        Arithmetic("deep_gemm.sm90.fp8_1d2d", f"sm90.wgmma.{_FP8}", **_BLOCKS, **_REPLAYED),
        Arithmetic("deep_gemm.sm90.fp8_1d1d", f"sm90.wgmma.{_FP8}", **_BLOCKS, **_REPLAYED),
        Arithmetic("deep_gemm.sm90.bf16", "sm90.wgmma.bfloat16", **_REPLAYED),
        Arithmetic("deep_gemm.sm90.hc_prenorm", "sm90.wgmma.tfloat32", lanes=_HOPPER_SQUARES, **_HC, **_REPLAYED),
        Arithmetic("deep_gemm.sm90.mqa_logits", f"sm90.wgmma.{_FP8}", lanes=_HOPPER_HEADS, **_REPLAYED),
        Arithmetic("deep_gemm.sm100.fp8_1d1d", f"sm100.tcgen05.mxf8f6f4.{_FP8}", scales="core", **_READ),
        Arithmetic("deep_gemm.sm100.fp8_fp4", f"sm100.tcgen05.mxf8f6f4.{_FP8}", scales="core", **_READ),
        Arithmetic("deep_gemm.sm100.bf16", "sm100.tcgen05.bfloat16", **_READ),
        Arithmetic("deep_gemm.sm100.hc_prenorm", "sm100.tcgen05.tfloat32", lanes=_BLACKWELL_SQUARES, **_HC, **_READ),
        Arithmetic("deep_gemm.sm100.mqa_logits", f"sm100.tcgen05.{_FP8}", lanes=_BLACKWELL_HEADS, **_READ),
        Arithmetic(
            "deep_gemm.sm100.mqa_logits_fp4",
            f"sm100.tcgen05.mxf4.{_FP4}",
            scales="core",
            lanes=_BLACKWELL_HEADS,
            **_READ,
        ),
        Arithmetic("deep_gemm.sm100.mqa_logits_bf16", f"sm100.tcgen05.{_FP8}", lanes=_BLACKWELL_HEADS_BF16, **_READ),
        Arithmetic("cublaslt.fp8_fast", f"sm90.wgmma.{_FP8}", scales="epilogue", **_REPLAYED),
        Arithmetic(
            "cublaslt.fp8_fast_split2", f"sm90.wgmma.{_FP8}", scales="epilogue", splits=2, split_unit=128, **_REPLAYED
        ),
        Arithmetic("cublaslt.fp8_promote128", f"sm90.wgmma.{_FP8}", 128, scales="epilogue", **_REPLAYED),
        Arithmetic("cublaslt.sm100.mxfp8", f"sm100.tcgen05.mxf8f6f4.{_FP8}", scales="core", status="assumed"),
        Arithmetic("cublaslt.sm100.nvfp4", f"sm100.tcgen05.mxf4nvf4.{_FP4}", scales="core", status="assumed"),
        sm90_fp8(),
        sm90_fp8().but(name="dgref.sm90.fp8_1d1d"),
        sm90_fp8(interval=32).but(name="dgref.sm90.fp8_fp4"),
        sm90_fp8(fold_b=_FP8).but(name="dgref.sm90.fp8_mxfp4"),
        sm90_bf16(),
    ],
)

# what adds a block of K, and scales it afterwards by the product of both operands' scales
OUTSIDE = ARITHMETICS["dgref.sm90.fp8_fp4"]
# what multiplies and adds elements that were given their scales before: the widest core that takes all of 16 bits
DEQUANTISED = Arithmetic("dequantised", "sm100.tcgen05.bfloat16", scales="core", status="undeclared")

# what adds where the instruction itself takes block scales of a format
SCALED_INSIDE = {"float8_e8m0fnu": "deep_gemm.sm100.fp8_fp4", "float8_e4m3fn": "cublaslt.sm100.nvfp4"}
