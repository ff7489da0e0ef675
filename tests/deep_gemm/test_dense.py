"""Dense products: every transpose, recipe, accumulation and error, with bits equal to dgref's references."""

from __future__ import annotations

import pytest
import torch

import dgref.deep_gemm as deep_gemm
from dgref import reference
from dgref.deep_gemm.testing import assert_bitwise_equal, calc_diff
from dgref.errors import FormatError, InputError, LayoutError, ShapeError, UnsupportedError
from dgref.formats import quantize

M, N, K = 37, 136, 320


def operands(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = (torch.randn(shape, generator=generator) for shape in ((M, K), (N, K)))
    return tuple(tensor.to(torch.bfloat16) for tensor in made)


def transposed(operand):
    if isinstance(operand, tuple):
        return tuple(map(transposed, operand))
    return operand.t().contiguous()


def expected_fp8(a, b, arithmetic="deep_gemm.sm90.fp8_1d2d", **options) -> torch.Tensor:
    left, right = quantize(a, "deepseek_fp8"), quantize(b, "deepseek_fp8_weight")
    return reference.gemm(left, right, arithmetic=arithmetic, **options)


@pytest.mark.parametrize("layout", ["nt", "nn", "tn", "tt"])
def test_fp8_in_every_layout_has_the_bits_of_the_reference(layout: str) -> None:
    a, b = operands()
    left, right = deep_gemm.per_token_cast_to_fp8(a, False), deep_gemm.per_block_cast_to_fp8(b, False)
    d = torch.empty(M, N, dtype=torch.bfloat16)
    given = (left if layout[0] == "n" else transposed(left), right if layout[1] == "t" else transposed(right))
    getattr(deep_gemm, f"fp8_gemm_{layout}")(*given, d)
    assert_bitwise_equal(d, expected_fp8(a, b))
    assert calc_diff(d, a.float() @ b.float().t()) < 1e-3


@pytest.mark.parametrize("library", ["bf16", "cublaslt"])
@pytest.mark.parametrize("layout", ["nt", "nn", "tn", "tt"])
def test_bf16_in_every_layout_has_the_bits_of_the_reference(layout: str, library: str) -> None:
    a, b = operands()
    d = torch.empty(M, N)
    given = (a if layout[0] == "n" else transposed(a), b if layout[1] == "t" else transposed(b))
    getattr(deep_gemm, f"{library}_gemm_{layout}")(*given, d)
    assert_bitwise_equal(d, reference.gemm(a, b, arithmetic="deep_gemm.sm90.bf16", out="float32"))


def test_cublaslt_takes_fp8_without_scales() -> None:
    a, b = (tensor.to(torch.float8_e4m3fn) for tensor in operands())
    d = torch.empty(M, N)
    deep_gemm.cublaslt_gemm_nn(a, transposed(b), d)
    assert_bitwise_equal(d, reference.gemm(a, b, arithmetic="cublaslt.fp8_promote128", out="float32"))
    assert calc_diff(d, a.float() @ b.float().t()) < 1e-5
    with pytest.raises(FormatError, match=r"b: got torch\.bfloat16, need torch\.float8_e4m3fn"):
        deep_gemm.cublaslt_gemm_nt(a, b.bfloat16(), d)
    deep_gemm.configure("sm100")
    with pytest.raises(UnsupportedError, match=r"^cublaslt_gemm_nt: bare_fp8: got sm100, need sm90"):
        deep_gemm.cublaslt_gemm_nt(a, b, d)


def test_c_is_added_in_place_and_beside() -> None:
    a, b = operands()
    c = torch.randn(M, N)
    beside, in_place = torch.empty(M, N), c.clone()
    deep_gemm.bf16_gemm_nt(a, b, beside, c=c)
    deep_gemm.bf16_gemm_nt(a, b, in_place, c=in_place)
    assert_bitwise_equal(beside, in_place)
    assert calc_diff(beside, c + a.float() @ b.float().t()) < 1e-5


def test_scales_already_in_the_kernels_layout_give_the_same_bits() -> None:
    a, b = operands()
    left, right = deep_gemm.per_token_cast_to_fp8(a, False), deep_gemm.per_block_cast_to_fp8(b, False)
    ready = deep_gemm.transform_sf_into_required_layout(left[1], M, K, (1, 128, 128), is_sfa=True)
    plain, moved = torch.empty(2, M, N, dtype=torch.bfloat16)
    deep_gemm.fp8_gemm_nt(left, right, plain)
    deep_gemm.fp8_gemm_nt((left[0], ready), right, moved, recipe=(1, 128, 128))
    assert_bitwise_equal(plain, moved)


def test_1d1d_accumulates_under_its_recipe() -> None:
    a, b = operands()
    left, right = (deep_gemm.per_token_cast_to_fp8(x, False) for x in (a, b))
    d = c = torch.randn(M, N)
    need = c + a.float() @ b.float().t()
    deep_gemm.fp8_gemm_nt(left, right, d, c=c, recipe=(1, 1, 128))
    assert calc_diff(d, need) < 1e-3


@pytest.mark.parametrize("architecture", ["sm90", "sm100"])
def test_fp4_weights_take_both_ways_of_storing_and_of_packing(architecture: str) -> None:
    deep_gemm.configure(architecture)
    a, b = operands()
    left = deep_gemm.per_token_cast_to_fp8(a, True)
    right, words = deep_gemm.per_token_cast_to_fp4(b, True, 32), deep_gemm.per_token_cast_to_fp4(b, True, 32, True)
    results = torch.empty(3, M, N, dtype=torch.bfloat16)
    recipes = {"recipe_a": (1, 128), "recipe_b": (1, 32)}
    deep_gemm.fp8_fp4_gemm_nt(left, right, results[0], **recipes)
    deep_gemm.fp8_fp4_gemm_nt(left, words, results[1], **recipes)
    columns = (deep_gemm.transpose_packed_fp4(right[0]), transposed(right[1]))
    deep_gemm.fp8_fp4_gemm_nn(left, columns, results[2], **recipes)
    if architecture == "sm100":  # Hopper folds scales that come as words
        assert_bitwise_equal(results[0], results[1], "packed scales")
    assert_bitwise_equal(results[0], results[2], "packed along N")
    need = a.float() @ deep_gemm.cast_back_from_fp4(*right, gran_k=32).t()
    assert calc_diff(results[0], need) < 1e-3


def test_hopper_folds_the_scales_of_fp4_that_come_as_words() -> None:
    a, b = operands()
    left, recipes = deep_gemm.per_token_cast_to_fp8(a, True), {"recipe_a": (1, 128), "recipe_b": (1, 32)}
    floats, words = (deep_gemm.per_token_cast_to_fp4(b, True, 32, *packed) for packed in ((), (True,)))
    results = torch.empty(3, M, N)
    deep_gemm.fp8_fp4_gemm_nt(left, floats, results[0], **recipes)
    deep_gemm.fp8_fp4_gemm_nt(left, words, results[1], **recipes)
    deep_gemm.configure(arithmetic="dgref.sm90.fp8_mxfp4")
    deep_gemm.fp8_fp4_gemm_nt(left, words, results[2], **recipes)
    assert_bitwise_equal(results[1], results[2], "folded")
    assert not torch.equal(results[0], results[1])
    assert calc_diff(results[0], results[1]) < 1e-6


def test_blackwell_adds_up_otherwise_than_hopper() -> None:
    a, b = operands()
    left, right = deep_gemm.per_token_cast_to_fp8(a, True), deep_gemm.per_block_cast_to_fp8(b, True)
    hopper, blackwell = torch.empty(2, M, N)
    deep_gemm.fp8_gemm_nt(left, right, hopper)
    deep_gemm.configure("sm100")
    deep_gemm.fp8_gemm_nt(left, right, blackwell)
    assert not torch.equal(hopper, blackwell)
    assert calc_diff(hopper, blackwell) < 1e-6


def test_the_arithmetic_can_be_exact() -> None:
    deep_gemm.configure(arithmetic="exact")
    a, b = operands()
    d = torch.empty(M, N, dtype=torch.bfloat16)
    deep_gemm.fp8_gemm_nt(deep_gemm.per_token_cast_to_fp8(a, False), deep_gemm.per_block_cast_to_fp8(b, False), d)
    assert_bitwise_equal(d, expected_fp8(a, b, "exact"))


def test_head_splits_leave_the_gaps_alone() -> None:
    a, b = operands()
    left, right = deep_gemm.per_token_cast_to_fp8(a, False), deep_gemm.per_block_cast_to_fp8(b, False)
    plain, gapped = torch.empty(M, N, dtype=torch.bfloat16), torch.full((M, N * 2), 7.0, dtype=torch.bfloat16)
    deep_gemm.fp8_gemm_nt(left, right, plain)
    deep_gemm.fp8_gemm_nt_skip_head_mid(left, right, gapped, (20, 68, 48))
    heads = gapped.view(M, 2, N)
    assert_bitwise_equal(torch.cat([heads[..., :20], heads[..., 88:]], -1).reshape(M, N), plain)
    assert (heads[..., 20:88] == 7).all()


@pytest.mark.parametrize(("m", "n", "k"), [(0, 8, 64), (8, 0, 64), (8, 16, 0)])
def test_empty_problems_give_c_or_nothing(m: int, n: int, k: int) -> None:
    a, b = torch.ones(m, k, dtype=torch.bfloat16), torch.ones(n, k, dtype=torch.bfloat16)
    c = torch.randn(m, n)
    d = torch.empty(m, n)
    deep_gemm.bf16_gemm_nt(a, b, d, c)
    assert_bitwise_equal(d, c)
    deep_gemm.bf16_gemm_nt(a, b, d)
    assert not d.any()


def _errors():
    a, b = operands()
    left, right = deep_gemm.per_token_cast_to_fp8(a, False), deep_gemm.per_block_cast_to_fp8(b, False)
    d = torch.empty(M, N, dtype=torch.bfloat16)
    call = deep_gemm.fp8_gemm_nt
    return [
        (FormatError, "a: got Tensor, need a tuple", lambda: call(left[0], right, d)),
        (FormatError, "a: got torch.bfloat16", lambda: call((a, left[1]), right, d)),
        (ShapeError, r"a scales shape: got \[36, 3\], need \[37, 3\]", lambda: call((left[0], left[1][1:]), right, d)),
        (FormatError, "b scales: got torch.bfloat16", lambda: call(left, (right[0], right[1].bfloat16()), d)),
        (ShapeError, r"d shape: got \[36, 136\], need \[37, 136\]", lambda: call(left, right, d[1:])),
        (FormatError, "d: got torch.float16", lambda: call(left, right, d.half())),
        (LayoutError, "d strides", lambda: call(left, right, torch.empty(N, M, dtype=torch.bfloat16).t())),
        (
            FormatError,
            r"c: got torch.float32 \[37, 136\], need torch.bfloat16",
            lambda: call(left, right, d, d.float()),
        ),
        (InputError, "recipes: got recipe=None, recipe_a=", lambda: call(left, right, d, recipe_a=(1, 128))),
        (LayoutError, "a strides", lambda: call((left[0].repeat(1, 2)[:, ::2], left[1]), right, d)),
        (ShapeError, "k = 320", lambda: call(left, (right[0][:, :256], right[1][:, :2]), d)),
    ]


@pytest.mark.parametrize("number", range(len(_errors())))
def test_a_wrong_argument_is_named(number: int) -> None:
    error, message, call = _errors()[number]
    with pytest.raises(error, match=message):
        call()


def test_blackwell_refuses_scales_that_are_no_powers_of_two() -> None:
    deep_gemm.configure("sm100")
    a, b = operands()
    left, right = deep_gemm.per_token_cast_to_fp8(a, False), deep_gemm.per_block_cast_to_fp8(b, False)
    with pytest.raises(InputError, match="powers of two"):
        deep_gemm.fp8_gemm_nt(left, right, torch.empty(M, N, dtype=torch.bfloat16))


def test_an_unknown_architecture_or_arithmetic_is_refused() -> None:
    with pytest.raises(InputError, match="sm90"):
        deep_gemm.configure("sm91")
    with pytest.raises(InputError, match=r"deep_gemm\.sm90\.bf16"):
        deep_gemm.configure(arithmetic="deep_gemm.sm90.bf15")
