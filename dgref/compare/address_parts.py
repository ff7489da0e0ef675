"""Which rows of a, matrix of b and elements of K each output of a product adds up: one row of PARTS an op."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dgref.errors import expected
from dgref.ops import OPS
from dgref.ops.grouped import row_labels
from dgref.reference.einsum import roles
from dgref.reference.grouped import k_spans
from dgref.reference.hyperconnection import split_spans


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of the output that are one product: of the same number of lines of a with one matrix of b, over a span of K.

    Rows and lines count through all leading axes.
    """

    rows: np.ndarray
    lines: np.ndarray
    group: int
    span: slice

    @property
    def length(self) -> int:
        """How many elements of K are added up."""
        return self.span.stop - self.span.start


def _dense(case: Any, inputs: Mapping[str, Any]) -> Iterator[Part]:
    rows, k = inputs["a"].shape
    yield Part(np.arange(rows), np.arange(rows), 0, slice(0, k))


def _contiguous(case: Any, inputs: Mapping[str, Any]) -> Iterator[Part]:
    labels, k = row_labels(OPS[case.op].problem(case), inputs), inputs["a"].shape[-1]
    for group in range(len(inputs["b"].data)):
        rows = np.flatnonzero(labels == group)
        yield Part(rows, rows, group, slice(0, k))


def _masked(case: Any, inputs: Mapping[str, Any]) -> Iterator[Part]:
    _, height, k = inputs["a"].shape
    for group, count in enumerate(np.asarray(inputs["masked_m"]).tolist()):
        rows = group * height + np.arange(count)
        yield Part(rows, rows, group, slice(0, k))


def _groups_of_k(case: Any, inputs: Mapping[str, Any]) -> Iterator[Part]:
    problem, (height, k) = OPS[case.op].problem(case), inputs["a"].shape
    for group, span in enumerate(k_spans(inputs["grouped_layout"], k, problem["psum"], problem["alignment"])):
        yield Part(group * height + np.arange(height), np.arange(height), 0, span)


def _splits_of_k(case: Any, inputs: Mapping[str, Any]) -> Iterator[Part]:
    height, k = inputs["a"].shape
    for split, span in enumerate(split_spans(k, OPS[case.op].problem(case)["num_splits"])):
        yield Part(split * height + np.arange(height), np.arange(height), 0, span)


def _batched(case: Any, inputs: Mapping[str, Any]) -> Iterator[Part]:
    batch, height, k = inputs["a"].shape
    role = roles(OPS[case.op].problem(case)["expression"])
    rows = np.arange(batch * height).reshape([batch if letter == role.batch else height for letter in role.out[:-1]])
    rows = rows if role.out[0] == role.batch else rows.T
    for group in range(batch):
        yield Part(rows[group], group * height + np.arange(height), group, slice(0, k))


PARTS: Mapping[str, Callable[[Any, Mapping[str, Any]], Iterator[Part]]] = {
    "gemm": _dense,
    "gemm_grouped_contiguous": _contiguous,
    "gemm_grouped_masked": _masked,
    "gemm_grouped_k": _groups_of_k,
    "einsum": _batched,
    "hc_prenorm": _splits_of_k,
}
_SUM_OF_HEADS = "a logit adds up all heads, each behind a ReLU, so that it is no value that an operand held"
_OUTSIDE = {
    "mqa_logits": _SUM_OF_HEADS,
    "paged_mqa_logits": _SUM_OF_HEADS,
    "mega_moe": "an activation and a cast lie between its two products, so that no output is a value that was passed",
}
_NO_PRODUCT = "it multiplies no operand by another, so that none can pick what is shown of the other"


def refusal(case: Any) -> str | None:
    """Return why a case's kernels cannot be asked for addresses; None where they can."""
    if case.op not in PARTS:
        return expected("addresses of", case.op, " or ".join(PARTS), _OUTSIDE.get(case.op, _NO_PRODUCT))
    expression = case.params.get("expression")
    if expression is not None and len(roles(expression).summed) > 1:
        return expected("addresses of", expression, "one axis that is summed over", case.id)
    return None


def parts_of(case: Any, inputs: Mapping[str, Any]) -> tuple[Part, ...]:
    """Return the parts of a product's output; rows in none of them have no defined values."""
    return tuple(PARTS[case.op](case, inputs))


def spans_of(parts: Iterable[Part]) -> list[slice]:
    """Return the spans of K that are added up, each once."""
    return [slice(start, stop) for start, stop in dict.fromkeys((p.span.start, p.span.stop) for p in parts)]


def blocks_of_k(parts: Iterable[Part], width: int) -> np.ndarray:
    """Return the elements of K [columns, width] under each column of scales, -1 for none: a span starts a new one."""
    blocks = [np.zeros((0, width), np.int64)]
    for span in spans_of(parts):
        columns = -(-(span.stop - span.start) // width)
        places = span.start + np.arange(columns * width).reshape(columns, width)
        blocks.append(np.where(places < span.stop, places, -1))
    return np.concatenate(blocks)


def elements_of(parts: Iterable[Part]) -> np.ndarray:
    """Return the elements of K that some output adds up, ascending."""
    return np.unique(blocks_of_k(parts, 1))
