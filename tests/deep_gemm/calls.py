"""A valid call of every function that takes tensors, as keyword arguments: what tests of errors spoil."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import dgref.deep_gemm as deep_gemm

GROUPS, M, N, K = 2, 6, 8, 256
SIZES = [128, 256]  # of groups of K
Arguments = dict[str, Any]


def bf16(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.bfloat16)


def fp8(rows: int, block: int = 1, groups: int | None = None, k: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    lead = () if groups is None else (groups,)
    grid = (-(-rows // block), k // 128)
    return torch.ones(*lead, rows, k).to(torch.float8_e4m3fn), torch.ones(*lead, *grid)


def index(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def turned(operand: Any) -> Any:
    return tuple(map(turned, operand)) if isinstance(operand, tuple) else operand.mT.contiguous()


def dense(layout: str, scaled: bool) -> Arguments:
    a, b = (fp8(M), fp8(N, 128)) if scaled else (bf16(M, K), bf16(N, K))
    d = torch.zeros(M, N)
    options = {"recipe": (1, 128, 128)} if scaled else {}
    return {
        "a": turned(a) if layout[0] == "t" else a,
        "b": turned(b) if layout[1] == "n" else b,
        "d": d,
        "c": d,
        **options,
    }


def contiguous(layout: str, scaled: bool) -> Arguments:
    a, b = (fp8(M), fp8(N, 128, GROUPS)) if scaled else (bf16(M, K), bf16(GROUPS, N, K))
    options = {"recipe": (1, 128, 128)} if scaled else {}
    labels = index(0, 0, 0, 1, 1, -1)
    return {
        "a": a,
        "b": turned(b) if layout == "nn" else b,
        "d": torch.zeros(M, N),
        "grouped_layout": labels,
        **options,
    }


def prefix_sums(layout: str, scaled: bool) -> Arguments:
    return contiguous(layout, scaled) | {"grouped_layout": index(3, 6), "use_psum_layout": True}


def masked(scaled: bool) -> Arguments:
    a, b = (fp8(M, 1, GROUPS), fp8(N, 128, GROUPS)) if scaled else (bf16(GROUPS, M, K), bf16(GROUPS, N, K))
    options = {"recipe": (1, 128, 128)} if scaled else {}
    return {"a": a, "b": b, "d": torch.zeros(GROUPS, M, N), "masked_m": index(3, 6), "expected_m": 4, **options}


def k_grouped(form: str) -> Arguments:
    k, blocks = sum(SIZES), sum(SIZES) // 128
    a, b = bf16(k, M), bf16(k, N)
    if form == "fp8_tn":
        a, b = ((t.to(torch.float8_e4m3fn), torch.ones(blocks, t.shape[1])) for t in (a, b))
    if form == "fp8_nt":
        a, b = ((t.to(torch.float8_e4m3fn).flatten(), torch.ones(t.shape[1], blocks)) for t in (a, b))
    recipe = {} if form == "bf16_tn" else {"recipe": (1, 1, 128)}
    d = torch.zeros(GROUPS, M, N)
    return {"a": a, "b": b, "d": d, "ks_cpu": list(SIZES), "grouped_layout": index(*SIZES), "c": d, **recipe}


def logits() -> Arguments:
    query = torch.ones(M, 32, 64).to(torch.float8_e4m3fn)
    keys = (torch.ones(20, 64).to(torch.float8_e4m3fn), torch.ones(20))
    rows = {"cu_seq_len_k_start": index(*[0] * M), "cu_seq_len_k_end": index(*[20] * M)}
    return {"q": query, "kv": keys, "weights": torch.ones(M, 32), **rows, "max_seqlen_k": 0}


def paged() -> Arguments:
    return {
        "q": torch.ones(2, 1, 32, 64).to(torch.float8_e4m3fn),
        "kv_cache": torch.zeros(3, 64, 1, 68, dtype=torch.uint8),
        "weights": torch.ones(2, 32),
        "context_lens": index([5], [64]),
        "block_table": index([0], [2]),
        "schedule_meta": torch.zeros(deep_gemm.get_num_sms() + 1, 2, dtype=torch.int32),
        "max_context_len": 64,
    }


def scaled_einsum() -> Arguments:
    a = (torch.ones(M, 2, K).to(torch.float8_e4m3fn), torch.ones(M, 2, K // 128))
    b = (torch.ones(2, 128, K).to(torch.float8_e4m3fn), torch.ones(2, 1, K // 128))
    d = torch.zeros(M, 2, 128)
    return {"expr": "bhr,hdr->bhd", "a": a, "b": b, "d": d, "c": d, "recipe": (1, 128, 128)}


def plain_einsum() -> Arguments:
    d = torch.zeros(M, 2, 16)
    return {"expr": "bhr,hdr->bhd", "a": bf16(M, 2, 32), "b": bf16(2, 16, 32), "d": d, "c": d}


def packed_k_scales() -> Arguments:
    sizes = {"grouped_layout": index(*SIZES), "ks_cpu": list(SIZES)}
    return {"sf": torch.ones(3, M), **sizes, "gran_k": 128, "k_alignment": 128}


class Alone:
    """A process group of one."""

    def size(self) -> int:
        return 1


def mega(kind: str) -> Arguments:
    buffer = deep_gemm.get_symm_buffer_for_mega_moe(Alone(), 4, 7, 2, 256, 128, mma_type=kind)
    l1, l2 = bf16(4, 256, 256), bf16(4, 256, 128)
    if kind == "fp8xfp4":
        l1, l2 = (
            (w[..., ::2].to(torch.int8), torch.zeros(4, w.shape[1], w.shape[2] // 128, dtype=torch.int32))
            for w in (l1, l2)
        )
    return {"y": bf16(7, 256), "l1_weights": l1, "l2_weights": l2, "sym_buffer": buffer}


def mega_weights() -> Arguments:
    words = torch.zeros(4, 256, 2, dtype=torch.int32)
    weights = (torch.zeros(4, 256, 128, dtype=torch.int8), words)
    return {"l1_weights": weights, "l2_weights": weights}


def legacy(name: str) -> Arguments:
    if "k_grouped" in name:
        handle = (index(*range(24)), index(0, 8), index(8, 24))
        return {"a": bf16(24, M), "b": bf16(24, N), "d": torch.zeros(2, M, N), "handle": handle, "acc": True}
    labels = index(0, 0, 0, 1, 1, -1)
    b = bf16(GROUPS, K, N) if "_nn_" in name else bf16(GROUPS, N, K)
    more = {"mappings": (labels, index(5, 4, 3, 2, 1, 0))} if "fused" in name else {"m_indices": labels}
    return {"a": bf16(M, K), "b": b, "d": torch.zeros(M, N), **more}


_LAYOUTS = ("nt", "nn", "tn", "tt")
_PRENORM = {"a": (M, 32), "b": (N, 32), "d": (M, N), "sqr_sum": (M,)}

CALLS: dict[str, Callable[[], Arguments]] = {
    **{f"fp8_fp4_gemm_{t}": (lambda t=t: dense(t, True)) for t in _LAYOUTS},
    **{f"bf16_gemm_{t}": (lambda t=t: dense(t, False)) for t in _LAYOUTS},
    **{f"cublaslt_gemm_{t}": (lambda t=t: dense(t, False)) for t in _LAYOUTS},
    "fp8_gemm_nt_skip_head_mid": lambda: {
        "a": fp8(M),
        "b": fp8(N, 128),
        "d": torch.zeros(M, N + 4),
        "head_splits": (4, 4, 4),
        "recipe": (1, 128, 128),
    },
    **{f"m_grouped_fp8_fp4_gemm_{t}_contiguous": (lambda t=t: contiguous(t, True)) for t in ("nt", "nn")},
    **{f"m_grouped_bf16_gemm_{t}_contiguous": (lambda t=t: prefix_sums(t, False)) for t in ("nt", "nn")},
    "m_grouped_fp8_fp4_gemm_nt_masked": lambda: masked(True),
    "m_grouped_bf16_gemm_nt_masked": lambda: masked(False),
    **{
        f"k_grouped_{kind}_gemm_{t}_contiguous": (lambda form=f"{kind}_{t}": k_grouped(form))
        for kind, t in (("fp8", "tn"), ("fp8", "nt"), ("bf16", "tn"))
    },
    "einsum": plain_einsum,
    "fp8_einsum": scaled_einsum,
    "fp8_mqa_logits": logits,
    "fp8_fp4_mqa_logits": lambda: logits() | {"q": (logits()["q"], None)},
    "get_paged_mqa_logits_metadata": lambda: {"context_lens": index([5], [64]), "block_kv": 64, "num_sms": 4},
    "fp8_paged_mqa_logits": paged,
    "fp8_fp4_paged_mqa_logits": lambda: paged() | {"q": (paged()["q"], None)},
    "tf32_hc_prenorm_gemm": lambda: (
        {name: bf16(*shape) if name == "a" else torch.zeros(shape) for name, shape in _PRENORM.items()}
        | {"num_splits": None}
    ),
    "fp8_fp4_mega_moe": lambda: mega("fp8xfp4"),
    "bf16_mega_moe": lambda: mega("bf16xbf16"),
    "transform_weights_for_mega_moe": mega_weights,
    **{f"legacy.{name}": (lambda name=name: legacy(name)) for name in deep_gemm.legacy.__all__},
    "transform_sf_into_required_layout": lambda: {
        "sf": torch.ones(M, 2),
        "mn": M,
        "k": K,
        "recipe": (1, 128),
        "num_groups": None,
    },
    "get_mn_major_tma_aligned_tensor": lambda: {"sf": torch.ones(M, 2)},
    "get_mn_major_tma_aligned_packed_ue8m0_tensor": lambda: {"sf": torch.ones(M, 2), "psum_layout": None},
    "get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor": packed_k_scales,
    "get_tma_aligned_size": lambda: {"x": 5, "element_size": 4},
    "get_theoretical_mk_alignment_for_contiguous_layout": lambda: {"expected_m": 5},
    **{
        f"per_{kind}_cast_to_fp8": (lambda: {"x": bf16(128, 128), "use_ue8m0": True, "gran_k": 128})
        for kind in ("token", "channel", "block")
    },
    "per_custom_dims_cast_to_fp8": lambda: {"x": bf16(4, 8), "dims": (0,), "use_ue8m0": False},
    "per_token_cast_to_fp4": lambda: {"x": bf16(4, 64), "use_ue8m0": True, "gran_k": 32, "use_packed_ue8m0": True},
    "cast_back_from_fp4": lambda: {
        "packed": torch.zeros(4, 32, dtype=torch.int8),
        "sf": torch.ones(4, 2),
        "gran_k": 32,
    },
    "transpose_packed_fp4": lambda: {"a": torch.zeros(4, 32, dtype=torch.int8)},
    "ceil_to_ue8m0": lambda: {"x": torch.ones(4)},
    "pack_ue8m0_to_int": lambda: {"x": torch.ones(3, 4)},
    "unpack_ue8m0_from_int": lambda: {"packed_sf": torch.ones(3, dtype=torch.int32)},
}
