"""Casts are dgref's quantisers under DeepGEMM's recipes; helpers for tests do what they say."""

from __future__ import annotations

import os

import pytest
import torch

import dgref.deep_gemm as deep_gemm
from dgref.deep_gemm import testing, utils
from dgref.errors import ConformanceError, FormatError, ShapeError, UnavailableError
from dgref.formats import FORMATS, quantize
from dgref.formats.packing import pack, unpack


def tensor(m: int = 256, n: int = 384) -> torch.Tensor:
    """Return values of all sizes, a block of zeros, and a tie in FP4 among them."""
    made = torch.randn(m, n) * torch.exp2(torch.randint(-30, 30, (m, 1)).float())
    made[: m // 2, :128] = 0
    made[-1, :8] = torch.tensor([6.0, 0.25, 0.75, -0.25, 2.5, -3.5, 5.0, -0.1])[:n]
    return made.bfloat16()


def same_as_recipe(codes: torch.Tensor, scales: torch.Tensor, x: torch.Tensor, recipe: str) -> None:
    need = quantize(x, recipe)
    values = need.scale_values()
    assert torch.equal(codes.view(torch.uint8), need.data)
    assert torch.equal(scales, values)


@pytest.mark.parametrize("ue8m0", [False, True])
@pytest.mark.parametrize(
    ("cast", "recipe"),
    [("per_token", "deepseek_fp8"), ("per_block", "deepseek_fp8_weight"), ("per_channel", "deepseek_fp8_channel")],
)
def test_fp8_casts_are_the_recipes(cast: str, recipe: str, ue8m0: bool) -> None:
    x = tensor()
    codes, scales = getattr(utils, f"{cast}_cast_to_fp8")(x, ue8m0)
    same_as_recipe(codes, scales, x, f"{recipe}{'_ue8m0' if ue8m0 else ''}")


def test_a_partial_block_of_columns_is_its_own() -> None:
    x = tensor(5, 200)
    same_as_recipe(*utils.per_token_cast_to_fp8(x, True, 32), x, "deepseek_fp8_32_ue8m0")
    same_as_recipe(*utils.per_block_cast_to_fp8(x, False), x, "deepseek_fp8_weight")


@pytest.mark.parametrize(("ue8m0", "recipe"), [(True, "mxfp4/deep_gemm"), (False, "deepseek_fp4")])
def test_fp4_cast_is_the_recipe_and_comes_back(ue8m0: bool, recipe: str) -> None:
    x = tensor(256, 192)
    packed, scales = utils.per_token_cast_to_fp4(x, ue8m0, 32)
    codes = torch.from_numpy(unpack(packed.numpy(), "float4_e2m1fn"))
    same_as_recipe(codes, scales, x, recipe)
    need = FORMATS["float4_e2m1fn"].decode(codes) * scales.repeat_interleave(32, 1)
    assert torch.equal(utils.cast_back_from_fp4(packed, scales, 32), need)


def test_a_block_with_a_nan_gets_deep_gemms_scale_and_codes() -> None:
    x = torch.full((1, 64), 3.0)
    x[0, 5] = float("nan")
    codes, scales = utils.per_token_cast_to_fp8(x, True, 32)
    assert scales.tolist() == [[2.0**127, 2.0**-7]]
    assert codes.float().isnan().nonzero().tolist() == [[0, 5]]
    for ue8m0 in (False, True):
        assert utils.per_token_cast_to_fp4(x, ue8m0, 32)[0][:, :16].unique().tolist() == [0]


def test_packed_scales_are_the_bytes_of_the_others() -> None:
    x = tensor(6, 512)
    words = utils.per_token_cast_to_fp8(x, True, use_packed_ue8m0=True)[1]
    scales = utils.per_token_cast_to_fp8(x, True)[1]
    assert words.shape == (6, 1)
    assert torch.equal(utils.math.unpack_ue8m0_from_int(words), scales)
    short = utils.per_token_cast_to_fp4(x[:, :64], True, 32, True)[1]
    assert torch.equal(utils.math.unpack_ue8m0_from_int(short)[:, 2:], torch.ones(6, 2))


def test_a_transposed_fp4_matrix_holds_the_transposed_codes() -> None:
    codes = torch.randint(0, 16, (6, 8), dtype=torch.uint8)
    packed = torch.from_numpy(pack(codes.numpy(), "float4_e2m1fn")).view(torch.int8)
    turned = utils.transpose_packed_fp4(packed)
    assert torch.equal(torch.from_numpy(unpack(turned.numpy(), "float4_e2m1fn")), codes.t())


def test_custom_dims_share_a_scale_over_all_others() -> None:
    x = tensor(4, 12).view(4, 2, 6)
    codes, scales = utils.per_custom_dims_cast_to_fp8(x, (0,), False)
    assert scales.shape == (4,)
    assert torch.equal(scales, x.float().abs().amax((1, 2)).clamp(1e-4) / 448)
    assert codes.shape == x.shape


@pytest.mark.parametrize(
    ("value", "power"),
    [(0.0, 2.0**-126), (1.0, 1.0), (1.0001, 2.0), (-3.0, 4.0), (float("inf"), 2.0**127), (float("nan"), 2.0**127)],
)
def test_ceil_to_ue8m0_rounds_up_to_a_power_of_two(value: float, power: float) -> None:
    assert utils.math.ceil_to_ue8m0(torch.tensor([value])).item() == power


def test_casts_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ShapeError, match="a multiple of 128 rows"):
        utils.per_channel_cast_to_fp8(tensor(8, 8), False)
    with pytest.raises(ShapeError, match="an even number of columns"):
        utils.per_token_cast_to_fp4(torch.zeros(2, 3), True)
    with pytest.raises(FormatError, match="no power of two"):
        utils.math.pack_ue8m0_to_int(torch.full((1, 4), 3.0))
    with pytest.raises(UnavailableError, match="init_dist"):
        utils.dist.dist_print()


