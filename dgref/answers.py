"""What a case's outputs are judged by: whole where that is affordable, otherwise a sample, and the GPU for the rest.

A large product is judged on rows and columns that lie at the edges of every tile size in use, exactly and by the
model; where a GPU is here and its verifier knows the arithmetic, every element is checked against the model as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgref.ops import Op
from dgref.suite import Case

LARGE = 1 << 33  # multiply-adds that take the CPU some ten seconds
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
    """The right outputs of some rows and columns of a large product."""

    rows: np.ndarray
    columns: np.ndarray

    def part(self, outputs: Arrays) -> Arrays:
        return {name: array[np.ix_(self.rows, self.columns)] for name, array in outputs.items() if array.ndim == 2}

    def exact(self) -> Arrays:
        return self._at("exact")

    def model(self, arithmetic: Any) -> Arrays:
        return self._at(arithmetic)

    def bound(self, arithmetic: Any) -> Arrays:
        from dgref.reference.dispatch import using

        with using("bound"):
            return self._at(arithmetic)

    def _at(self, arithmetic: Any) -> Arrays:
        selected = {"rows": self.rows, "columns": self.columns}
        return {"d": self.op.reference(**self.inputs, arithmetic=arithmetic, out=self.case.out, **selected)}

    def defined(self) -> Mapping[str, np.ndarray | None]:
        return {"d": None}

    def coverage(self) -> dict[str, Any]:
        return {"judged": f"{len(self.rows)} rows by {len(self.columns)} columns"}


def answers_for(op: Op, case: Case, inputs: Mapping[str, Any]) -> Answers:
    """Return a case's answers, of a sample where the whole would take too long."""
    if op.name != "gemm" or case.params.get("head_splits") or op.flops(case, inputs) // 2 <= LARGE:
        return Answers(op, case, inputs)
    return Sampled(op, case, inputs, sample(case.shape["m"]), sample(case.shape["n"]))


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

    if not torch.cuda.is_available() or attempt.claim in (None, "exact"):
        return None
    from dgref.backends.cuda import placement, verifier

    if verifier.unsupported(attempt.claim, attempt.case.shape["k"]) or attempt.case.out == "float16":
        return None
    a, b, c = (attempt.inputs.get(name) for name in "abc")
    scales = {f"scale_{name}": _scale(tensor) for name, tensor in (("a", a), ("b", b))}
    start = None if c is None else placement.on_device(placement.native(c))
    left, right = placement.payload(a), placement.payload(b)
    made = verifier.verify_gemm(left, right, attempt.claim, c=start, out=attempt.case.out, **scales)
    found = placement.on_device(attempt.outputs["d"])
    width = torch.int16 if found.element_size() == 2 else torch.int32
    return int((made.view(width) != found.view(width)).sum())


def _scale(tensor: Any) -> Any:
    from dgref.backends.cuda import placement

    return None if tensor.scale is None else placement.on_device(np.asarray(tensor.scale, np.float32))
