"""What has no code or no value is refused with a sentence that names it."""

import numpy as np
import pytest
import torch

from dgref.errors import FormatError, InputError, UnknownNameError
from dgref.formats import FORMATS

E4M3, E2M1 = FORMATS["float8_e4m3fn"], FORMATS["float4_e2m1fn"]


def _packed_torch() -> torch.Tensor:
    return torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


ERRORS = [
    (lambda: E2M1.decode(np.array([[1, 0x2F]])), FormatError, r"codes: got 0x2f at \(0, 1\), need at most 0xf"),
    (lambda: E2M1.decode(np.array([0x2F], np.uint8)), FormatError, "packed codes go through unpack first"),
    (lambda: E4M3.decode(np.zeros(1, np.float32)), FormatError, "codes: got float32, need uint8 or float8_e4m3fn"),
    (lambda: E4M3.decode([-1]), FormatError, "got -0x1"),
    (lambda: E4M3.encode(np.zeros(1, np.complex64)), FormatError, "values: got complex64, need float64"),
    (lambda: E4M3.encode([[1], [1, 2]]), InputError, "values: got a list without one shape"),
    (lambda: E4M3.encode(np.ma.array([1.0, 2.0], mask=[0, 1])), InputError, "values: got a masked array"),
    (lambda: E4M3.encode(torch.eye(2).to_sparse()), InputError, "values: got a tensor of torch.sparse_coo"),
    (lambda: E4M3.encode(torch.ones(2, device="meta")), InputError, "values: got a tensor on meta"),
    (lambda: E4M3.encode(_packed_torch()), FormatError, "values: got float4_e2m1fn_x2, two codes a byte"),
    (lambda: E2M1.decode(_packed_torch()), FormatError, "codes: got float4_e2m1fn_x2, two codes a byte"),
    (lambda: E4M3.encode(np.array([2**53 + 1])), FormatError, r"need integers within 2\*\*53"),
    (lambda: E4M3.ulp("a"), FormatError, "values: got <U1"),
    (lambda: E4M3.encode(np.array([2**60])), FormatError, r"need integers within 2\*\*53"),
    (lambda: E4M3.encode(1.0, "nearest"), UnknownNameError, "nearest_even"),
    (lambda: E4M3.encode(1.0, overflow="inf"), FormatError, "need 'saturate' or 'nan' .float8_e4m3fn has no infinity"),
    (lambda: E2M1.encode(1.0, overflow="inf"), FormatError, "need 'saturate' .float4_e2m1fn has no infinity"),
    (lambda: E2M1.encode(1.0, overflow="nan"), FormatError, "float4_e2m1fn has no NaN"),
    (lambda: E2M1.encode(1.0, nan="quiet"), FormatError, "need a code, or None"),
    (lambda: E2M1.encode(1.0, nan=16), FormatError, "need a code below 0x10"),
    (lambda: E4M3.encode(1.0, nan="nan"), UnknownNameError, "nan: got 'nan'"),
    (lambda: E4M3.encode(1.0, overflow="clamp"), UnknownNameError, "overflow: got 'clamp'"),
    (lambda: E4M3.encode(1.0, "stochastic"), FormatError, "seed: got None"),
    (lambda: E4M3.encode(1.0, seed=1), FormatError, "draws nothing"),
    (lambda: E4M3.encode([1.0], "stochastic", seed=-1), InputError, "need an integer from 0"),
    (lambda: E4M3.encode([1.0], "stochastic", seed=1.5), InputError, "seed: got 1.5"),
    (lambda: E4M3.encode([1.0], "stochastic", seed="1"), InputError, "seed: got '1'"),
    (lambda: E4M3.encode([1.0], "stochastic", seed=True), InputError, "seed: got True"),
    (lambda: E4M3.encode(1.0, []), UnknownNameError, r"rounding: got \[\], need one of"),
    (lambda: E4M3.encode(1.0, convention="cud"), UnknownNameError, "cuda"),
    (lambda: E4M3.encode(1.0, "up", convention="cuda"), FormatError, "no other rule beside a convention"),
    (lambda: FORMATS["float32"].encode(1.0, convention="cuda"), FormatError, "format: got float32, need one of"),
    (lambda: E2M1.encode([1, np.nan], convention="gfloat"), FormatError, r"values: got NaN at \(1,\), need none"),
    (lambda: E2M1.encode([np.inf], convention="microxcaling"), FormatError, "an infinity"),
    (lambda: E2M1.encode([1, 1e39], convention="microxcaling"), FormatError, r"an infinity at \(1,\)"),
    (lambda: E2M1.encode([1e39] * 40000, convention="microxcaling"), FormatError, r"an infinity at \(0,\)"),
]


@pytest.mark.parametrize(("call", "error", "words"), ERRORS, ids=[words for *_, words in ERRORS])
def test_errors_say_what_came_and_what_is_needed(call, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        call()
