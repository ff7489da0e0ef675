"""Packing: byte by byte against a bit stream written with Python integers, and there and back again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dgref.errors import FormatError, InputError, ShapeError, UnknownNameError
from dgref.formats import FORMATS, PACKINGS, Format, Packing, pack, unpack
from tests.formats.inputs import SMALL

E2M1, E2M3 = FORMATS["float4_e2m1fn"], FORMATS["float6_e2m3fn"]

KNOWN = [  # packing, format, codes, bytes
    ("low_first", E2M1, [0x1, 0x2, 0xF, 0x4], [0x21, 0x4F]),
    ("high_first", E2M1, [0x1, 0x2, 0xF, 0x4], [0x12, 0xF4]),
    ("byte_padded", E2M1, [0x1, 0x2], [0x01, 0x02]),
    ("low_first", E2M3, [0b000001, 0b000010, 0b000011, 0b111111], [0b10_000001, 0b0011_0000, 0b111111_00]),
    ("high_first", E2M3, [0b000001, 0b000010, 0b000011, 0b111111], [0b000001_00, 0b0010_0000, 0b11_111111]),
    ("group16_padded", E2M1, [1] * 16, [0x11] * 8 + [0] * 8),
    ("group16_padded", E2M3, [0x3F] * 16, [0xFF] * 12 + [0] * 4),
    ("low_first", E2M1, [0x3], [0x03]),
]


@pytest.mark.parametrize(("packing", "format", "codes", "bytes_"), KNOWN)
def test_known_bytes(packing: str, format: Format, codes: list[int], bytes_: list[int]):
    assert pack(codes, format, packing).tolist() == bytes_
    assert unpack(np.array(bytes_, np.uint8), format, packing, count=len(codes)).tolist() == codes


@pytest.mark.parametrize("order", ["low_first", "high_first"])
@pytest.mark.parametrize("format", SMALL, ids=lambda f: f.name)
def test_streams_equal_one_long_python_integer(format: Format, order: str):
    codes = np.random.default_rng(0).integers(0, 1 << format.bits, 24).tolist()
    size = len(codes) * format.bits // 8
    if order == "low_first":
        stream = sum(code << (i * format.bits) for i, code in enumerate(codes)).to_bytes(size, "little")
    else:
        stream = sum(code << (i * format.bits) for i, code in enumerate(reversed(codes))).to_bytes(size, "big")
    assert pack(np.array(codes, np.uint8), format, order).tobytes() == stream


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 13), (2, 0, 5), (4, 6, 32)], ids=str)
@pytest.mark.parametrize("format", SMALL, ids=lambda f: f.name)
@pytest.mark.parametrize("packing", PACKINGS.values(), ids=lambda p: p.name)
def test_every_packing_gives_back_every_shape_along_either_axis(packing: Packing, format: Format, shape: tuple):
    codes = np.random.default_rng(0).integers(0, 1 << format.bits, shape).astype(np.uint8)
    for axis in range(-len(shape), 0):
        packed = packing.pack(codes, format, axis)
        assert packed.shape[axis] == packing.size(shape[axis], format)
        np.testing.assert_array_equal(packing.unpack(packed, format, shape[axis], axis), codes)


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=lambda p: p.name)
@pytest.mark.parametrize("format", [E2M1, E2M3], ids=lambda f: f.name)
def test_the_packed_transpose_is_the_transpose_packed(packing: Packing, format: Format):
    codes = np.random.default_rng(0).integers(0, 1 << format.bits, (6, 10)).astype(np.uint8)
    transposed = packing.transpose(packing.pack(codes, format), format, count=10)
    np.testing.assert_array_equal(transposed, packing.pack(codes.T, format))


def test_pairs_along_rows_are_the_transposed_form():
    codes = np.arange(8, dtype=np.uint8).reshape(4, 2)
    assert pack(codes, E2M1, axis=-2).tolist() == [[0x20, 0x31], [0x64, 0x75]]


def test_torch_tensors_pack_and_unpack_as_torch_tensors():
    codes = torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8)
    packed = pack(codes, E2M1)
    assert torch.equal(packed, torch.tensor([[0x21, 0x43]], dtype=torch.uint8))
    for bytes_ in (packed, packed.view(torch.int8), packed.view(torch.float4_e2m1fn_x2)):
        assert torch.equal(unpack(bytes_, E2M1), codes)
    assert torch.equal(PACKINGS["low_first"].transpose(pack(codes, E2M1), E2M1), pack(codes.mT, E2M1))


ERRORS = [
    (lambda: pack([0x10], E2M1), FormatError, "codes: got 0x10"),
    (lambda: pack([1], "bfloat16"), FormatError, "format: got bfloat16 of 16 bits, need at most 8 bits"),
    (lambda: pack([1], E2M1, "low"), UnknownNameError, "low_first"),
    (lambda: unpack(np.zeros(4, np.uint8), E2M3), ShapeError, "packed axis: got 4 bytes, need a multiple of 3"),
    (lambda: unpack(np.zeros(3, np.float32), E2M3), FormatError, "packed: got float32"),
    (lambda: unpack(np.zeros(2, np.uint8), E2M1, count=5), ShapeError, "count: got 5, need codes that take 2 bytes"),
    (lambda: unpack(np.zeros(2, np.uint8), E2M1, count=2), ShapeError, "count: got 2, need codes that take 2 bytes"),
    (lambda: unpack(np.zeros(2, np.uint8), E2M1, count="4"), ShapeError, "count: got '4', need an integer"),
    (lambda: unpack(np.uint8(0), E2M1), ShapeError, "packed: got a scalar, need at least one axis"),
    (lambda: pack([1], E2M1, axis=1), ShapeError, "axis: got 1, need an integer from -1 to 0"),
    (lambda: pack([1], None), UnknownNameError, "format: got None"),
    (lambda: PACKINGS["low_first"].transpose(np.zeros(2, np.uint8), E2M1), ShapeError, "need two axes to transpose"),
    (lambda: PACKINGS["low_first"].size(-1, E2M1), InputError, "count: got -1, need an integer from 0 up"),
    (
        lambda: pack(torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), E2M1),
        FormatError,
        "codes: got float4_e2m1fn_x2, two codes a byte",
    ),
]


@pytest.mark.parametrize(("call", "error", "words"), ERRORS, ids=[words for *_, words in ERRORS])
def test_errors_say_what_came_and_what_is_needed(call, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        call()
