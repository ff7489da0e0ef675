"""Three-axis products, the pre-norm and the whole MoE layer, as DeepGEMM spells them."""

from __future__ import annotations

import pytest
import torch

import dgref.deep_gemm as deep_gemm
from dgref import reference
from dgref.deep_gemm.testing import assert_bitwise_equal, calc_diff
from dgref.errors import DgrefError, FormatError, InputError, ShapeError, UnsupportedError
from dgref.formats import quantize
from tests.deep_gemm.calls import mega

B, H, R, D = 5, 3, 256, 128


@pytest.mark.parametrize(
    ("expression", "a", "b", "d"),
    [
        ("bhr,hdr->bhd", (B, H, R), (H, D, R), (B, H, D)),
        ("bhd,hdr->bhr", (B, H, D), (H, D, R), (B, H, R)),
        ("bmk,bnk->mn", (B, 16, 64), (B, 24, 64), (16, 24)),
    ],
)
def test_bf16_einsum_is_torchs(expression: str, a: tuple, b: tuple, d: tuple) -> None:
    left, right, out = torch.randn(a).bfloat16(), torch.randn(b).bfloat16(), torch.empty(d, dtype=torch.bfloat16)
    deep_gemm.einsum(expression, left, right, out)
    assert_bitwise_equal(out, reference.einsum(expression, left, right, arithmetic="deep_gemm.sm90.bf16"))
    assert calc_diff(out, torch.einsum(expression, left.float(), right.float())) < 1e-4


def test_einsum_accumulates_in_place() -> None:
    a, b, d = torch.randn(B, 16, 64).bfloat16(), torch.randn(B, 24, 64).bfloat16(), torch.randn(16, 24)
    need = d + torch.einsum("bmk,bnk->mn", a.float(), b.float())
    deep_gemm.einsum("bmk,bnk->mn", a, b, d, c=d)
    assert calc_diff(d, need) < 1e-6


def fp8(x: torch.Tensor, block: bool) -> tuple[torch.Tensor, torch.Tensor]:
    cast = deep_gemm.per_block_cast_to_fp8 if block else deep_gemm.per_token_cast_to_fp8
    parts = [cast(part.contiguous(), False) for part in x]
    codes = torch.stack([codes.view(torch.uint8) for codes, _ in parts]).view(torch.float8_e4m3fn)
    return codes, torch.stack([scale for _, scale in parts])


@pytest.mark.parametrize(
    ("expression", "a", "b"),
    [("bhr,hdr->bhd", (B, H, R), (H, D, R)), ("bhd,hdr->bhr", (B, H, D), (H, D, R))],
)
def test_fp8_einsum_takes_scales_in_the_order_of_the_expression(expression: str, a: tuple, b: tuple) -> None:
    left, right = torch.randn(a).bfloat16(), torch.randn(b).bfloat16()
    d = torch.einsum(expression, left.float(), right.float()).bfloat16()
    need = d.clone()
    deep_gemm.fp8_einsum(expression, fp8(left, False), fp8(right, True), d)
    assert calc_diff(d, need) < 2e-3


def test_fp8_einsum_sums_over_the_batch() -> None:
    a, b = torch.randn(256, H, D).bfloat16(), torch.randn(256, H, 64).bfloat16()
    casts = []
    for x in (a, b):
        codes, scale = deep_gemm.per_channel_cast_to_fp8(x.reshape(256, -1), False)
        casts.append((codes.view_as(x), scale.view(2, H, -1)))
    c = torch.randn(H, D, 64)
    d = torch.empty_like(c)
    deep_gemm.fp8_einsum("bhd,bhr->hdr", *casts, d, c=c, recipe=(1, 1, 128))
    assert calc_diff(d, c + torch.einsum("bhd,bhr->hdr", a.float(), b.float())) < 2e-3


def test_an_unknown_expression_suggests_the_nearest() -> None:
    x = torch.zeros(2, 2, 2, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="bhr,hdr->bhd"):
        deep_gemm.einsum("bhr,hdr->bdh", x, x, x)
    with pytest.raises(FormatError, match=r"b: got torch\.float32"):
        deep_gemm.einsum("bhr,hdr->bhd", x, x.float(), x)


