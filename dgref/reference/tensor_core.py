"""Tensor-core models: one row of data for each (architecture, instruction, input format), and one way to compute them.

Products are exact. Every term (products and C) is truncated toward zero to `fraction_bits` bits below the largest
exponent among them, the truncated terms are summed exactly, and the sum is rounded once. docs/tensor-cores.md works
one example by hand. Sources of the rows: recorded outputs of real GPUs published by north-numerical-computing/
MATLAB-tensor-core ("hardware"), the models of arXiv 2511.10909 and of that repository ("published").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dgref.errors import FormatError, ShapeError, choice, expected, instance
from dgref.formats.element import FORMATS
from dgref.reference.checks import check_broadcast, held
from dgref.registry import Registry

OUTPUT_MANTISSA = {"float32": 23, "e8m13": 13}
NARROW = 23  # fraction bits: accumulators of fewer exist inside tensor cores only
CANONICAL_NAN = np.uint32(0x7FFFFFFF).view(np.float32)
_FLOAT32_EMIN, _FLOAT32_LIMIT = -126, 2.0**128
_NOTHING = -(1 << 20)  # the exponent of a term that is zero: below every real one


@dataclass(frozen=True)
class TensorCore:
    """How one instruction computes d = sum(a * b) + c.

    `step` elements are aligned and added at once; an instruction of more elements runs steps in sequence, each
    taking the previous result as C. A sum of `group` products is exact before it becomes one term of the alignment.
    `c` says whether C is one of the aligned terms or is added afterwards in fp32, rounded to nearest even.
    The alignment exponent never goes below `floor`.
    """

    name: str
    k: int
    step: int
    fraction_bits: int
    output: Literal["float32", "e8m13"]
    status: Literal["hardware", "published", "assumed"]
    source: str
    c: Literal["aligned", "added"] = "aligned"
    floor: int = -126
    group: int = 1
    scale_formats: tuple[str, ...] = ()
    scale_block: int = 0
    mixes: tuple[str, ...] = ()
    half_output: bool = False  # whether D may be float16: the sum is then rounded to it, to nearest even

    @property
    def architecture(self) -> str:
        """The architecture's name, such as sm90."""
        return self.name.split(".")[0]

    @property
    def instruction(self) -> str:
        """The instruction family, such as wgmma or tcgen05.mxf8f6f4."""
        return self.name.partition(".")[2].rpartition(".")[0]

    @property
    def format(self) -> str:
        """The input format that the row is for."""
        return self.name.rpartition(".")[2]

    @property
    def scale_format(self) -> str | None:
        """The usual format of block scales, or None where the instruction has none."""
        return self.scale_formats[0] if self.scale_formats else None

    def operand_format(self, format: str | None) -> str:
        """Return the format that the multiplier sees: the operand's own, or this row's where it widens exactly."""
        if format is None or choice("operand", format, FORMATS) == self.format or format in self.mixes:
            return format or self.format
        if _widens(format, self.format) or (format, self.format) == ("float32", "tfloat32"):
            return self.format  # TF32 hardware reads float32 words and ignores their low 13 bits
        raise FormatError(expected("operand", format, f"one of {', '.join((self.format, *self.mixes))}", self.name))

    def dot(
        self,
        a: Any,
        b: Any,
        c: Any = 0.0,
        scale_a: Any = None,
        scale_b: Any = None,
        out: Literal["float32", "float16"] = "float32",
        formats: tuple[str | None, str | None] = (None, None),
        scale_format: str | None = None,
    ) -> np.ndarray:
        """Return a . b + c of one instruction: the last axis is K, leading axes broadcast.

        A K shorter than the instruction's is filled with zeros. Without `formats`, both operands have the row's. Scales
        hold one value for every `scale_block` of K, in the first of `scale_formats` unless `scale_format` names one.
        NaN comes out as 0x7FFFFFFF, an overflow as Inf, an exact zero as +0.
        """
        if choice("out", out, ("float32", "float16")) == "float16" and not self.half_output:
            raise FormatError(expected("out", out, "float32: no model of other results is known", self.name))
        pair = instance("formats", formats, tuple | list, "two formats or None")
        names = [self.operand_format(name) for name in pair]
        names += [self.scale_format if scale_format is None else choice("scale_format", scale_format, FORMATS)]
        a, b = held(a, names[0], "a"), held(b, names[1], "b")
        check_broadcast(a.shape, b.shape, "b")
        scale_a, scale_b = self._scales(a, scale_a, names[2], "scale_a"), self._scales(b, scale_b, names[2], "scale_b")
        a, b, scale_a, scale_b = np.broadcast_arrays(a, b, scale_a, scale_b)
        if a.shape[-1] > self.k:
            raise ShapeError(expected("K", a.shape[-1], f"at most {self.k}, the K of one instruction", self.name))
        c = held(c, "float32", "c")
        check_broadcast(a.shape[:-1], c.shape, "c")
        total = np.broadcast_to(c, np.broadcast_shapes(a.shape[:-1], c.shape))
        for start in range(0, a.shape[-1], self.step):
            part = np.s_[..., start : start + self.step]
            total = self._step((a[part], b[part]), (scale_a[part], scale_b[part]), total, names, out)
        return np.array(total, np.dtype(out))

    def _scales(self, operand: np.ndarray, scales: Any, format: str | None, subject: str) -> np.ndarray:
        """Spread the scales over K, or 1 where the instruction has none."""
        if not self.scale_block:
            if scales is not None:
                raise FormatError(expected(subject, "scales", "none: the instruction takes no block scales", self.name))
            return np.ones(1, np.float32)
        scales = np.ones(1, np.float32) if scales is None else np.atleast_1d(held(scales, format, subject))
        blocks = -(-operand.shape[-1] // self.scale_block)
        if scales.shape[-1] not in (1, blocks):
            raise ShapeError(expected(subject, scales.shape[-1], f"{blocks} (one for each {self.scale_block} of K)"))
        spread = scales if scales.shape[-1] == 1 else np.repeat(scales, self.scale_block, -1)
        return spread[..., : operand.shape[-1]]

    def _step(self, operands: Any, scales: Any, c: np.ndarray, names: list, out: str) -> np.ndarray:
        with np.errstate(all="ignore"):
            values = [(x * s).astype(np.float64) for x, s in zip(_wide(operands), _wide(scales), strict=True)]
            ieee = (values[0] * values[1]).sum(-1) + c
        aligned = self.c == "aligned"
        significand, exponent, fraction = self._terms(operands, scales, names)
        c_significand, c_exponent = split(np.where(np.isfinite(c) & aligned, c, 0.0), "float32")
        top = np.maximum(exponent.max(-1, initial=_NOTHING), np.maximum(c_exponent, self.floor))
        total = shift(significand, self.fraction_bits - fraction - (top[..., None] - exponent)).sum(-1)
        total = total + shift(c_significand, self.fraction_bits - 23 - (top - c_exponent))
        result = self._rounded(np.ldexp(total.astype(np.float64), top - self.fraction_bits), out)
        if not aligned:
            result = (result + c).astype(out)
        special = np.where(np.isnan(ieee), CANONICAL_NAN, np.copysign(np.float32(np.inf), ieee))
        return np.where(np.isfinite(ieee), result, special).astype(out)

    def _terms(self, operands: Any, scales: Any, names: list) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the integer significands of the terms, their exponents, and how many of their bits are fraction."""
        *formats, scale_format = names
        parts = [split(_finite(x), name) for x, name in zip(operands, formats, strict=True)]
        fraction = sum(FORMATS[name].mantissa_bits for name in formats)
        significand, exponent = parts[0][0] * parts[1][0], parts[0][1] + parts[1][1]
        if self.group > 1:
            significand, exponent = _grouped(significand, exponent, fraction, self.group)
        if self.scale_block:
            for scale in scales:
                scale_significand, scale_exponent = split(_finite(scale[..., :: self.group]), scale_format)
                significand, exponent = significand * scale_significand, exponent + scale_exponent
                fraction += FORMATS[scale_format].mantissa_bits
        return significand, np.where(significand == 0, _NOTHING, exponent), fraction

    def _rounded(self, exact: np.ndarray, out: str) -> np.ndarray:
        if out == "float16":
            with np.errstate(over="ignore"):
                return exact.astype(np.float16)
        return toward_zero(exact, OUTPUT_MANTISSA[self.output])


def split(values: np.ndarray, format: str) -> tuple[np.ndarray, np.ndarray]:
    """Return integer significands and exponents: value = significand * 2^(exponent - mantissa bits).

    A subnormal keeps the format's smallest exponent; bits that the format lacks are dropped, as TF32 hardware does.
    """
    row = FORMATS[format]
    values = np.asarray(values, np.float64)
    exponent = np.maximum(np.frexp(values)[1].astype(np.int64) - 1, row.emin)
    significand = np.trunc(np.ldexp(values, row.mantissa_bits - exponent)).astype(np.int64)
    return significand, np.where(significand == 0, _NOTHING, exponent)


def shift(significand: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Shift left, or right with truncation toward zero where `places` is negative."""
    magnitude = np.abs(significand)
    left = magnitude << np.clip(places, 0, 62)
    right = magnitude >> np.clip(-places, 0, 62)
    return np.sign(significand) * np.where(places >= 0, left, right)


def toward_zero(exact: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """Truncate exact float64 values to float32's exponent range and a number of mantissa bits; overflow gives Inf."""
    exponent = np.maximum(np.frexp(exact)[1] - 1, _FLOAT32_EMIN)
    kept = np.ldexp(np.trunc(np.ldexp(exact, mantissa_bits - exponent)), exponent - mantissa_bits)
    return np.where(np.abs(kept) >= _FLOAT32_LIMIT, np.copysign(np.inf, kept), kept).astype(np.float32)


def _grouped(significand: np.ndarray, exponent: np.ndarray, fraction: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum groups of products exactly, as integers over 2^fraction with exponent 0."""
    exact = shift(significand, np.maximum(exponent, 0))
    padding = [(0, 0)] * (exact.ndim - 1) + [(0, -exact.shape[-1] % group)]
    exact = np.pad(exact, padding)
    total = exact.reshape(*exact.shape[:-1], -1, group).sum(-1)
    return total, np.zeros_like(total)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, 0.0)


def _wide(arrays: Any) -> list[np.ndarray]:
    return [np.asarray(x, np.float64) for x in arrays]


def _widens(narrow: str, wide: str) -> bool:
    """Whether every finite value of one format is a normal or exact value of another."""
    source, target = FORMATS[narrow], FORMATS[wide]
    fits = source.max <= target.max and source.min_subnormal >= target.min_subnormal
    return fits and source.mantissa_bits <= target.mantissa_bits


_VECTORS = "recorded outputs, north-numerical-computing/MATLAB-tensor-core"
_PAPER = "arXiv 2511.10909 (MMA-Sim)"
_FP8 = ("float8_e4m3fn", "float8_e5m2")
_NARROW = (*_FP8, "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn")
_E8M0, _UE4M3 = "float8_e8m0fnu", "float8_ue4m3"


def _rows(architectures: str, instruction: str, formats: str, k: int, step: int, bits: int, **fields: Any) -> list:
    """One row for each architecture and format; formats of one call may be mixed as operands."""
    names = tuple(formats.split())
    fields = {"output": "float32", "status": "hardware", "source": _VECTORS, **fields}
    mixes = names if names[0] in _NARROW else ()
    half = "float16" in names or architectures == "sm89"
    return [
        TensorCore(
            f"{architecture}.{instruction}.{name}",
            k,
            step,
            bits,
            mixes=mixes,
            half_output=half and name not in ("bfloat16", "tfloat32"),
            **fields,
        )
        for architecture in architectures.split()
        for name in names
    ]


_HALF, _FP8_NAMES, _NARROW_NAMES, _FP4 = "float16 bfloat16", " ".join(_FP8), " ".join(_NARROW), "float4_e2m1fn"
_PUBLISHED = {"status": "published", "source": _PAPER}
_LIKE_SM100, _LIKE_SM120 = ({"status": "assumed", "source": f"as {name}"} for name in ("sm100", "sm120"))
_REPLAYED = {"floor": -133, "source": "DeepGEMM on an H200, replayed"}


def _fifth_generation(architecture: str, instruction: str, origin: dict[str, Any]) -> list[TensorCore]:
    """Blackwell's arithmetic, behind tcgen05 on datacenter parts and behind mma.sync on the others."""
    wide = {**origin, "floor": -133}
    mx = {**origin, "scale_formats": (_E8M0,), "scale_block": 32}
    nv = {**origin, "scale_formats": (_UE4M3, _E8M0), "scale_block": 16, "group": 16}
    return [
        *_rows(architecture, instruction, _HALF, 16, 16, 25, **wide),
        *_rows(architecture, instruction, "tfloat32", 8, 8, 25, **wide),
        *_rows(architecture, instruction, _NARROW_NAMES, 32, 32, 25, **origin),
        *_rows(architecture, f"{instruction}.mxf8f6f4", _NARROW_NAMES, 32, 32, 25, **mx),
        *_rows(architecture, f"{instruction}.mxf4", _FP4, 64, 64, 35, **{**mx, "group": 16}),
        *_rows(architecture, f"{instruction}.mxf4nvf4", _FP4, 64, 64, 35, **nv),
    ]


TENSOR_CORES: Registry[TensorCore] = Registry(
    "tensor core",
    [
        *_rows("sm70", "mma", "float16", 4, 4, 23),
        *_rows("sm75", "mma", "float16", 8, 8, 24, floor=-132, **_PUBLISHED),
        *_rows("sm80 sm86 sm89", "mma", _HALF, 16, 8, 24, floor=-132),
        *_rows("sm80 sm86 sm89", "mma", "tfloat32", 8, 4, 24, floor=-132),
        *_rows("sm89", "mma", _FP8_NAMES, 32, 16, 13, output="e8m13"),
        *_rows("sm90 sm100", "mma", _HALF, 16, 16, 25, floor=-133),
        *_rows("sm90 sm100", "mma", "tfloat32", 8, 8, 25, floor=-133),
        *_rows("sm90", "mma", _FP8_NAMES, 32, 32, 25, c="added", **_LIKE_SM100),
        *_rows("sm90", "wgmma", "float16", 16, 16, 25, floor=-133, **_PUBLISHED),
        *_rows("sm90", "wgmma", "bfloat16", 16, 16, 25, **_REPLAYED),
        *_rows("sm90", "wgmma", "tfloat32", 8, 8, 25, **_REPLAYED),
        *_rows("sm90", "wgmma", _FP8_NAMES, 32, 32, 13, output="e8m13"),
        *_rows("sm100", "mma", _FP8_NAMES, 32, 32, 25, c="added"),
        *_fifth_generation("sm100", "tcgen05", _PUBLISHED),
        *_rows("sm103", "mma", _HALF, 16, 16, 25, **_LIKE_SM100, floor=-133),
        *_rows("sm103", "mma", "tfloat32", 8, 8, 25, **_LIKE_SM100, floor=-133),
        *_rows("sm103", "mma", _FP8_NAMES, 32, 32, 25, **_LIKE_SM100, c="added"),
        *_fifth_generation("sm103", "tcgen05", _LIKE_SM100),
        *_fifth_generation("sm120", "mma", _PUBLISHED),
        *_fifth_generation("sm121", "mma", _LIKE_SM120),
    ],
)
