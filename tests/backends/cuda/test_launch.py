from __future__ import annotations

import struct

import pytest

from dgref.backends.cuda import driver, jit
from dgref.backends.cuda.launch import argument_block, check_arguments
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import InputError, ShapeError


def test_arguments_lie_where_their_pointers_say():
    packing, offsets = argument_block(("q", "144s", "f", "i", "b"))
    block = packing.pack(1 << 40, b"\xab" * 144, 1.5, -3, True)
    assert all(offset % 64 == 0 for offset in offsets)
    assert struct.unpack_from("<q", block, offsets[0]) == (1 << 40,)
    assert block[offsets[1] : offsets[2]].count(0xAB) == 144
    assert struct.unpack_from("<f", block, offsets[2]) == (1.5,)
    assert struct.unpack_from("<i", block, offsets[3]) == (-3,)
    assert block[offsets[4]] == 1


def test_the_parameters_of_a_kernel_are_read_from_its_ptx(kernel_folder):
    (kernel_folder / "tiny/fill.cu").write_text(
        "struct alignas(64) Map { char opaque[128]; };\nstruct Problem { long long a; int b[5]; };\n"
        "template <int k> __global__ void fill(const __grid_constant__ Map map, float* out, int n, float x, bool on,\n"
        "    Problem p, double y, unsigned short z) { out[n] = x + k + map.opaque[n] + on + p.b[1] + y + z; }"
    )
    compiled = jit.compile_only("tiny/fill.cu", "fill", {"k": 3})
    assert compiled.parameters == ("128s", "q", "i", "f", "b", "32s", "d", "h")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1,), "got 1 arguments, need 2 arguments"),
        ((1, b"short"), "argument 1: got 5 bytes, need a struct of 144 bytes"),
        ((b"x" * 8, b"y" * 144), "argument 0: got 8 bytes, need a number for a parameter of 8 bytes"),
        ((1, 2), "argument 1: got 2, need a struct of 144 bytes"),
    ],
)
def test_arguments_that_do_not_fit_the_parameters_are_errors(values, message):
    with pytest.raises(InputError, match=message):
        check_arguments("name", values, ("q", "144s"))


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