@pytest.mark.parametrize("splits", [None, 3])
def test_prenorm_writes_product_and_square_sums(splits: int | None) -> None:
    a, b = torch.randn(13, 320).bfloat16(), torch.randn(24, 320)
    lead = () if splits is None else (splits,)
    d, squares = torch.empty(*lead, 13, 24), torch.empty(*lead, 13)
    deep_gemm.tf32_hc_prenorm_gemm(a, b, d, squares, num_splits=splits)
    need = reference.hc_prenorm(a, b, num_splits=splits, arithmetic="deep_gemm.sm90.hc_prenorm")
    assert_bitwise_equal(d, need["d"])
    assert_bitwise_equal(squares, need["sqr_sum"])
    whole = d if splits is None else d.sum(0)
    assert calc_diff(whole, a.float() @ b.t()) < 1e-5


def test_prenorm_names_the_tensor_that_does_not_fit() -> None:
    a, b = torch.zeros(4, 64, dtype=torch.bfloat16), torch.zeros(8, 64)
    with pytest.raises(ShapeError, match=r"sqr_sum shape: got \[5\], need \[4\]"):
        deep_gemm.tf32_hc_prenorm_gemm(a, b, torch.zeros(4, 8), torch.zeros(5))
    with pytest.raises(FormatError, match=r"a: got torch\.float32, need torch\.bfloat16"):
        deep_gemm.tf32_hc_prenorm_gemm(b, b, torch.zeros(8, 8), torch.zeros(8))


class Alone:
    """A process group of one."""

    def __init__(self, ranks: int = 1):
        self._ranks = ranks

    def size(self) -> int:
        return self._ranks

    def rank(self) -> int:
        return 0


EXPERTS, TOKENS, TOP, HIDDEN, INNER = 4, 7, 2, 256, 128


def routes() -> tuple[torch.Tensor, torch.Tensor]:
    chosen = torch.rand(TOKENS, EXPERTS).topk(TOP).indices
    chosen[0, 1] = -1
    return chosen, torch.rand(TOKENS, TOP)


def fp4_weights(rows: int, columns: int) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    plain = torch.randn(EXPERTS, rows, columns).bfloat16() / 8
    codes, scales = deep_gemm.per_token_cast_to_fp4(plain.view(-1, columns), True, 32)
    words = deep_gemm.transform_sf_into_required_layout(scales.view(EXPERTS, rows, -1), rows, columns, (1, 32), EXPERTS)
    return plain, (codes.view(EXPERTS, rows, -1), words)


def buffer(kind: str = "fp8xfp4") -> deep_gemm.SymmBuffer:
    return deep_gemm.get_symm_buffer_for_mega_moe(Alone(), EXPERTS, TOKENS, TOP, HIDDEN, INNER, mma_type=kind)


def test_mega_moe_has_the_bits_of_the_reference_and_counts_tokens() -> None:
    deep_gemm.configure("sm100")
    x, (chosen, gains) = torch.randn(TOKENS, HIDDEN).bfloat16(), routes()
    (l1, first), (l2, second) = fp4_weights(2 * INNER, HIDDEN), fp4_weights(HIDDEN, INNER)
    held = buffer()
    codes, scales = deep_gemm.per_token_cast_to_fp8(x, True, 32, use_packed_ue8m0=True)
    held.x[:TOKENS].copy_(codes)
    held.x_sf[:TOKENS].copy_(scales)
    held.topk_idx[:TOKENS].copy_(chosen)
    held.topk_weights[:TOKENS].copy_(gains)
    y, stats = torch.empty(TOKENS, HIDDEN, dtype=torch.bfloat16), torch.ones(EXPERTS, dtype=torch.int32)
    transformed = deep_gemm.transform_weights_for_mega_moe(first, second)
    deep_gemm.fp8_fp4_mega_moe(y, *transformed, held, stats, activation_clamp=10.0)
    need = reference.mega_moe(
        quantize(x[None], "deepseek_fp8_32_ue8m0"),
        chosen[None],
        gains[None],
        quantize(l1, "mxfp4/deep_gemm"),
        quantize(l2, "mxfp4/deep_gemm"),
        activation_clamp=10.0,
        arithmetic="deep_gemm.sm100.fp8_fp4",
    )
    assert_bitwise_equal(y, need["y"][0])
    assert stats.tolist() == [1 + int((chosen == expert).sum()) for expert in range(EXPERTS)]


