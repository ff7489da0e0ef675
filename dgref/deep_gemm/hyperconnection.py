"""The HyperConnection pre-norm."""

from __future__ import annotations

import torch

from dgref import reference
from dgref.annotations import explained
from dgref.deep_gemm.arguments import Matrix
from dgref.deep_gemm.operands import check_shape, check_writable, no_kernel
from dgref.deep_gemm.settings import SETTINGS
from dgref.errors import FormatError, expected
from dgref.formats.native import like, to_numpy

_DTYPES = {"a": torch.bfloat16, "b": torch.float32, "d": torch.float32, "sqr_sum": torch.float32}


@explained
def tf32_hc_prenorm_gemm(
    a: Matrix, b: Matrix, d: torch.Tensor, sqr_sum: torch.Tensor, num_splits: int | None = None
) -> None:
    """Write a[m, k] @ b[n, k].T into d and the sums over k of a squared into sqr_sum[m].

    With `num_splits` both have a leading axis of contiguous parts of K. `b` is rounded to TF32, to nearest even.
    """
    tensors = {"a": a, "b": b, "d": d, "sqr_sum": sqr_sum}
    for name, dtype in _DTYPES.items():
        if tensors[name].dtype != dtype:
            raise FormatError(expected(name, tensors[name].dtype, dtype))
    if d.is_cuda:
        raise no_kernel()
    lead = () if num_splits is None else (num_splits,)
    shapes = {"d": (*lead, a.shape[0], b.shape[0]), "sqr_sum": (*lead, a.shape[0])}
    for name, shape in shapes.items():
        check_shape(name, tensors[name], shape)
        check_writable(name, tensors[name])
    arithmetic = SETTINGS.arithmetic_of("hc_prenorm")
    result = reference.hc_prenorm(to_numpy(a), to_numpy(b), num_splits=num_splits, arithmetic=arithmetic)
    for name in shapes:
        tensors[name].detach().copy_(like(result[name], d))
