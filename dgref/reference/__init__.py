"""What the right answer is: one function for each operation, exact or under the arithmetic of an implementation.

Imported eagerly, because a function and the module it lives in may share a name (`reference.gemm` is the function).
"""

from dgref.reference.attention import mqa_logits, paged_mqa_logits
from dgref.reference.einsum import einsum
from dgref.reference.gemm import gemm
from dgref.reference.grouped import (
    check_group_labels,
    gemm_grouped_contiguous,
    gemm_grouped_k,
    gemm_grouped_masked,
)
from dgref.reference.hyperconnection import hc_prenorm
from dgref.reference.moe import mega_moe, mega_moe_transform_weights
from dgref.reference.paging import fuse_kv_cache, paged_mqa_metadata, split_kv_cache
from dgref.reference.scale_transforms import (
    contiguous_alignment,
    scales_mn_major,
    scales_packed,
    scales_packed_k_grouped,
    scales_required,
    tma_aligned_size,
)

__all__ = [
    "check_group_labels",
    "contiguous_alignment",
    "einsum",
    "fuse_kv_cache",
    "gemm",
    "gemm_grouped_contiguous",
    "gemm_grouped_k",
    "gemm_grouped_masked",
    "hc_prenorm",
    "mega_moe",
    "mega_moe_transform_weights",
    "mqa_logits",
    "paged_mqa_logits",
    "paged_mqa_metadata",
    "scales_mn_major",
    "scales_packed",
    "scales_packed_k_grouped",
    "scales_required",
    "split_kv_cache",
    "tma_aligned_size",
]
