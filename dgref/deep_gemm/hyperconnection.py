"""The HyperConnection pre-norm."""

from __future__ import annotations

import torch

from dgref import reference
from dgref.deep_gemm.operands import check_shape, no_kernel
from dgref.deep_gemm.settings import SETTINGS
from dgref.errors import FormatError, expected
from dgref.formats.native import like, to_numpy

_DTYPES = {"a": torch.bfloat16, "b": torch.float32, "d": torch.float32, "sqr_sum": torch.float32}


def tf32_hc_prenorm_gemm(a, b, d, sqr_sum, num_splits=None):
    """Write a[m, k] @ b[n, k].T into d and the sums over k of a squared into sqr_sum[m].

    With `num_splits` both have a leading axis of contiguous parts of K. `b` is rounded to TF32, to nearest even.
    """
    tensors = {"a": a, "b": b, "d": d, "sqr_sum": sqr_sum}
    for name, dtype in _DTYPES.items():
        if tensors[name].dtype != dtype:
            raise FormatError(expected(name, tensors[name].dtype, dtype))
    if d.is_cuda:
        raise no_kernel("tf32_hc_prenorm_gemm")
    arithmetic = SETTINGS.arithmetic_of("hc_prenorm")
    result = reference.hc_prenorm(to_numpy(a), to_numpy(b), num_splits=num_splits, arithmetic=arithmetic)
    for name in ("d", "sqr_sum"):
        check_shape(name, tensors[name], result[name].shape)
        tensors[name].copy_(like(result[name], d))
