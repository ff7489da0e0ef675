"""Names, argument names, their order and defaults are DeepGEMM 2.6.1's (csrc/apis/*.hpp, deep_gemm/**/*.py)."""

from __future__ import annotations

import inspect
from functools import reduce

import pytest

import dgref.deep_gemm as deep_gemm

_GEMM = "(a, b, d, c=None, recipe=None, recipe_a=None, recipe_b=None, compiled_dims='{}', disable_ue8m0_cast=False)"
_PLAIN = "(a, b, d, c=None, compiled_dims='{}')"
_ROWS = (
    "(a, b, d, grouped_layout, recipe=None, recipe_a=None, recipe_b=None, compiled_dims='nk', "
    "disable_ue8m0_cast=False, use_psum_layout=False, ensure_zero_padding=True{})"
)
_ROWS_PLAIN = "(a, b, d, grouped_layout, compiled_dims='nk', use_psum_layout=False, ensure_zero_padding=True{})"
_PSUM = ", expected_m_for_psum_layout=None"
_MASKED = (
    "(a, b, d, masked_m, expected_m, recipe=None, recipe_a=None, recipe_b=None, compiled_dims='nk', "
    "disable_ue8m0_cast=False)"
)
_K = "(a, b, d, ks_cpu, grouped_layout, c=None, recipe=(1, 1, 128), compiled_dims='mn', use_psum_layout=False)"
_CAST = "(x, use_ue8m0, gran_k=128{})"
_ACTIVATION = "activation='swiglu', activation_clamp=None, fast_math=True)"

SIGNATURES = {
    **{f"fp8_fp4_gemm_{t}": _GEMM.format(d) for t, d in (("nt", "nk"), ("nn", "nk"), ("tn", "mn"), ("tt", "mn"))},
    **{f"fp8_gemm_{t}": _GEMM.format(d) for t, d in (("nt", "nk"), ("nn", "nk"), ("tn", "mn"), ("tt", "mn"))},
    **{f"bf16_gemm_{t}": _PLAIN.format(d) for t, d in (("nt", "nk"), ("nn", "nk"), ("tn", "mn"), ("tt", "mn"))},
    **{f"cublaslt_gemm_{t}": "(a, b, d, c=None)" for t in ("nt", "nn", "tn", "tt")},
    "fp8_gemm_nt_skip_head_mid": ("(a, b, d, head_splits, recipe=None, compiled_dims='nk', disable_ue8m0_cast=False)"),
    "m_grouped_fp8_fp4_gemm_nt_contiguous": _ROWS.format(_PSUM),
    "m_grouped_fp8_fp4_gemm_nn_contiguous": _ROWS.format(""),
    "m_grouped_fp8_gemm_nt_contiguous": _ROWS.format(_PSUM),
    "m_grouped_fp8_gemm_nn_contiguous": _ROWS.format(""),
    "m_grouped_bf16_gemm_nt_contiguous": _ROWS_PLAIN.format(_PSUM),
    "m_grouped_bf16_gemm_nn_contiguous": _ROWS_PLAIN.format(""),
    "m_grouped_fp8_fp4_gemm_nt_masked": _MASKED,
    "m_grouped_fp8_gemm_nt_masked": _MASKED,
    "fp8_m_grouped_gemm_nt_masked": _MASKED,
    "m_grouped_bf16_gemm_nt_masked": "(a, b, d, masked_m, expected_m, compiled_dims='nk')",
    "bf16_m_grouped_gemm_nt_masked": "(a, b, d, masked_m, expected_m, compiled_dims='nk')",
    "k_grouped_fp8_gemm_tn_contiguous": _K,
    "k_grouped_fp8_gemm_nt_contiguous": _K,
    "k_grouped_bf16_gemm_tn_contiguous": (
        "(a, b, d, ks_cpu, grouped_layout, c=None, compiled_dims='mn', use_psum_layout=False)"
    ),
    "einsum": "(expr, a, b, d, c=None, use_cublaslt=False)",
    "fp8_einsum": "(expr, a, b, d, c=None, recipe=(1, 128, 128))",
    "fp8_fp4_mqa_logits": (
        "(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, clean_logits=True, max_seqlen_k=0, "
        "logits_dtype=torch.float32)"
    ),
    "fp8_mqa_logits": ("(q, kv, weights, cu_seq_len_k_start, cu_seq_len_k_end, clean_logits=True, max_seqlen_k=0)"),
    "get_paged_mqa_logits_metadata": "(context_lens, block_kv, num_sms, indices=None)",
    "fp8_fp4_paged_mqa_logits": (
        "(q, kv_cache, weights, context_lens, block_table, schedule_meta, max_context_len, clean_logits=False, "
        "logits_dtype=torch.float32, indices=None)"
    ),
    "fp8_paged_mqa_logits": (
        "(q, kv_cache, weights, context_lens, block_table, schedule_meta, max_context_len, clean_logits=False, "
        "indices=None)"
    ),
    "tf32_hc_prenorm_gemm": "(a, b, d, sqr_sum, num_splits=None)",
    "transform_sf_into_required_layout": (
        "(sf, mn, k, recipe, num_groups=None, is_sfa=None, disable_ue8m0_cast=False, psum_layout=None)"
    ),
    "get_tma_aligned_size": "(x, element_size)",
    "get_mn_major_tma_aligned_tensor": "(sf)",
    "get_mn_major_tma_aligned_packed_ue8m0_tensor": "(sf, psum_layout=None)",
    "get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor": (
        "(sf, grouped_layout, ks_cpu, gran_k, k_alignment, use_psum_layout=False)"
    ),
    "get_theoretical_mk_alignment_for_contiguous_layout": "(expected_m=None)",
    "get_mk_alignment_for_contiguous_layout": "()",
    "set_mk_alignment_for_contiguous_layout": "(new_value)",
    "set_num_sms": "(new_num_sms)",
    "set_tc_util": "(new_tc_util)",
    "set_pdl": "(new_enable_pdl)",
    "set_ignore_compile_dims": "(new_value)",
    "set_block_size_multiple_of": "(new_value)",
    **{f"get_{name}": "()" for name in ("num_sms", "tc_util", "pdl")},
    "utils.per_token_cast_to_fp8": _CAST.format(", use_packed_ue8m0=False"),
    "utils.per_token_cast_to_fp4": _CAST.format(", use_packed_ue8m0=False"),
    "utils.per_channel_cast_to_fp8": _CAST.format(""),
    "utils.per_block_cast_to_fp8": _CAST.format(""),
    "utils.per_custom_dims_cast_to_fp8": "(x, dims, use_ue8m0)",
    "utils.cast_back_from_fp4": "(packed, sf, gran_k=128, use_packed_ue8m0=False)",
    "utils.transpose_packed_fp4": "(a)",
    "utils.ceil_div": "(x, y)",
    "utils.align": "(x, y)",
    "utils.math.ceil_to_ue8m0": "(x)",
    "utils.math.pack_ue8m0_to_int": "(x)",
    "utils.math.unpack_ue8m0_from_int": "(packed_sf)",
    "utils.layout.get_m_alignment_for_contiguous_layout": "()",
    "utils.dist.init_dist": "(local_rank, num_local_ranks)",
    "utils.dist.uneven_all_gather": "(tensor, dim=0, group=None)",
    "utils.dist.dist_print": "(s='', once_in_node=False)",
    "testing.calc_diff": "(x, y)",
    "testing.count_bytes": "(*tensors)",
    "testing.assert_bitwise_equal": "(x, y, label='')",
    "testing.bench": "(fn, num_warmups=5, num_tests=10, high_precision=False)",
    "testing.bench_kineto": (
        "(fn, kernel_names, num_tests=30, suppress_kineto_output=False, trace_path=None, flush_l2=True, "
        "with_multiple_kernels=False, barrier=None)"
    ),
    "testing.get_arch_major": "()",
    "testing.test_filter": "(condition)",
    "testing.ignore_env": "(name, condition)",
    "get_symm_buffer_for_mega_moe": (
        "(group, num_experts, num_max_tokens_per_rank, num_topk, hidden, intermediate_hidden, use_fp8_dispatch=None, "
        "mma_type='fp8xfp4', activation='swiglu')"
    ),
    "SymmBuffer": (
        "(group, num_experts, num_max_tokens_per_rank, num_topk, hidden, intermediate_hidden, num_ring_tokens, "
        "mma_type='fp8xfp4', activation='swiglu')"
    ),
    "transform_weights_for_mega_moe": "(l1_weights, l2_weights, activation='swiglu')",
    "fp8_fp4_mega_moe": (
        "(y, l1_weights, l2_weights, sym_buffer, cumulative_local_expert_recv_stats=None, recipe=(1, 1, 32), "
        + _ACTIVATION
    ),
    "bf16_mega_moe": "(y, l1_weights, l2_weights, sym_buffer, cumulative_local_expert_recv_stats=None, " + _ACTIVATION,
    "legacy.m_grouped_bf16_gemm_nt_contiguous_tl": "(a, b, d, m_indices)",
    "legacy.m_grouped_bf16_gemm_nn_contiguous_tl": "(a, b, d, m_indices)",
    "legacy.a_fused_m_grouped_bf16_gemm_nt_contiguous_tl": "(a, b, d, mappings)",
    "legacy.a_fused_m_grouped_bf16_gemm_nn_contiguous_tl": "(a, b, d, mappings)",
    "legacy.a_fused_k_grouped_bf16_gemm_tn_contiguous_tl": "(a, b, d, handle, acc)",
    "legacy.b_fused_k_grouped_bf16_gemm_tn_contiguous_tl": "(a, b, d, handle, acc)",
}


