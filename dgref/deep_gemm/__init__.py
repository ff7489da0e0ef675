"""A drop-in for DeepGEMM 2.6: its names, signatures and semantics, on references and kernels whose every bit is known.

On CPU tensors everything runs on dgref's references, adding up as DeepGEMM's own kernels do (`configure` chooses which
ones, or exactly). On CUDA tensors the calls that dgref has kernels for run on them, and any other call is an error:
nothing is ever copied to the CPU in silence. `install()` makes `import deep_gemm` resolve to this package.
"""

# ruff: noqa: F401, F403 - __all__ is the table of names

from dgref.deep_gemm import legacy, mega, testing, utils
from dgref.deep_gemm.attention import (
    fp8_fp4_mqa_logits,
    fp8_fp4_paged_mqa_logits,
    fp8_mqa_logits,
    fp8_paged_mqa_logits,
    get_paged_mqa_logits_metadata,
)
from dgref.deep_gemm.dense import (
    bf16_gemm_nn,
    bf16_gemm_nt,
    bf16_gemm_tn,
    bf16_gemm_tt,
    cublaslt_gemm_nn,
    cublaslt_gemm_nt,
    cublaslt_gemm_tn,
    cublaslt_gemm_tt,
    fp8_fp4_gemm_nn,
    fp8_fp4_gemm_nt,
    fp8_fp4_gemm_tn,
    fp8_fp4_gemm_tt,
    fp8_gemm_nn,
    fp8_gemm_nt,
    fp8_gemm_nt_skip_head_mid,
    fp8_gemm_tn,
    fp8_gemm_tt,
)
from dgref.deep_gemm.einsum import einsum, fp8_einsum
from dgref.deep_gemm.grouped import (
    bf16_m_grouped_gemm_nt_masked,
    fp8_m_grouped_gemm_nt_masked,
    m_grouped_bf16_gemm_nn_contiguous,
    m_grouped_bf16_gemm_nt_contiguous,
    m_grouped_bf16_gemm_nt_masked,
    m_grouped_fp8_fp4_gemm_nn_contiguous,
    m_grouped_fp8_fp4_gemm_nt_contiguous,
    m_grouped_fp8_fp4_gemm_nt_masked,
    m_grouped_fp8_gemm_nn_contiguous,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
)
from dgref.deep_gemm.hyperconnection import tf32_hc_prenorm_gemm
from dgref.deep_gemm.installation import install, uninstall
from dgref.deep_gemm.k_grouped import (
    k_grouped_bf16_gemm_tn_contiguous,
    k_grouped_fp8_gemm_nt_contiguous,
    k_grouped_fp8_gemm_tn_contiguous,
)
from dgref.deep_gemm.mega import (
    SymmBuffer,
    bf16_mega_moe,
    fp8_fp4_mega_moe,
    get_symm_buffer_for_mega_moe,
    transform_weights_for_mega_moe,
)
from dgref.deep_gemm.names import FAMILIES
from dgref.deep_gemm.scales import transform_sf_into_required_layout
from dgref.deep_gemm.settings import (
    configure,
    get_num_sms,
    get_pdl,
    get_tc_util,
    set_block_size_multiple_of,
    set_ignore_compile_dims,
    set_num_sms,
    set_pdl,
    set_tc_util,
)
from dgref.deep_gemm.utils import *

__version__ = "2.6.1"  # of the DeepGEMM whose surface this is
__all__ = ["configure", "install", "uninstall", *(name for row in FAMILIES for name in row.split)]
