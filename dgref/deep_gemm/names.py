"""What serves each public name of DeepGEMM: the table of `docs/deep_gemm.md` (`python -m dgref.deep_gemm --names`)."""

from __future__ import annotations

from dataclasses import dataclass

NOT_YET = "not yet"
_GEMM = "`reference.gemm`"
_ROWS = "`reference.gemm_grouped_contiguous`"
_MASKED = "`reference.gemm_grouped_masked`"
_K = "`reference.gemm_grouped_k`"


@dataclass(frozen=True)
class Family:
    """Names that one thing serves, on the CPU and on a Hopper GPU."""

    names: str
    cpu: str
    sm90: str

    @property
    def split(self) -> list[str]:
        return self.names.split()


_SETTING = "a setting"
_FLOATS = "FP8 kernel, b in FP8 or FP4; FP32 scales of 1x128 by 128x128 (FP8), 1x128 or 1x32; words for FP4"
FAMILIES = (
    Family(
        "fp8_fp4_gemm_nt fp8_fp4_gemm_nn fp8_fp4_gemm_tn fp8_fp4_gemm_tt "
        "fp8_gemm_nt fp8_gemm_nn fp8_gemm_tn fp8_gemm_tt",
        _GEMM,
        _FLOATS,
    ),
    Family("fp8_gemm_nt_skip_head_mid", f"{_GEMM}, `head_splits`", "FP8 kernel; FP32 scales"),
    Family("bf16_gemm_nt bf16_gemm_nn bf16_gemm_tn bf16_gemm_tt", _GEMM, "BF16 kernel"),
    Family(
        "cublaslt_gemm_nt cublaslt_gemm_nn cublaslt_gemm_tn cublaslt_gemm_tt",
        f"{_GEMM}, BF16 or bare FP8",
        "BF16 kernel of dgref's: cuBLASLt is not called",
    ),
    Family(
        "m_grouped_fp8_fp4_gemm_nt_contiguous m_grouped_fp8_fp4_gemm_nn_contiguous m_grouped_fp8_gemm_nt_contiguous "
        "m_grouped_fp8_gemm_nn_contiguous",
        _ROWS,
        _FLOATS,
    ),
    Family("m_grouped_bf16_gemm_nt_contiguous m_grouped_bf16_gemm_nn_contiguous", _ROWS, "BF16 kernel"),
    Family(
        "m_grouped_fp8_fp4_gemm_nt_masked m_grouped_fp8_gemm_nt_masked fp8_m_grouped_gemm_nt_masked", _MASKED, _FLOATS
    ),
    Family("m_grouped_bf16_gemm_nt_masked bf16_m_grouped_gemm_nt_masked", _MASKED, "BF16 kernel"),
    Family("k_grouped_fp8_gemm_nt_contiguous", _K, "FP8 kernel"),
    Family("k_grouped_fp8_gemm_tn_contiguous", _K, "FP8 kernel, after a transposing one; FP32 scales per 128 of K"),
    Family("k_grouped_bf16_gemm_tn_contiguous", _K, "BF16 kernel"),
    Family("einsum fp8_einsum", "`reference.einsum`", NOT_YET),
    Family("fp8_fp4_mqa_logits fp8_mqa_logits", "`reference.mqa_logits`", NOT_YET),
    Family("fp8_fp4_paged_mqa_logits fp8_paged_mqa_logits", "`reference.paged_mqa_logits`", NOT_YET),
    Family("get_paged_mqa_logits_metadata", "`reference.paged_mqa_metadata`", NOT_YET),
    Family("tf32_hc_prenorm_gemm", "`reference.hc_prenorm`", NOT_YET),
    Family(
        "fp8_fp4_mega_moe bf16_mega_moe get_symm_buffer_for_mega_moe SymmBuffer",
        "`reference.mega_moe`, one rank",
        f"{NOT_YET}: nor has DeepGEMM one for Hopper",
    ),
    Family("transform_weights_for_mega_moe", "`LAYOUTS` rows", "torch gathers"),
    Family(
        "transform_sf_into_required_layout get_mn_major_tma_aligned_tensor "
        "get_mn_major_tma_aligned_packed_ue8m0_tensor get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor",
        "`reference.scales_*`",
        "scale-layout kernels",
    ),
    Family(
        "per_token_cast_to_fp8 per_channel_cast_to_fp8 per_block_cast_to_fp8 per_custom_dims_cast_to_fp8 "
        "per_token_cast_to_fp4 transpose_packed_fp4 cast_back_from_fp4 ceil_to_ue8m0 pack_ue8m0_to_int "
        "unpack_ue8m0_from_int",
        "torch operations",
        "torch operations",
    ),
    Family("ceil_div align get_tma_aligned_size", "arithmetic", "arithmetic"),
    Family(
        "set_mk_alignment_for_contiguous_layout get_mk_alignment_for_contiguous_layout "
        "get_m_alignment_for_contiguous_layout get_k_alignment_for_contiguous_layout "
        "get_theoretical_mk_alignment_for_contiguous_layout",
        _SETTING,
        _SETTING,
    ),
    Family("set_num_sms get_num_sms", f"{_SETTING} of schedules", f"{_SETTING} of schedules and GEMM kernels"),
    Family("set_pdl get_pdl", "kept; results never depend on it", "programmatic dependent launch of GEMM kernels"),
    Family(
        "set_tc_util get_tc_util set_ignore_compile_dims set_block_size_multiple_of",
        "kept; results never depend on it",
        "kept; kernels configure themselves",
    ),
    Family("init_dist uneven_all_gather", "Gloo", "NCCL"),
    Family("testing utils legacy mega", "modules", "modules; legacy kernels as far as grouped BF16 goes"),
)


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| name | on CPU tensors | on CUDA tensors (sm90) |", "|---|---|---|"]
    lines += [f"| {', '.join(f'`{name}`' for name in row.split)} | {row.cpu} | {row.sm90} |" for row in FAMILIES]
    return "\n".join(lines)
