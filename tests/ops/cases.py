"""One small case or more of every row of the op table; a row without one fails `test_every_row_has_a_case`."""

from __future__ import annotations

from dgref.suite import Case, InputChoice, OperandChoice

GRAN_32 = "dgref.sm90.fp8_fp4"  # promotes every 32 of K, so that it takes scales of 1x32 blocks


def case(
    op: str, shape: dict, recipes=None, params=None, out: str | None = "float32", kind: str = "lossless", seed: int = 3
) -> Case:
    operands = {name: OperandChoice(recipe) for name, recipe in (recipes or {}).items()}
    return Case("x", "a test", op, shape, operands, params or {}, out, InputChoice(kind, seed))


MX = {"a": "mxfp8", "b": "mxfp8"}
GROUPED = dict(g=3, m=40, n=12, k=96)
MQA = dict(s=5, h=64, d=32, t=40)
PAGED = dict(batch=3, next_n=2, h=64, d=32, page=8, max_context_len=20)
MOE = dict(ranks=2, tokens=3, hidden=128, intermediate=64, experts=4, topk=2)
SM90_MQA, HC = "deep_gemm.sm90.mqa_logits", "deep_gemm.sm90.hc_prenorm"

# (case, an arithmetic that gives the exact bits on lossless inputs, or None)
CASES: list[tuple[Case, str | None]] = [
    (case("gemm", dict(m=9, n=12, k=70), MX), GRAN_32),
    (
        case("gemm", dict(m=9, n=12, k=64), {"a": "bfloat16", "b": "bfloat16"}, {"accumulate": True}),
        "deep_gemm.sm90.bf16",
    ),
    (case("gemm", dict(m=4, n=12, k=32), MX, {"head_splits": [2, 3, 4]}), GRAN_32),
    (case("gemm", dict(m=0, n=12, k=32), MX), GRAN_32),
    (case("gemm", dict(m=3, n=5, k=0), MX, {"accumulate": True}), GRAN_32),
    *[
        (case("gemm_grouped_contiguous", GROUPED, MX, {"groups": pattern, "psum": psum, "alignment": 16}), GRAN_32)
        for pattern in ("balanced", "skewed", "empty", "single", "none")
        for psum in (False, True)
    ],
    (case("gemm_grouped_contiguous", GROUPED, MX, {"zero_padding": True, "alignment": 7}), GRAN_32),
    *[(case("gemm_grouped_masked", GROUPED, MX, {"groups": p}), GRAN_32) for p in ("balanced", "empty", "none")],
    (case("gemm_grouped_k", GROUPED, MX, {"alignment": 32}), GRAN_32),
    (case("gemm_grouped_k", GROUPED, MX, {"alignment": 32, "psum": True, "accumulate": True}), GRAN_32),
    (case("gemm_grouped_k", GROUPED, MX, {"alignment": 32, "psum": True, "groups": "none"}), GRAN_32),
    *[
        (case("einsum", dict(batch=3, m=4, n=5, k=64), MX, {"expression": expression, "accumulate": True}), GRAN_32)
        for expression in ("bmk,bnk->mn", "bhr,hdr->bhd", "bhd,hdr->bhr", "bhd,bhr->hdr")
    ],
    (case("mqa_logits", MQA, {"kv": "float8_e4m3fn"}), SM90_MQA),
    (case("mqa_logits", MQA, {"kv": "float8_e4m3fn"}, {"clean": False, "max_seqlen_k": 17}), SM90_MQA),
    (case("mqa_logits", MQA, {"kv": "float8_e4m3fn"}, {"clean": False, "keys": "empty"}, "bfloat16"), SM90_MQA),
    (case("paged_mqa_logits", PAGED, {"kv_cache": "float8_e4m3fn"}), SM90_MQA),
    (case("paged_mqa_logits", PAGED, {"kv_cache": "float8_e4m3fn"}, {"per_token": False, "clean": True}), SM90_MQA),
    (case("paged_mqa_metadata", dict(batch=3, next_n=2, max_context_len=700, num_sms=8), out=None), None),
    (
        case("paged_mqa_metadata", dict(batch=5, next_n=1, max_context_len=700, num_sms=3), params={"ragged": True}),
        None,
    ),
    (case("hc_prenorm", dict(m=5, n=8, k=130)), HC),
    (case("hc_prenorm", dict(m=5, n=8, k=130), params={"num_splits": 2}), HC),
    (case("mega_moe", MOE, params={"routes": "masked", "activation_clamp": 10.0}), None),
    (case("mega_moe", MOE, dict.fromkeys(("x", "l1_weights", "l2_weights"), "bfloat16"), {"routes": "skewed"}), None),
    (case("mega_moe_transform_weights", dict(hidden=128, intermediate=64, experts=2)), None),
    (
        case("mega_moe_transform_weights", dict(hidden=128, intermediate=64, experts=2), {"l1_weights": "bfloat16"}),
        None,
    ),
    (case("scales_mn_major", dict(g=2, m=10, blocks=3)), None),
    (case("scales_packed", dict(g=2, m=10, blocks=5)), None),
    (case("scales_packed", dict(g=3, m=30, blocks=5), params={"psum": True, "alignment": 8}), None),
    (case("scales_packed_k_grouped", dict(g=3, m=8, k=640), params={"psum": True, "alignment": 160}), None),
    *[
        (case("scales_required", dict(g=2, m=130, k=300), params={"block": block, "architecture": architecture}), None)
        for block, architecture in (("1x128", "sm90"), ("128x128", "sm90"), ("1x32", "sm100"), ("128x128", "sm100"))
    ],
    (case("cast", dict(m=3, n=5), {"x": "float32"}, out="float8_e4m3fn"), None),
    (case("quantize", dict(m=3, n=40), {"x": "float32"}, {"recipe": "nvfp4"}), None),
]
