"""Group boundaries that the rows make obey the contracts of kernels, and show the edge they are named after."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.ops import OPS
from dgref.ops.grouped import PATTERNS, share_out
from dgref.reference import check_group_labels
from dgref.reference.grouped import k_spans, psum_spans
from tests.ops.cases import case

shapes = st.fixed_dictionaries(
    {"g": st.integers(1, 6), "m": st.integers(0, 300), "n": st.just(1), "k": st.integers(0, 300)}
)
patterns, units = st.sampled_from(PATTERNS), st.sampled_from([1, 16, 100, 128])


def made(op: str, shape: dict, name: str, **params) -> np.ndarray:
    row = case(op, shape, {"a": "bfloat16", "b": "bfloat16"}, params)
    operand = next(operand for operand in OPS[op].inputs if operand.name == name)
    return operand.make(OPS[op].problem(row), {})


@settings(max_examples=60, deadline=None)
@given(shape=shapes, pattern=patterns, unit=units)
def test_labels_keep_one_group_a_tile(shape, pattern, unit):
    labels = made("gemm_grouped_contiguous", shape, "grouped_layout", groups=pattern, alignment=unit)
    check_group_labels(labels, shape["g"], unit)
    assert labels.shape == (shape["m"],) and (np.diff(labels[labels >= 0]) >= 0).all()
    assert pattern != "none" or (labels == -1).all()
    assert pattern != "single" or set(labels) <= {-1, shape["g"] - 1}


@settings(max_examples=60, deadline=None)
@given(shape=shapes, pattern=patterns, unit=units)
def test_prefix_sums_bound_the_same_rows_as_labels(shape, pattern, unit):
    arguments = {"groups": pattern, "alignment": unit}
    labels = made("gemm_grouped_contiguous", shape, "grouped_layout", **arguments)
    ends = made("gemm_grouped_contiguous", shape, "grouped_layout", psum=True, **arguments)
    spread = np.full(shape["m"], -1)
    for group, span in enumerate(psum_spans(ends, shape["m"], unit)):
        spread[span] = group
    np.testing.assert_array_equal(spread, labels)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, pattern=patterns, unit=units, psum=st.booleans())
def test_groups_of_k_cover_k_or_lie_within_it(shape, pattern, unit, psum):
    if pattern == "none" and not psum:
        return
    layout = made("gemm_grouped_k", shape, "grouped_layout", groups=pattern, alignment=unit, psum=psum)
    spans = list(k_spans(layout, shape["k"], psum, unit))
    assert len(spans) == shape["g"] and all(span.start <= span.stop for span in spans)
    assert psum or sum(span.stop - span.start for span in spans) == shape["k"]


@settings(max_examples=40, deadline=None)
@given(shape=shapes, pattern=patterns)
def test_masks_lie_within_the_rows(shape, pattern):
    counts = made("gemm_grouped_masked", shape, "masked_m", groups=pattern)
    assert counts.shape == (shape["g"],) and (counts >= 0).all() and (counts <= shape["m"]).all()
    assert pattern != "empty" or shape["g"] == 1 or not counts[::2].any()


@given(total=st.integers(0, 1000), shares=st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_what_is_shared_out_adds_up(total, shares):
    parts = share_out(total, np.array(shares))
    assert parts.sum() == (total if any(shares) else 0) and (parts >= 0).all()
    assert not parts[np.array(shares) == 0].any()
