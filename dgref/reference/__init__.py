"""What the right answer is: one function for each operation, exact or under the arithmetic of an implementation.

Imported eagerly, because a function and the module it lives in may share a name (`reference.gemm` is the function).
"""

from dgref.reference.gemm import gemm
from dgref.reference.grouped import (
    check_group_labels,
    gemm_grouped_contiguous,
    gemm_grouped_k,
    gemm_grouped_masked,
)

__all__ = [
    "check_group_labels",
    "gemm",
    "gemm_grouped_contiguous",
    "gemm_grouped_k",
    "gemm_grouped_masked",
]
