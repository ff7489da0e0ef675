"""The same call gives the same outputs whichever arithmetic and path compute it, and refuses the same arguments."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dgref.errors import FormatError, InputError
from dgref.reference.dispatch import product, using
from dgref.reference.operands import scaled

MODEL = "deep_gemm.sm90.bf16"
WAYS = [("exact", "fast"), ("exact", "readable"), (MODEL, "fast"), (MODEL, "readable"), (MODEL, "bound")]


def operand(seed, *shape):
    values = np.random.default_rng(seed).integers(-3, 4, shape)
    return scaled(values.astype(ml_dtypes.bfloat16), "a")


@pytest.mark.parametrize(("arithmetic", "path"), WAYS)
@pytest.mark.parametrize("rows", [slice(1, 3), [2, 0], np.array([True, False, True, False])])
@pytest.mark.parametrize("k", [0, 16])
def test_a_part_of_the_result_is_that_part_of_the_whole(arithmetic, path, rows, k):
    a, b, c = operand(0, 4, k), operand(1, 5, k), np.arange(20, dtype=np.float32).reshape(4, 5)
    with using(path):
        full = product(a, b, c, arithmetic=arithmetic)
        part = product(a, b, c, arithmetic=arithmetic, rows=rows, columns=[4, 1])
    np.testing.assert_array_equal(part, full[rows][:, [4, 1]])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": "2"}, InputError, "alpha: got '2', need a number"),
        ({"alpha": 1e300}, InputError, r"alpha: got 1e\+300, need a float32"),
        ({"arithmetic": 3}, InputError, "arithmetic: got 3, need the name of one, or an Arithmetic"),
        ({"out": "float8_e4m3fn"}, FormatError, "out: got float8_e4m3fn, need bfloat16, float16"),
        ({"rows": [9]}, InputError, "rows: got 9, need indices from 0 to 3"),
    ],
)
@pytest.mark.parametrize("arithmetic", ["exact", MODEL])
@pytest.mark.parametrize("k", [0, 16])
def test_what_one_arithmetic_refuses_every_arithmetic_refuses(options, error, message, arithmetic, k):
    with pytest.raises(error, match=message):
        product(operand(0, 4, k), operand(1, 5, k), **{"arithmetic": arithmetic, **options})


@pytest.mark.filterwarnings("error")
def test_a_nan_that_the_last_addition_makes_is_the_one_that_gpus_write():
    a = scaled(np.full((1, 16), np.inf, ml_dtypes.bfloat16), "a")
    d = product(a, a, np.array([[-np.inf]], np.float32), arithmetic=MODEL)
    assert d.view(np.uint32).item() == 0x7FFFFFFF