def test_similarity_and_sizes() -> None:
    x = torch.randn(10)
    assert testing.calc_diff(x, x) == 0 and testing.calc_diff(x, -x) == 2
    assert testing.calc_diff(torch.zeros(3), torch.zeros(3)) == 0.0
    assert testing.count_bytes(x, [x.half(), (None, x.double())]) == 40 + 20 + 80


def test_bitwise_equality_names_the_first_element_that_differs() -> None:
    x = torch.tensor([[1.0, 2.0], [0.0, float("nan")]])
    testing.assert_bitwise_equal(x, x.clone())
    y = x.clone()
    y[1, 0] = -0.0
    with pytest.raises(ConformanceError, match=r"y\[1, 0\]: got bits 80000000, need 00000000; 1 of 4 elements differ"):
        testing.assert_bitwise_equal(x, y, "label")


def test_filters_and_environment(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    testing.test_filter(lambda: False)(lambda: ran.append(1))()
    testing.test_filter(lambda: True)(lambda: ran.append(2))()
    assert ran == [2] and "Filtered" in capsys.readouterr().out
    monkeypatch.setenv("DG_ANY", "1")
    testing.ignore_env("DG_ANY", lambda: True)(lambda: ran.append(os.environ.get("DG_ANY")))()
    assert ran[-1] is None and os.environ["DG_ANY"] == "1"


@pytest.mark.skipif(torch.cuda.is_available(), reason="what happens without a GPU")
def test_timing_without_a_gpu_is_that_of_calls() -> None:
    assert testing.bench(lambda: None, 1, 2) >= 0
    assert len(testing.bench_kineto(lambda: None, ("a", "b"), num_tests=1)) == 2
    assert testing.get_arch_major() == 9
    deep_gemm.configure("sm100")
    assert testing.get_arch_major() == 10


def test_suppressed_output_stays_inside(capfd: pytest.CaptureFixture) -> None:
    with testing.suppress_stdout_stderr():
        os.write(1, b"hidden\n")
    os.write(1, b"seen\n")
    assert capfd.readouterr().out == "seen\n"


def test_uneven_gathers_join_what_each_rank_has(tmp_path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        x = torch.randn(3, 4)
        assert torch.equal(utils.uneven_all_gather(x, dim=1), x)
    finally:
        dist.destroy_process_group()