def test_bf16_mega_moe_is_the_plain_layer() -> None:
    x, (chosen, gains) = torch.randn(TOKENS, HIDDEN).bfloat16(), routes()
    l1, l2 = (torch.randn(EXPERTS, *s).bfloat16() / 16 for s in ((2 * INNER, HIDDEN), (HIDDEN, INNER)))
    held = buffer("bf16xbf16")
    for name, value in (("x", x), ("topk_idx", chosen), ("topk_weights", gains)):
        getattr(held, name)[:TOKENS].copy_(value)
    y = torch.empty(TOKENS, HIDDEN, dtype=torch.bfloat16)
    deep_gemm.bf16_mega_moe(y, *deep_gemm.transform_weights_for_mega_moe(l1, l2), held)
    need = torch.zeros(TOKENS, HIDDEN)
    for token, slot in (chosen >= 0).nonzero().tolist():
        gate, up = (x[token].float() @ l1[chosen[token, slot]].float().t()).chunk(2)
        inner = torch.nn.functional.silu(gate) * up * gains[token, slot]
        need[token] += inner @ l2[chosen[token, slot]].float().t()
    assert calc_diff(y, need) < 1e-4


def test_weights_of_the_kernel_are_those_of_the_reference() -> None:
    deep_gemm.configure("sm100")
    (l1, first), (l2, second) = fp4_weights(2 * INNER, HIDDEN), fp4_weights(HIDDEN, INNER)
    made = deep_gemm.transform_weights_for_mega_moe(first, second)
    tensors = [quantize(weights, "mxfp4/deep_gemm") for weights in (l1, l2)]
    need = reference.mega_moe_transform_weights(*tensors)
    for (_, words), name in zip(made, ("l1_scale", "l2_scale"), strict=True):
        assert_bitwise_equal(words.transpose(1, 2).contiguous(), need[name])
        assert words.stride() == first[1].stride() or name == "l2_scale"


def test_the_buffer_is_one_piece_of_zeroed_bytes_with_views() -> None:
    held = buffer()
    assert held.num_max_tokens_per_rank == 384
    assert held.x.shape == (384, HIDDEN) and held.x_sf.shape == (384, HIDDEN // 128)
    held.topk_weights.fill_(1)
    assert held.buffer.any() and not held.x.float().any()
    assert held.handle.buffer_ptrs == [held.buffer.data_ptr()]
    held.destroy()
    assert held.buffer is None and held.handle is None


def test_a_layer_refuses_what_its_buffer_has_no_room_for() -> None:
    call = mega("bf16xbf16")
    for name, value, need in (
        ("y", torch.zeros(385, HIDDEN).bfloat16(), "y: got 385 tokens, need at most the buffer's 384"),
        ("y", torch.zeros(TOKENS, HIDDEN), "y: got torch.float32, need torch.bfloat16"),
        ("cumulative_local_expert_recv_stats", torch.zeros(EXPERTS), "recv_stats: got torch.float32, need contiguous"),
    ):
        with pytest.raises(DgrefError, match=need):
            deep_gemm.bf16_mega_moe(**{**call, name: value})
    call["sym_buffer"].destroy()
    with pytest.raises(InputError, match="sym_buffer: got one that was destroyed"):
        deep_gemm.bf16_mega_moe(**call)


def test_more_ranks_and_other_activations_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="2 ranks, need 1 rank"):
        deep_gemm.get_symm_buffer_for_mega_moe(Alone(2), EXPERTS, TOKENS, TOP, HIDDEN, INNER)
    with pytest.raises(InputError, match="swiglu"):
        deep_gemm.transform_weights_for_mega_moe(torch.zeros(1), torch.zeros(1), activation="gelu")
