"""Inputs are the same bits everywhere, and each kind is what it says."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from dgref.errors import InputError, UnknownNameError
from dgref.formats import FORMATS, RECIPES, dequantize
from dgref.inputs import GENERATORS, Stream, generate
from dgref.ops import OPS
from dgref.suite import Case


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


# The first 64 bits of the SHA-256 of the payload codes, then of the scales, of a [5, 160] operand with seed 7.
GOLDEN = {
    "normal": "38e85589787a577b908953aa92162234",
    "wide": "ea29cf66ded48ab4f17917086eedb2f7",
    "cancelling": "3736d2e83f3bd4b1571fad324d2ef6b1",
    "outliers": "aff56b1796eb88b79e8879707b9a4979",
    "lossless": "adb9aee0578998d985caee7d79bc6014",
    "model_like": "7c5091d32af37f0426a3d40edd67ddae",
    "boundary": "5edb7e1c8dfeccd459dff96751d3873a",
    "coordinate_exponents": "c64586a6a15834045d8efb283381dea9",
    "specials": "615ee9ab525a483f908953aa92162234",
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_bits_are_portable(kind: str) -> None:
    tensor = generate(kind, (5, 160), "deepseek_fp8", 7, "a")
    assert digest(tensor.data) + digest(tensor.scale) == GOLDEN[kind]


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("recipe", ["bfloat16", "deepseek_fp8", "mxfp4", "nvfp4", "per_tensor_fp8", "tfloat32"])
@pytest.mark.parametrize("shape", [(5, 160), (0, 16), (1, 1), (2, 3, 64)])
def test_every_kind_makes_valid_tensors(kind: str, recipe: str, shape: tuple[int, ...]) -> None:
    tensor = generate(kind, shape, recipe, 1, "b").validate()
    assert tensor.shape == shape
    assert tensor.format == RECIPES[recipe].format


def test_operands_and_seeds_have_streams_of_their_own() -> None:
    streams = [Stream(0, "a"), Stream(0, "b"), Stream(1, "a")]
    assert len({stream.words(4).tobytes() for stream in streams}) == 3


def test_normal_has_unit_variance() -> None:
    values = Stream(3, "a").normal((1 << 18,))
    assert abs(float(values.mean())) < 0.01
    assert abs(float(values.std()) - 1) < 0.01


def test_uniform_stays_below_one() -> None:
    values = Stream(3, "a").uniform((1 << 18,))
    assert -1 <= values.min() < -0.999 and 0.999 < values.max() < 1


def test_cancelling_products_nearly_cancel() -> None:
    a, b = (generate("cancelling", (8, 512), "float32", 5, name).values().astype(np.float64) for name in "ab")
    products = np.abs(a @ b.T)
    assert np.median(products) < 0.05 * np.median(np.abs(a) @ np.abs(b).T)


def test_lossless_survives_every_format() -> None:
    values = generate("lossless", (16, 256), "float32", 5, "a").values()
    for name in ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "bfloat16", "float16"):
        assert np.array_equal(FORMATS[name].decode(FORMATS[name].encode(values)), values)


def test_boundary_holds_exact_ties() -> None:
    values = generate("boundary", (64, 256), "float8_e4m3fn", 5, "a")
    plain = GENERATORS["boundary"].make((64, 256), "float8_e4m3fn", Stream(5, "a"))
    decoded = values.values()
    step = FORMATS["float8_e4m3fn"].ulp(decoded)
    assert np.any(np.abs(plain - decoded) == step / 2)


def test_neighbouring_scales_differ() -> None:
    for recipe in ("deepseek_fp8", "mxfp8", "nvfp4"):
        scale = generate("coordinate_exponents", (64, 1024), recipe, 0, "a").scale.astype(np.float64)
        assert (np.diff(scale, axis=0) != 0).all() and (np.diff(scale, axis=1) != 0).all()


def test_the_sparse_side_visits_every_part_of_k() -> None:
    tensor = generate("coordinate_exponents", (264, 1024), "mxfp8", 0, "b")
    rows, columns = np.nonzero(tensor.data)
    assert len(rows) == 264 and len(set(columns // 32)) == 32


def test_specials_hold_nan_and_infinity() -> None:
    values = dequantize(generate("specials", (64, 256), "float8_e5m2", 0, "a"))
    assert np.isnan(values).any() and np.isinf(values).any()


def test_unknown_kind_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="need normal"):
        generate("norml", (1, 1), "bfloat16", 0, "a")


@pytest.mark.parametrize("seed", [None, 1.0, "0", True, [1]])
def test_a_seed_that_is_no_whole_number_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match=r"seed: got .*, need an integer from 0 up"):
        generate("normal", (1, 1), "bfloat16", seed, "a")


@pytest.mark.parametrize("shape", [(), 5, (-1, 4), (4.0, 128), "ab", (True, 4)])
def test_a_shape_that_is_none_is_refused(shape: object) -> None:
    with pytest.raises(InputError, match=r"shape: got .*, need (an integer|a sequence|at least one)"):
        generate("normal", shape, "bfloat16", 0, "a")


@pytest.mark.parametrize("op", ["gemm", "gemm_grouped_k"])
def test_products_of_cancelling_operands_cancel_in_every_group(op: str) -> None:
    recipes = {"a": {"recipe": "bfloat16"}, "b": {"recipe": "bfloat16"}}
    shape = {"m": 16, "n": 16, "k": 512} | ({"g": 2} if op != "gemm" else {})
    fields = {"id": "x", "why": "x", "op": op, "shape": shape, "operands": recipes, "out": "float32"}
    largest = {}
    for kind in ("normal", "cancelling"):
        case = Case.from_dict({**fields, "inputs": {"kind": kind}})
        largest[kind] = np.abs(OPS[op].compute(case, case.make_inputs())["d"]).max()
    assert largest["cancelling"] < largest["normal"] / 8
