from __future__ import annotations

import struct

import pytest

from dgref.backends.cuda import driver
from dgref.backends.cuda.launch import argument_block, check_parameters
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import InputError, ShapeError


def test_arguments_lie_where_their_pointers_say():
    packing, offsets = argument_block((int, bytes, float, int, bool), (8, 144, 4, 4, 1))
    block = packing.pack(1 << 40, b"\xab" * 144, 1.5, -3, True)
    assert all(offset % 64 == 0 for offset in offsets)
    assert struct.unpack_from("<q", block, offsets[0]) == (1 << 40,)
    assert block[offsets[1] : offsets[2]].count(0xAB) == 144
    assert struct.unpack_from("<f", block, offsets[2]) == (1.5,)
    assert struct.unpack_from("<i", block, offsets[3]) == (-3,)
    assert block[offsets[4]] == 1


def test_a_value_that_no_parameter_can_hold_is_an_error():
    with pytest.raises(InputError, match="kernel argument 0: got float, need a value for a parameter of 2 bytes"):
        argument_block((float,), (2,))
    with pytest.raises(struct.error):
        argument_block((int,), (4,))[0].pack(1 << 40)


def test_the_number_of_arguments_is_checked():
    with pytest.raises(InputError, match="got 1 arguments, need 2 arguments"):
        check_parameters("name", (1,), (8, 8))


@pytest.mark.parametrize(
    ("needed", "have", "runs"),
    [("sm_90a", "sm_90", True), ("sm_90a", "sm_100", False), ("sm_80", "sm_89", True), ("sm_89", "sm_80", False)],
)
def test_an_architecture_specific_cubin_runs_on_that_architecture_only(needed, have, runs):
    assert driver.runs_on(needed, have) is runs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pointer": 8}, "tensor map address"),
        ({"strides": (24,)}, "tensor map stride: got 24 bytes"),
        ({"box": (512, 1)}, "tensor map box"),
        ({"box": (64,)}, "as many"),
        ({"dtype": "float8"}, "tensor map dtype"),
        ({"swizzle": 48}, "tensor map swizzle"),
    ],
)
def test_a_tensor_map_names_the_rule_that_it_breaks(change, message):
    arguments = {"pointer": 16, "dtype": "uint8", "strides": (128,), "box": (64, 8), "swizzle": 128, **change}
    with pytest.raises((InputError, ShapeError), match=message):
        TensorMap.tiled(
            arguments["pointer"],
            arguments["dtype"],
            (128, 64),
            arguments["strides"],
            arguments["box"],
            arguments["swizzle"],
        )
