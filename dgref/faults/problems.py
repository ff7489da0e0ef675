"""Cases that faults are injected into: every family of operation, format and layout, at awkward small shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from dgref.compare.hypotheses import State
from dgref.ops import OPS
from dgref.ops.typical import operands_of, typical_arithmetic
from dgref.registry import Registry
from dgref.suite import Case, InputChoice, OperandChoice

KINDS = ("normal", "model_like", "normal", "coordinate_exponents")
FINGERPRINT = "coordinate_exponents"


@dataclass(frozen=True)
class Problem:
    """One family of cases: choices that a seed picks from."""

    name: str
    op: str
    shapes: tuple[dict[str, int], ...]
    operands: dict[str, OperandChoice] = field(default_factory=dict)
    params: tuple[dict[str, Any], ...] = ({},)
    outs: tuple[str | None, ...] = ("bfloat16", "float32")
    kinds: tuple[str, ...] = KINDS

    def case(self, rng: np.random.Generator, kind: str | None = None) -> Case:
        """Return the case that the next random words pick; `kind` overrides the kind of inputs."""
        choices = list(product(self.shapes, self.params, self.outs, self.kinds))
        shape, params, out, drawn = choices[int(rng.integers(len(choices)))]
        seed = int(rng.integers(1 << 20))
        chosen = kind if kind and self.kinds == KINDS else drawn
        return Case(
            id=f"{self.name}-{seed}",
            why="a fault is injected into its result",
            op=self.op,
            shape=dict(shape),
            operands=self.operands,
            params=dict(params),
            out=out,
            inputs=InputChoice(chosen, seed),
        )


def state_of(case: Case) -> State:
    """Return a case with its inputs and the arithmetic that most likely runs it."""
    arithmetic: Any = "exact"
    if OPS[case.op].takes_arithmetic:
        arithmetic = typical_arithmetic(case.op, operands_of(case))
    return State(case, case.make_inputs(), arithmetic)


def _pair(a: str, b: str | None = None, layout: str | None = None, layout_b: str | None = None) -> dict:
    return {"a": OperandChoice(a, layout), "b": OperandChoice(b or a, layout_b or (None if b else layout))}


def _shapes(*rows: tuple[int, ...], axes: str = "m n k") -> tuple[dict[str, int], ...]:
    return tuple(dict(zip(axes.split(), row, strict=True)) for row in rows)


_DENSE = _shapes((96, 160, 600), (130, 192, 512), (64, 144, 1024), (128, 128, 640))
_MX = _shapes((96, 160, 608), (130, 192, 512), (64, 144, 800), (160, 136, 384))
_GROUPED = _shapes((3, 256, 96, 384), (4, 320, 64, 512), axes="g m n k")
_MASKED = _shapes((3, 70, 96, 384), (4, 90, 64, 512), axes="g m n k")
_KEYS = _shapes((24, 64, 64, 160), (40, 32, 128, 96), axes="s h d t")
_PAGES = _shapes((3, 2, 32, 64, 32, 120), (4, 1, 64, 64, 64, 150), axes="batch next_n h d page max_context_len")
_UNALIGNED = ({"alignment": 32}, {"alignment": 40, "groups": "empty"}, {"alignment": 8})
_LABELS = ({"alignment": 128}, {"alignment": 32}, {"alignment": 40, "groups": "empty"}, {"alignment": 32, "psum": True})
_MOE = _shapes((1, 12, 128, 64, 4, 2), (2, 8, 256, 64, 4, 2), axes="ranks tokens hidden intermediate experts topk")

_ROWS = [
    Problem("fp8", "gemm", _DENSE, _pair("deepseek_fp8", "deepseek_fp8_weight", "mn_major_tma")),
    Problem("fp8-1d1d", "gemm", _DENSE, _pair("deepseek_fp8", layout="mn_major_tma")),
    Problem("fp8-ue8m0", "gemm", _DENSE, _pair("deepseek_fp8_ue8m0", layout="packed_ue8m0")),
    Problem("mxfp8", "gemm", _MX, _pair("mxfp8", layout="swizzle_128x4")),
    Problem("mxfp4", "gemm", _MX, _pair("mxfp4", layout="swizzle_128x4")),
    Problem("nvfp4", "gemm", _MX, _pair("nvfp4", layout="swizzle_128x4")),
    Problem("nvfp4-reciprocal", "gemm", _MX, _pair("nvfp4/flashinfer", layout="swizzle_128x4")),
    Problem("rowwise", "gemm", _DENSE, _pair("per_row_fp8", "per_channel_fp8")),
    Problem("tensorwise", "gemm", _DENSE, _pair("per_tensor_fp8")),
    Problem("bf16", "gemm", _DENSE, _pair("bfloat16"), ({}, {"accumulate": True})),
    Problem("contiguous", "gemm_grouped_contiguous", _GROUPED, _pair("deepseek_fp8", "deepseek_fp8_weight"), _LABELS),
    Problem("unaligned", "gemm_grouped_contiguous", _GROUPED, _pair("deepseek_fp8", "deepseek_fp8_weight"), _UNALIGNED),
    Problem("masked", "gemm_grouped_masked", _MASKED, _pair("deepseek_fp8", layout="mn_major_tma")),
    Problem("masked-mxfp8", "gemm_grouped_masked", _MASKED, _pair("mxfp8", layout="swizzle_128x4")),
    Problem("masked-nvfp4", "gemm_grouped_masked", _MASKED, _pair("nvfp4", layout="swizzle_128x4")),
    Problem(
        "k-grouped",
        "gemm_grouped_k",
        _shapes((3, 96, 80, 768), (4, 64, 96, 1024), axes="g m n k"),
        _pair("deepseek_fp8"),
        ({"groups": "skewed"}, {"groups": "balanced"}, {"psum": True}),
        ("float32",),
    ),
    Problem("logits", "mqa_logits", _KEYS, {}, ({}, {"clean": False}), ("float32",)),
    Problem(
        "logits-fp4",
        "mqa_logits",
        _KEYS,
        {"q": OperandChoice("mxfp4"), "kv": OperandChoice("mxfp4")},
        outs=("float32",),
    ),
    Problem("paged", "paged_mqa_logits", _PAGES, outs=("float32",)),
    Problem("prenorm", "hc_prenorm", _shapes((48, 24, 640), (64, 32, 1024)), outs=("float32",), kinds=("normal",)),
    Problem(
        "moe",
        "mega_moe",
        _MOE,
        params=({"activation_clamp": 1.0}, {"activation_clamp": 0.5, "routes": "masked"}),
        outs=("bfloat16",),
        kinds=("normal",),
    ),
    Problem("cast", "cast", _shapes((64, 96), axes="m n"), {"x": OperandChoice("float32")},
            outs=("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"), kinds=("boundary", "wide")),
    Problem("quantize", "quantize", _shapes((64, 256), axes="m n"), {"x": OperandChoice("float32")},
            ({"recipe": "mxfp8"}, {"recipe": "mxfp4"}, {"recipe": "nvfp4"}, {"recipe": "deepseek_fp8"}), (None,),
            ("normal", "wide")),
]  # fmt: skip
PROBLEMS: Registry[Problem] = Registry("problem", _ROWS)
