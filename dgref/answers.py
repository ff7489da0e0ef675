"""What a case's outputs are judged by: whole where that is affordable, otherwise a sample, and the GPU for the rest.

A large case is judged on rows and columns that lie at the edges of every tile size in use, exactly and by the
model; where a GPU is here and its verifier knows the arithmetic, every element is checked against the model as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dgref.errors import counted
from dgref.formats import FORMATS, ScaledTensor
from dgref.ops import Op, Part
from dgref.reference.arithmetic import resolve
from dgref.reference.folding import folded, kinds
from dgref.suite import Case

LARGE = 1 << 32  # multiply-adds that take the CPU some five seconds
SAMPLE = 128  # rows and columns of a sample

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Answers:
    """The right outputs of a case."""

    op: Op
    case: Case
    inputs: Mapping[str, Any]

    def part(self, outputs: Arrays) -> Arrays:
        """Return what of the outputs is judged."""
        return outputs

    def exact(self) -> Arrays:
        """Return the exact outputs."""
        return self.op.compute(self.case, self.inputs, "exact")

    def model(self, arithmetic: Any) -> Arrays:
        """Return the outputs under an arithmetic."""
        return self.op.compute(self.case, self.inputs, arithmetic)

    def bound(self, arithmetic: Any) -> Arrays:
        """Return how far from exact an implementation may be."""
        return self.op.bound(self.case, self.inputs, arithmetic)

    def defined(self) -> Mapping[str, np.ndarray | None]:
        """Return which elements the op defines."""
        return self.op.defined(self.case, self.inputs)

    def coverage(self) -> dict[str, Any]:
        """Return what a report says about how much was judged."""
        return {}


@dataclass(frozen=True)
class Sampled(Answers):
    """The right outputs of some rows and columns of a large case."""

    chosen: Part

    @cached_property
    def _smaller(self) -> Answers:
        """Everything that is right about the case of these rows and columns alone."""
        return Answers(self.op, *self.op.cut(self.case, self.inputs, self.chosen))

    def part(self, outputs: Arrays) -> Arrays:
        return {name: self.op.pick(self.case, name, array, self.chosen) for name, array in outputs.items()}

    def exact(self) -> Arrays:
        return self._smaller.exact()

    def model(self, arithmetic: Any) -> Arrays:
        return self._smaller.model(arithmetic)

    def bound(self, arithmetic: Any) -> Arrays:
        return self._smaller.bound(arithmetic)

    def defined(self) -> Mapping[str, np.ndarray | None]:
        whole = self.op.defined(self.case, self.inputs)
        return self.part({name: mask for name, mask in whole.items() if mask is not None})

    def coverage(self) -> dict[str, Any]:
        columns = f" by {counted(len(self.chosen.columns), 'column')}" if self.op.sampler.axes[1] else ""
        return {"judged": f"{counted(len(self.chosen.rows), 'row')}{columns}"}


def answers_for(op: Op, case: Case, inputs: Mapping[str, Any]) -> Answers:
    """Return a case's answers, of a sample where the whole would take too long."""
    if op.sampler is None or op.flops(case, inputs) // 2 <= LARGE:
        return Answers(op, case, inputs)
    rows, columns = op.rows_and_columns(case)
    return Sampled(op, case, inputs, Part(sample(rows), sample(columns)))


def sample(extent: int) -> np.ndarray:
    """Return up to SAMPLE indices of an axis: both ends, the edges of usual tiles, and others evenly spread."""
    edges = [0, 1, extent - 1, extent - 2]
    for tile in (64, 112, 128):
        last = extent // tile * tile
        edges += [tile - 1, tile, last - 1, last]
    spread = np.linspace(0, extent - 1, min(extent, SAMPLE - len(edges)) if extent > len(edges) else extent)
    chosen = np.unique(np.concatenate([edges, spread.astype(np.int64)]).astype(np.int64))
    return chosen[(chosen >= 0) & (chosen < extent)]


def check_whole(attempt: Any) -> int | None:
    """Return how many elements of a large product differ from the declared arithmetic, as the GPU computes it.

    None where no GPU is here, or its verifier does not know the arithmetic.
    """
    import torch

    if not torch.cuda.is_available() or attempt.claim in (None, "exact") or attempt.case.op != "gemm":
        return None
    from dgref.backends.cuda import placement, verifier

    if attempt.case.out == "float16" or attempt.outputs["d"].shape[-1] != attempt.case.shape["n"]:
        return None  # not known, or heads that are spread out: not a plain product
    a, b, claim = attempt.inputs["a"], attempt.inputs["b"], resolve(attempt.claim)
    if kinds(a, b, claim) is not None:
        return None  # several products
    a, b, claim = folded(a, b, claim)
    if verifier.unsupported(claim, a.shape[-1]):
        return None
    c = attempt.inputs.get("c")
    scales = {f"scale_{name}": _chain_scales(tensor, claim) for name, tensor in (("a", a), ("b", b))}
    start = None if c is None else placement.on_device(placement.native(c))
    left, right = placement.payload(_as_fp8(a)), placement.payload(_as_fp8(b))
    made = verifier.verify_gemm(left, right, claim, c=start, out=attempt.case.out, **scales)
    found = placement.on_device(attempt.outputs["d"])
    width = torch.int16 if found.element_size() == 2 else torch.int32
    return int((made.view(width) != found.view(width)).sum())


def _as_fp8(tensor: ScaledTensor) -> ScaledTensor:
    """Return FP4 codes widened to E4M3, which is exact."""
    if tensor.format != "float4_e2m1fn":
        return tensor
    wide = FORMATS["float8_e4m3fn"]
    return replace(tensor, data=wide.encode(tensor.values()), format=wide.name)


def _chain_scales(tensor: ScaledTensor, arithmetic: Any) -> Any:
    """Return one FP32 scale for each row block and chain of K, on the GPU."""
    from dgref.backends.cuda import placement

    if tensor.scale is None:
        return None
    chains = tensor.scaling.extents(tensor.shape)[1] // (arithmetic.interval or 1)
    grid = np.repeat(np.asarray(tensor.scale_values(), np.float32), max(chains, 1), axis=-1)
    return placement.on_device(grid[..., : -(-tensor.shape[-1] // arithmetic.interval)])
