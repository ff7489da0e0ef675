"""Layouts: every row of the registry, without opting in, against formulas written out one coordinate at a time."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.errors import FormatError, LayoutError, UnknownNameError
from dgref.formats import LAYOUTS
from dgref.formats.layouts.__main__ import markdown
from dgref.formats.layouts.elements import _torch_exponents, ue8m0_codes, ue8m0_values


def up(value: int, unit: int) -> int:
    """Round up to a multiple."""
    return (value + unit - 1) // unit * unit


def k_grouped(m, k, M, S, extents):
    """Byte address of row m of a [sum of K blocks, MN] grid whose groups start new words."""
    words = 0
    for extent in extents:
        if m < extent:
            return (words + m // 4) * S * 4 + k * 4 + m % 4
        m, words = m - extent, words + up(extent, 4) // 4
    raise AssertionError("row outside the groups")


def packed(m, k, M, S):
    """Byte address within the int32 words of DeepGEMM's SM100 scales."""
    return ((k // 4) * up(M, 4) + m) * 4 + k % 4


def blocked(m, k, M, S):
    """Byte address in cuBLASLt's tiles of 128 x 4."""
    return (m // 128) * up(S, 4) // 4 * 512 + (k // 4) * 512 + (m % 32) * 16 + (m % 128) // 32 * 4 + k % 4


def utccp(m):
    return (m & ~127) + (m & 31) * 4 + ((m >> 5) & 3)


def gate_up(m, M, run):
    half = M // 2
    return (m % half) // run * 2 * run + (run if m >= half else 0) + m % half % run


def shuffled(m, tile):
    order = {16: [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]}.get(
        tile, [place + 8 * quarter for place in range(8) for quarter in range(4)]
    )
    return m // tile * tile + order[m % tile]


FORMULAS = {
    "linear": lambda m, k, M, S: m * S + k,
    "mn_major": lambda m, k, M, S: k * M + m,
    "mn_major_tma": lambda m, k, M, S: k * up(M, 4) + m,
    "linear_padded_4": lambda m, k, M, S: m * up(S, 4) + k,
    "packed_ue8m0": packed,
    "packed_ue8m0_rows": lambda m, k, M, S: (m // 4 * S + k) * 4 + m % 4,
    "broadcast_rows_128": lambda m, k, M, S: 128 * m * S + k,
    "utccp_4x32": lambda m, k, M, S: utccp(m) * S + k,
    "gate_up_interleave_8": lambda m, k, M, S: gate_up(m, M, 8) * S + k,
    "gate_up_interleave_1": lambda m, k, M, S: gate_up(m, M, 1) * S + k,
    "swizzle_128x4": blocked,
    "swizzle_8x4": lambda m, k, M, S: m // 8 * up(S, 4) // 4 * 32 + k // 4 * 32 + m % 8 * 4 + k % 4,
    "shuffle_rows_16": lambda m, k, M, S: shuffled(m, 16) * S + k,
    "shuffle_rows_32": lambda m, k, M, S: shuffled(m, 32) * S + k,
    "packed_ue8m0_k_grouped": k_grouped,
    "packed_ue8m0_psum": lambda m, k, M, S, ends, row_alignment: packed(m, k, M, S),
    "packed_ue8m0_broadcast_128": lambda m, k, M, S: packed(128 * m, k, 128 * M, S),
    "utccp_4x32_packed_ue8m0": lambda m, k, M, S: packed(utccp(m), k, up(M, 128), S),
    "gate_up_interleave_8_utccp_4x32_packed_ue8m0": lambda m, k, M, S: packed(
        utccp(gate_up(m, M, 8)), k, up(M, 128), S
    ),
    "shuffle_rows_16_swizzle_128x4": lambda m, k, M, S: blocked(shuffled(m, 16), k, M, S),
    "shuffle_rows_32_swizzle_128x4": lambda m, k, M, S: blocked(shuffled(m, 32), k, M, S),
    "gate_up_interleave_1_swizzle_128x4": lambda m, k, M, S: blocked(gate_up(m, M, 1), k, M, S),
}
EVERY = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))


def parameters_of(layout, rows: int) -> dict:
    """Return groups that cover the rows, with an empty group and a ragged one."""
    result = {}
    if "extents" in layout.parameters:
        result["extents"] = (rows // 3, 0, rows - rows // 3)
    if "ends" in layout.parameters:
        result.update(ends=(min(3, rows), min(3, rows), rows), row_alignment=4)
    return result


def grid(shape, seed: int = 0) -> np.ndarray:
    """Return distinct-looking positive powers of two."""
    return np.exp2(np.random.default_rng(seed).integers(-127, 128, shape)).astype(np.float32)


def elements_of(layout, buffer) -> np.ndarray:
    """Return the buffer as a flat array of the elements that addresses count."""
    flat = np.ascontiguousarray(buffer).reshape(-1)
    return flat.view(np.uint8) if layout.elements.lanes > 1 else flat


def shapes_for(layout) -> st.SearchStrategy:
    """Return shapes with tails, empty axes and up to two batch axes, whose rows the layout can take."""
    rows = st.integers(0, 300 // layout.divisor).map(lambda n: n * layout.divisor)
    lead = st.sampled_from([(), (), (1,), (3,), (2, 2), (0,)])
    return st.tuples(lead, rows, st.integers(0, 13)).map(lambda t: (*t[0], t[1], t[2]))


def test_every_layout_has_an_independent_formula():
    assert set(FORMULAS) == set(LAYOUTS)


@EVERY
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_address_agrees_with_pack_and_unpack_undoes_it(layout, data):
    shape = data.draw(shapes_for(layout))
    parameters = parameters_of(layout, shape[-2])
    scales = grid(shape)
    buffer = layout.pack(scales, **parameters)
    assert buffer.shape == layout.buffer_shape(shape, **parameters)
    assert buffer.size == layout.size(shape, **parameters)
    back = layout.unpack(buffer, shape, **parameters)
    addresses = layout.addresses(shape, **parameters)
    stored = addresses >= 0
    np.testing.assert_array_equal(back[stored], scales[stored])
    codes = layout.elements.encode(scales)
    np.testing.assert_array_equal(elements_of(layout, buffer)[addresses[stored]], codes[stored])


@EVERY
def test_addresses_equal_the_scalar_formula(layout):
    rows, columns = max(layout.divisor, 1) * (-(-200 // layout.divisor)), 7
    parameters = parameters_of(layout, rows)
    addresses = layout.addresses((2, rows, columns), **parameters)
    matrix = layout.size((rows, columns), **parameters) * layout.elements.lanes
    for m, k in product(range(0, rows, 3), range(columns)):
        if addresses[0, m, k] < 0:
            continue
        formula = FORMULAS[layout.name](m, k, rows, columns, **parameters)
        assert addresses[0, m, k] == formula
        assert addresses[1, m, k] == matrix + formula
        address = layout.element_address((1, m, k), (2, rows, columns), **parameters)
        assert address == matrix + formula
        assert layout.address((1, m, k), (2, rows, columns), **parameters) == address // layout.elements.lanes
        assert layout.lane((1, m, k), (2, rows, columns), **parameters) == address % layout.elements.lanes


@EVERY
def test_addresses_are_distinct_and_padding_stays_zero(layout):
    shape = (layout.divisor * (-(-150 // layout.divisor)), 6)
    parameters = parameters_of(layout, shape[0])
    addresses = layout.addresses(shape, **parameters)
    addresses = addresses[addresses >= 0]
    assert np.unique(addresses).size == addresses.size
    buffer = elements_of(layout, layout.pack(np.ones(shape, np.float32), **parameters))
    if not layout.copies:
        rest = np.ones(buffer.size, bool)
        rest[addresses] = False
        assert not buffer[rest].any()
        assert buffer[addresses].all()


@EVERY
def test_compiled_copy_equals_the_readable_one(layout):
    for rows, columns in [(384, 64), (1152, 33), (960, 128)] if not layout.copies else [(3, 64), (9, 33)]:
        scales = grid((2, rows, columns))
        parameters = parameters_of(layout, rows)
        codes = layout.encode(scales, **parameters)
        codes = codes.view(np.uint32) if codes.dtype == np.float32 else codes
        fast = layout.arrange(codes, **parameters)
        if hasattr(layout, "readable_arrange"):
            np.testing.assert_array_equal(fast, layout.readable_arrange(codes))
        stored = layout.addresses(scales.shape, **parameters) >= 0
        back = layout.unpack(layout.pack(scales, **parameters), scales.shape, **parameters)
        np.testing.assert_array_equal(back[stored], scales[stored])


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.elements.name == "any"])
def test_bytes_take_the_same_road_as_words(name):
    layout = LAYOUTS[name]
    codes = np.random.default_rng(1).integers(0, 256, (96 if layout.copies else 960, 133), np.uint8)
    np.testing.assert_array_equal(layout.pack(codes), layout.pack(codes.astype(np.uint16)).astype(np.uint8))
    np.testing.assert_array_equal(layout.pack(codes), layout.readable_arrange(codes))


@EVERY
def test_torch_and_non_contiguous_input_give_the_same_bits(layout):
    rows = layout.divisor * (-(-64 // layout.divisor))
    parameters = parameters_of(layout, rows)
    wide = grid((rows, 18))
    view = wide[:, ::2]
    buffer = layout.pack(np.ascontiguousarray(view), **parameters)
    np.testing.assert_array_equal(layout.pack(view, **parameters), buffer)
    np.testing.assert_array_equal(layout.pack(np.asfortranarray(view), **parameters), buffer)
    tensor = layout.pack(torch.from_numpy(wide)[:, ::2], **parameters)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), buffer)
    back = layout.unpack(tensor, (rows, 9), **parameters)
    assert isinstance(back, torch.Tensor)
    assert back.shape == (rows, 9)


@EVERY
def test_tensors_that_numpy_cannot_view_take_the_readable_way_with_the_same_bits(layout):
    """What a device tensor goes through, on the CPU."""
    rows = layout.divisor * (-(-70 // layout.divisor))
    parameters = parameters_of(layout, rows)
    scales = grid((2, rows, 9))
    codes = layout.encode(scales, **parameters).view(np.uint8 if layout.elements.lanes > 1 else np.int32)
    tensor = torch.from_numpy(codes)
    arrange = layout.arrange if layout.parameters else layout.readable_arrange
    buffer = arrange(tensor, **parameters)
    np.testing.assert_array_equal(np.asarray(buffer), layout.arrange(codes, **parameters))
    back = layout.restore(buffer, scales.shape, **parameters)
    stored = layout.addresses(scales.shape, **parameters) >= 0
    np.testing.assert_array_equal(np.asarray(back)[stored], codes[stored])


def test_exponents_of_tensors_equal_those_of_arrays():
    scales = np.exp2(np.arange(-127.0, 128.0)).astype(np.float32)
    bits = torch.from_numpy(scales).view(torch.int32)
    np.testing.assert_array_equal(np.asarray(_torch_exponents(bits)), ue8m0_codes(scales))
    np.testing.assert_array_equal(np.asarray(ue8m0_values(torch.from_numpy(ue8m0_codes(scales)))), scales)
    for bad in (0.0, -1.0, 3.0, np.inf, np.nan, 2.0**-128):
        assert _torch_exponents(torch.tensor([1.0, bad]).view(torch.int32)) is None


@EVERY
def test_pack_never_aliases_its_input(layout):
    scales = grid((layout.divisor, 4))
    parameters = parameters_of(layout, layout.divisor)
    kept = scales.copy()
    layout.pack(scales, **parameters)[...] = 0
    np.testing.assert_array_equal(scales, kept)


@EVERY
def test_every_layout_draws_itself(layout):
    table = layout.picture()
    assert layout.name in table.title
    assert table.row_count >= 8


def test_aliases_resolve_and_near_misses_are_suggested():
    assert LAYOUTS["torch_blocked"] is LAYOUTS["swizzle_128x4"]
    assert LAYOUTS["mega_moe_l1_scale"].formula == "gate_up_interleave_8 then utccp_4x32 then packed_ue8m0"
    with pytest.raises(UnknownNameError, match="swizzle_128x4"):
        LAYOUTS["swizzle_128_4"]


def test_packed_words_are_little_endian_along_k():
    words = LAYOUTS["packed_ue8m0"].pack(np.array([[1.0, 2.0, 4.0, 8.0]], np.float32))
    np.testing.assert_array_equal(words.view(np.uint32), [[0x8281807F, 0, 0, 0]])


def test_packed_keeps_the_smallest_and_largest_exponent():
    layout = LAYOUTS["packed_ue8m0"]
    scales = np.array([[2.0**-127, 2.0**-126, 2.0**127, 1.0]], np.float32)
    np.testing.assert_array_equal(layout.unpack(layout.pack(scales), (1, 4), codes=True), [[0, 1, 254, 127]])
    np.testing.assert_array_equal(layout.unpack(layout.pack(scales), (1, 4)), scales)


@pytest.mark.parametrize("bad", [0.0, -2.0, 3.0, np.inf, np.nan, 2.0**-128, 1.0 + 2.0**-23])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_packing_refuses_what_ue8m0_cannot_hold(bad, kind):
    scales = np.ones((5, 5), np.float32)
    scales[3, 2] = bad
    with pytest.raises(FormatError, match=r"at \(3, 2\).*powers of two"):
        LAYOUTS["packed_ue8m0"].pack(kind(scales))


def test_psum_padding_rows_are_never_read():
    scales = np.full((8, 4), np.nan, np.float32)
    scales[0:3] = 1.0
    scales[4:6] = 2.0
    words = LAYOUTS["packed_ue8m0_psum"].pack(scales, ends=(3, 6), row_alignment=4)
    np.testing.assert_array_equal(words[0] != 0, [1, 1, 1, 0, 1, 1, 0, 0])
    with pytest.raises(LayoutError, match="is stored, not padding"):
        LAYOUTS["packed_ue8m0_psum"].address((3, 0), (8, 4), ends=(3, 6), row_alignment=4)


def test_broadcast_with_copies_that_differ_is_refused():
    buffer = LAYOUTS["broadcast_rows_128"].pack(grid((2, 3)))
    buffer[130, 1] *= 2
    with pytest.raises(LayoutError, match="copies that differ"):
        LAYOUTS["broadcast_rows_128"].unpack(buffer, (2, 3))


def test_the_documentation_lists_every_layout_as_generated():
    assert markdown() in (Path(__file__).parents[2] / "docs" / "layouts.md").read_text()
