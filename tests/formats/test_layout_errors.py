"""What a layout cannot pack, unpack or address is refused with a sentence, before any byte moves."""

import numpy as np
import pytest
import torch

from dgref.errors import FormatError, InputError, LayoutError, ShapeError
from dgref.formats import LAYOUTS

LINEAR, SWIZZLED, GROUPED, PSUM = (
    LAYOUTS[name] for name in ("linear", "swizzle_128x4", "packed_ue8m0_k_grouped", "packed_ue8m0_psum")
)
ONES = np.ones((4, 4), np.float32)
ERRORS = [
    (lambda: LINEAR.pack(np.ones(4)), ShapeError, r"\[..., rows, columns\]"),
    (lambda: LINEAR.pack(ONES, rows=3), LayoutError, "unknown"),
    (lambda: LINEAR.pack(None), FormatError, "scales: got object, need an array of numbers"),
    (lambda: LINEAR.pack(np.array([["a"]])), FormatError, "scales: got <U1, need an array of numbers"),
    (lambda: LINEAR.pack(ONES.astype(complex)), FormatError, "scales: got complex128"),
    (lambda: LINEAR.pack(torch.eye(4).to_sparse()), InputError, "scales: got a tensor of torch.sparse_coo"),
    (lambda: LINEAR.pack(np.ma.array(ONES, mask=ONES > 0)), InputError, "scales: got a masked array"),
    (lambda: LAYOUTS["shuffle_rows_32"].pack(np.ones((33, 4))), ShapeError, "multiple of 32"),
    (lambda: LAYOUTS["mn_major_tma"].pack(np.ones((4, 4))), FormatError, "got float64, need float32"),
    (lambda: SWIZZLED.unpack(np.ones(100, np.uint8), (4, 4)), LayoutError, "got 100 elements"),
    (lambda: SWIZZLED.unpack(np.ones(512, np.uint8), 4), ShapeError, "shape of the scales: got 4, need a sequence"),
    (lambda: SWIZZLED.unpack(np.ones(512, np.uint8), (4.0, 4)), ShapeError, "got 4.0, need an integer"),
    (lambda: SWIZZLED.buffer_shape((4,)), ShapeError, r"\[..., rows, columns\]"),
    (lambda: SWIZZLED.addresses((-2, 4)), ShapeError, "got -2, need an integer from 0"),
    (lambda: SWIZZLED.address((4, 0), (4, 4)), LayoutError, "inside"),
    (lambda: SWIZZLED.address((1.5, 0), (4, 4)), LayoutError, "coordinate: got 1.5"),
    (lambda: SWIZZLED.address(3, (4, 4)), LayoutError, "coordinate: got 3, need a sequence"),
    (lambda: GROUPED.pack(ONES), LayoutError, "extents"),
    (lambda: GROUPED.pack(ONES, extents=(1, 2)), ShapeError, "sum 4"),
    (lambda: GROUPED.pack(ONES, extents=(2.5, 1.5)), ShapeError, "extents: got 2.5, need an integer"),
    (lambda: GROUPED.pack(ONES, extents=4), ShapeError, "extents: got 4, need a sequence"),
    (lambda: PSUM.pack(ONES, ends=(3, 2)), LayoutError, "ends: got 2 after 3"),
    (
        lambda: PSUM.pack(ONES, ends=(2, 4), row_alignment=0),
        LayoutError,
        "row_alignment: got 0, need an integer from 1",
    ),
    (lambda: LAYOUTS["packed_ue8m0"].unpack(np.ones((1, 4), np.float32), (4, 4)), FormatError, "need int32"),
]


def test_a_lazily_negated_tensor_is_packed_as_the_values_it_shows():
    negated = torch._neg_view(torch.full((4, 4), 2.0))
    assert torch.equal(LINEAR.pack(negated), torch.full((4, 4), -2.0))


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors_say_what_came_and_what_is_needed(call, error, message):
    with pytest.raises(error, match=message):
        call()
