"""Both operands of a product as the kernel reads them, and the launches that must come before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dgref.backends.cuda.launch import Plan
from dgref.backends.cuda.sm90 import operands as read
from dgref.backends.cuda.sm90.launch import Operands
from dgref.backends.cuda.sm90.operands import Matrix
from dgref.backends.cuda.sm90.rearrange import k_major
from dgref.backends.cuda.sm90.shape import GRANULES, WORDS, scale_span
from dgref.errors import FormatError, InputError, ShapeError, expected

SCALINGS = {(128, 128): "BLOCK", (1, 128): "VECTOR", (1, 32): "VECTOR_32"}


@dataclass(frozen=True)
class Pair:
    """A and B, how the kernel finds their scales, and what rewrites them first."""

    a: Matrix
    b: Matrix
    scaling: str
    scales: dict[str, Any]
    before: tuple[Plan, ...]

    @property
    def pointed(self) -> bool:
        """Say whether scales of rows lie where no map reads them and nothing moves them."""
        return self.scaling == "VECTOR" and any(read.is_pointed(self.scales[name]) for name in ("scale_a", "scale_b"))

    def given(self, **others: Any) -> Operands:
        """Return everything that a launch is given."""
        return Operands(a=self.a, b=self.b, **self.scales, **others)


def meant(
    reading: Callable[..., tuple] | None, a: Any, a_scale: Any, b: Any, b_scale: Any, b_block: Any = None, packed=False
) -> tuple:
    """Return operands, b's block and whether b is packed: as the caller's reading says, where there is one."""
    return (a, a_scale, b, b_scale, b_block, packed) if reading is None else reading(a, a_scale, b, b_scale)


def check_formats(a: Any, b: Any, d: Any, scaled: bool, packed: bool = False) -> None:
    """Raise where there is nothing to multiply, for what would be refused if there were."""
    element = "E4M3" if scaled else "BF16"
    read.check_payload("a", a, element)
    read.check_payload("b", b, "E2M1" if packed else element)
    read.output_format("d", d)


def pair_of(
    a: Any,
    b: Any,
    a_scale: Any = None,
    b_scale: Any = None,
    b_block: tuple[int, int] = (128, 128),
    packed: bool = False,
    lines: int | None = None,
) -> Pair:
    """Read a[..., m, k] and b[..., n, k]: FP8 (b packed FP4) where there are scales, else BF16.

    `lines` is how many scales of 128 elements of K there are in all, where groups of K make it more than K says.
    """
    if (a_scale is None) != (b_scale is None):
        raise InputError(expected("scales", "one of two", "both (FP8) or none (BF16)"))
    if b_block not in SCALINGS:
        raise FormatError(expected("b_block", b_block, " or ".join(map(str, SCALINGS))))
    scaled = a_scale is not None
    if packed and not scaled:
        raise InputError(expected("scales", "none", "those of a and of b, where b is packed"))
    left, before_a = k_major("a", read.matrix("a", a, "E4M3" if scaled else "BF16"))
    right, before_b = k_major("b", read.matrix("b", b, "E2M1" if packed else left.element))
    for name, side in (("a", left), ("b", right)):
        if side.major == "MN" and side.groups > 1 and side.k % 64:
            raise ShapeError(expected(name, f"K = {side.k}", "a multiple of 64 where several MN-major groups follow"))
    if not scaled:
        return Pair(left, right, "NONE", {}, ())
    scaling = SCALINGS[b_block]
    if packed and str(b_scale.dtype) == "torch.int32":
        scaling = WORDS.get(scaling, scaling)
    scales = scales_of(left, right, a_scale, b_scale, scaling, lines)
    return Pair(left, right, scaling, scales, (*before_a, *before_b))


def scales_of(
    a: Matrix, b: Matrix, a_scale: Any, b_scale: Any, scaling: str, lines: int | None = None
) -> dict[str, Any]:
    """Return how the kernel reads the scales of both operands."""
    left = read.vector_scales("a_scale", a_scale, a, lines or -(-a.k // 128) * a.groups)
    found = {"scale_a": left, "scale_b": _weight_scales(b_scale, b, scaling, lines)}
    if scaling in WORDS.values():
        found["foldable"] = (read.strided("a_scale", a_scale), read.strided("b_scale", b_scale))
    return found


def _weight_scales(b_scale: Any, b: Matrix, scaling: str, lines: int | None) -> Any:
    if scaling == "BLOCK":
        if b.element == "E2M1":
            raise FormatError(expected("b_block", (128, 128), "(1, 32) or (1, 128) where b is packed"))
        return read.block_scales("b_scale", b_scale, b)
    if scaling in WORDS.values():
        return read.word_scales("b_scale", b_scale, b, scale_span(scaling))
    granule = GRANULES[scaling]
    if granule == 32 and b.groups > 1 and b.k % 128:
        raise ShapeError(expected("b", f"K = {b.k}", "a multiple of 128 where groups have scales per 32"))
    return read.vector_scales("b_scale", b_scale, b, lines or -(-b.k // granule) * b.groups)
