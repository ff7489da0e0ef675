"""What a configuration computes, bit for bit: enough for a reference to follow it."""

from __future__ import annotations

from typing import Any

from dgref.backends.cuda.sm90.shape import Configuration


def split_boundaries(k: int, splits: int, block_k: int) -> tuple[int, ...]:
    """Return where the splits of K begin, and K itself: split s takes elements [result[s], result[s + 1])."""
    blocks = -(-k // block_k)
    return tuple(min(split * blocks // splits * block_k, k) for split in range(splits + 1))


def arithmetic_of(configuration: Configuration) -> dict[str, Any]:
    """Return the order and the roundings of a launch.

    FP8: each `promotion` of K is one chain of wgmma from zero; total = fma(round(scale_a * scale_b), chain, total).
    Packed weights whose scales are powers of two, per 32: dgref.reference.folding.
    BF16: one chain of wgmma over all of a split. The splits' totals are added in FP32 in ascending order, then C is
    added in FP32, then the sum is rounded once.
    """
    shape = configuration.shape
    fp8 = shape.element == "E4M3"
    return {
        "instruction": "sm90.wgmma.float8_e4m3fn" if fp8 else "sm90.wgmma.bfloat16",
        "instruction_k": 32 if fp8 else 16,
        "promotion": (32 if shape.scaling == "VECTOR_32" else 128) if fp8 else None,
        "folded": "scales of b per 32 into E4M3" if "POWERS_32" in (shape.scaling, shape.folded) else None,
        "promote": "fma(round(scale_a * scale_b), chain, total)" if fp8 else None,
        "splits": configuration.splits,
        "split_boundaries": split_boundaries(shape.k, configuration.splits, shape.block_k),
        "split_order": "ascending",
        "accumulate": "float32 add of c after the splits" if shape.accumulate else None,
        "output": {"BF16": "bfloat16", "F32": "float32"}[shape.output],
        "rounding": "nearest_even",
    }
