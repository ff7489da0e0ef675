"""Buffers are what a kernel reads: packed, in memory order, in the layout of the case; and they can be read back."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from dgref.buffers import buffers_of, tensor_of
from dgref.errors import DgrefError
from dgref.formats import RECIPES
from dgref.inputs import generate
from dgref.suite import Case, OperandChoice
from tests import samples

LAYOUTS = {
    "mxfp8": ["swizzle_128x4"],
    "mxfp4": ["swizzle_128x4"],
    "nvfp4": ["swizzle_128x4"],
    "deepseek_fp8": ["mn_major_tma"],
}


@pytest.mark.parametrize(("recipe", "major"), list(product(sorted(RECIPES), ["k", "mn"])))
def test_every_recipe_survives_its_buffers_in_both_orders(recipe: str, major: str) -> None:
    for layout in [None, *LAYOUTS.get(recipe, [])]:
        choice = OperandChoice(recipe, layout, major)
        tensor = generate("normal", (130, 256), recipe, 3, "a")
        parts = buffers_of(samples.case(operands={"a": choice}), {"a": tensor})
        again = tensor_of("a", {name: part.array for name, part in parts.items()}, (130, 256), choice)
        np.testing.assert_array_equal(again.data, tensor.data)
        assert (again.scale is None) == (tensor.scale is None)
        if tensor.scale is not None:
            assert np.asarray(again.scale).tobytes() == np.asarray(tensor.scale).tobytes()


def test_a_description_has_everything_but_the_bits() -> None:
    case = samples.case(
        operands={name: OperandChoice("mxfp4", "swizzle_128x4") for name in "ab"}, shape={"m": 4, "n": 8, "k": 64}
    )
    parts = buffers_of(case, case.make_inputs())
    assert list(parts) == ["a", "a.scale", "b", "b.scale"]
    described = parts["a"].describe()
    assert (described["shape"], described["stored"]["shape"]) == ([4, 64], [4, 32])
    assert (described["format"], len(described["sha256"])) == ("float4_e2m1fn", 64)
    assert parts["a.scale"].describe()["layout"] == "swizzle_128x4"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({}, "a: got no such array"),
        ({"a": np.zeros((4, 64), np.uint8)}, "a.scale: got no such array"),
        ({"a": np.zeros((4, 60), np.uint8)}, r"a: got shape \(4, 60\), need \(4, 64\)"),
    ],
)
def test_buffers_that_do_not_fit_are_named(arrays: dict, words: str) -> None:
    with pytest.raises(DgrefError, match=words):
        tensor_of("a", arrays, (4, 64), OperandChoice("mxfp8"))


def test_buffers_of_torch_tensors_are_those_of_numpy_arrays() -> None:
    import torch

    from dgref.formats import quantize

    x = np.random.default_rng(0).standard_normal((16, 64), dtype=np.float32)
    operand = OperandChoice("nvfp4", "swizzle_128x4")
    case = Case("x", "a test", "gemm", {"m": 16, "n": 16, "k": 64}, {"a": operand, "b": operand})
    made = [
        buffers_of(case, {"a": tensor, "b": tensor})
        for tensor in (quantize(x, "nvfp4"), quantize(torch.from_numpy(x), "nvfp4"))
    ]
    assert all(isinstance(part.array, np.ndarray) for part in made[1].values())
    assert [part.describe() for part in made[0].values()] == [part.describe() for part in made[1].values()]