def _without_annotations(function: object) -> str:
    signature = inspect.signature(function)
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize(("name", "signature"), SIGNATURES.items())
def test_signature_is_deep_gemms(name: str, signature: str) -> None:
    assert _without_annotations(reduce(getattr, name.split("."), deep_gemm)) == signature


def test_every_public_function_has_its_signature_here() -> None:
    known = {name.rsplit(".", 1)[-1] for name in SIGNATURES} | {"configure", "install", "uninstall"}
    known |= {"get_k_alignment_for_contiguous_layout"}  # the same function as get_m_alignment_…
    functions = {name for name in deep_gemm.__all__ if callable(getattr(deep_gemm, name))}
    assert functions <= known


def test_aliases_are_the_same_functions_under_names_of_their_own() -> None:
    one, other = deep_gemm.m_grouped_fp8_gemm_nt_masked, deep_gemm.fp8_m_grouped_gemm_nt_masked
    assert deep_gemm.fp8_gemm_tt.__wrapped__ is deep_gemm.fp8_fp4_gemm_tt.__wrapped__
    assert one.__wrapped__ is other.__wrapped__
    functions = [name for name in deep_gemm.__all__ if hasattr(getattr(deep_gemm, name), "__wrapped__")]
    odd = [name for name in functions if getattr(deep_gemm, name).__name__ != name]
    assert len(functions) > 30 and odd == []
    assert deep_gemm.utils.get_k_alignment_for_contiguous_layout is deep_gemm.get_mk_alignment_for_contiguous_layout


@pytest.mark.parametrize("name", [name for name in deep_gemm.__all__ if callable(getattr(deep_gemm, name))])
def test_every_public_function_says_what_it_does(name: str) -> None:
    assert getattr(deep_gemm, name).__doc__
