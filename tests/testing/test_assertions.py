"""Three lines in a user's own test say whether a kernel's output is right, and what is wrong with it."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest
import torch

import dgref
from dgref import reference
from dgref.backends import backends, load_file
from dgref.errors import ConformanceError, DgrefError
from dgref.formats import quantize
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.ops.typical import typical_arithmetic
from dgref.testing import assert_backend_conforms, assert_conforms
from tests import samples

RANDOM = np.random.default_rng(0)
A, B = (quantize(RANDOM.standard_normal((16, 64)).astype(np.float32), "mxfp8") for _ in "ab")


def flipped(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed.reshape(-1).view(np.uint8)[1] ^= 0x40
    return changed


def test_a_right_output_returns_the_level_that_holds() -> None:
    assert assert_conforms(reference.gemm(A, B, out="bfloat16"), "gemm", A, B) == "exact"
    a, b = (quantize(RANDOM.standard_normal((16, 64)).astype(np.float32), "per_tensor_fp8") for _ in "ab")
    modelled = reference.gemm(a, b, arithmetic="cublaslt.fp8_fast", out="float32")
    assert assert_conforms(modelled, "gemm", a, b, arithmetic="cublaslt.fp8_fast") == "model"
    assert assert_conforms(modelled, "gemm", a, b) == "bounded"


def test_finely_scaled_operands_may_be_scaled_outside_a_narrow_accumulator() -> None:
    made = reference.gemm(A, B, arithmetic="dgref.sm90.fp8_fp4", out="float32")
    assert assert_conforms(made, "gemm", A, B) == "bounded"


def test_finely_scaled_operands_may_be_scaled_inside_the_instruction_where_that_loses_more() -> None:
    rows = np.full((1, 1 << 17), 15 / 64, np.float32)  # products that vanish beside what the first block carries
    rows[:, :32] = 256
    a = quantize(rows, "mxfp8")
    made = reference.gemm(a, a, arithmetic="deep_gemm.sm100.fp8_fp4", out="float32")
    assert assert_conforms(made, "gemm", a, a) == "bounded"


def test_a_wrong_output_is_described() -> None:
    with pytest.raises(ConformanceError, match=r"gemm: got wrong, need bounded .*1 of 256 bfloat16 elements differ"):
        assert_conforms(flipped(reference.gemm(A, B, out="bfloat16")), "gemm", A, B)


def test_an_exact_claim_takes_no_rounding_for_an_excuse() -> None:
    exact = reference.gemm(A, B, out="float32")
    off = np.nextafter(exact, np.float32(np.inf))
    assert assert_conforms(off, "gemm", A, B) == "bounded"
    with pytest.raises(ConformanceError, match="need exact"):
        assert_conforms(off, "gemm", A, B, arithmetic="exact")


def test_a_nan_of_other_bits_than_the_models_is_counted_in_the_message() -> None:
    a, b = np.full((2, 16), 2.0**-24, ml_dtypes.bfloat16), np.ones((3, 16), ml_dtypes.bfloat16)
    a[0], a[1, 0] = np.nan, 1  # and a row in which the model is not exact
    made = reference.gemm(a, b, arithmetic="deep_gemm.sm90.bf16", out="float32")
    made[0, 0] = np.nan
    with pytest.raises(ConformanceError, match=r"need model .*1 of 6 float32 elements differs from model") as caught:
        assert_conforms(made, "gemm", a, b, arithmetic="deep_gemm.sm90.bf16")
    assert "cause: every value is right, but 1 NaN has other bits than deep_gemm.sm90.bf16 gives" in str(caught.value)


def test_elements_that_the_op_leaves_undefined_are_not_counted_in_the_message() -> None:
    a, b, counts = np.ones((1, 8, 16)), np.ones((1, 4, 16)), np.array([3], np.int32)
    a, b = a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16)
    made = reference.gemm_grouped_masked(a, b, counts, out="bfloat16")
    made[0, 3:], made[0, 0, 0] = 7, 9
    with pytest.raises(ConformanceError, match="1 of 12 bfloat16 elements differ"):
        assert_conforms(made, "gemm_grouped_masked", a, b, counts)


def test_rows_past_the_mask_may_hold_anything() -> None:
    a, b = (np.ones((2, 8, 16), ml_dtypes.bfloat16) for _ in "ab")
    counts = np.array([3, 8], np.int32)
    right = reference.gemm_grouped_masked(a, b, counts, out="bfloat16")
    right[0, 3:] = 7
    assert assert_conforms(right, "gemm_grouped_masked", a, b, counts) == "exact"
    with pytest.raises(ConformanceError):
        assert_conforms(flipped(right), "gemm_grouped_masked", a, b, counts)


def test_torch_tensors_are_taken_as_they_are() -> None:
    output = torch.from_numpy(reference.gemm(A, B, out="float32"))
    assert assert_conforms(output, "gemm", A, B) == "exact"


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("gem", A, B), {}, "op: got 'gem', need"),
        (("gemm", A, B, A, A), {}, "operands of gemm: got 4, need at most 3"),
        (("gemm", A, B), {"acumulate": True}, "parameter of gemm: got 'acumulate', need accumulate"),
    ],
)
def test_bad_calls_are_sentences(arguments: tuple, options: dict, words: str) -> None:
    with pytest.raises(DgrefError, match=words):
        assert_conforms(reference.gemm(A, B, out="float32"), *arguments, **options)


def test_a_backend_is_held_to_a_whole_suite(tmp_path: object) -> None:
    load_file(samples.MISBEHAVING)
    from dgref.suite import load_file as load_suite

    path = tmp_path / "one.toml"
    path.write_text(
        '[[case]]\nid = "x"\nwhy = "y"\nop = "gemm"\nshape = {m = 4, n = 8, k = 16}\na = "bfloat16"\nb = "bfloat16"\n'
    )
    assert len(load_suite(path)) == 1
    assert_backend_conforms(backends()["misbehaving/correct"], str(path))
    with pytest.raises(ConformanceError, match="got 1 wrong of 1, need 0\none/x: fail"):
        assert_backend_conforms(backends()["misbehaving/one_bit"], str(path), diagnose=False)
    with pytest.raises(
        ConformanceError, match=r"\n  cause: .*\n  fix: .*\n  ask: dgref .*\n  again: dgref run .*one\.toml --case x "
    ):
        assert_backend_conforms(backends()["misbehaving/one_bit"], str(path))
    alone = copy.copy(backends()["misbehaving/one_bit"])
    alone.name = "alone"  # a Python object that no command can name
    with pytest.raises(ConformanceError, match="alone: got 1 wrong of 1") as caught:
        assert_backend_conforms(alone, str(path))
    assert "cause:" in str(caught.value) and "dgref run" not in str(caught.value)
    assert "dgref fingerprint" not in str(caught.value)
    with pytest.raises(ConformanceError, match="no case that could run"):
        assert_backend_conforms(backends()["misbehaving/refuses_late"], str(path))


def _operands() -> tuple:
    x = np.random.default_rng(0).standard_normal((8, 128), dtype=np.float32)
    return quantize(x, "deepseek_fp8"), quantize(x, "deepseek_fp8_weight")


def test_expect_exact_is_asked_for_also_without_an_arithmetic() -> None:
    a, b = _operands()
    d = reference.gemm(a, b, arithmetic="deep_gemm.sm90.fp8_1d2d", out="float32")
    with pytest.raises(ConformanceError, match="need exact"):
        assert_conforms(d, "gemm", a, b, expect="exact")


def test_torch_operands_are_taken() -> None:
    x = torch.eye(16, dtype=torch.float16)
    assert assert_conforms(x @ x.T, "gemm", x, x) == "exact"


@pytest.mark.parametrize(
    ("operands", "named", "message"),
    [
        (1, {}, "operand b of gemm: got nothing, need a tensor"),
        (2, {"a": None}, "operand a of gemm: got two values"),
        (2, {"expect": "garbage"}, "expect: got 'garbage'"),
        (2, {"op": "einsum"}, "parameter expression of einsum: got nothing, need a value"),
        (2, {"op": "mqa_logits"}, "operand weights of mqa_logits: got nothing, need a tensor"),
    ],
)
def test_operands_that_do_not_fit_get_a_sentence(operands: int, named: dict, message: str) -> None:
    given = _operands()[:operands]
    with pytest.raises(ValueError, match=message):
        assert_conforms(np.zeros((8, 8), np.float32), named.pop("op", "gemm"), *given, **named)


@pytest.mark.parametrize("arithmetic", [None, "exact"])
def test_a_wrong_output_is_given_its_cause(arithmetic: str | None) -> None:
    made = np.maximum(reference.gemm(A, B, out="bfloat16"), 0)
    with pytest.raises(ConformanceError, match="cause: negative outputs became zero: a ReLU"):
        assert_conforms(made, "gemm", A, B, arithmetic=arithmetic)


def test_a_cause_is_not_searched_for_in_operands_of_no_recipe() -> None:
    tensor = ScaledTensor(A.data, A.format, np.ones((2, 4), np.float32), Scaling((8, 16)))
    with pytest.raises(ConformanceError, match="cause: not searched for: no recipe describes a and b"):
        assert_conforms(np.full((16, 16), 7e9, np.float32), "gemm", tensor, tensor)


def test_conversions_are_asserted_in_the_format_they_make() -> None:
    x = RANDOM.standard_normal((16, 64)).astype(np.float32)
    assert assert_conforms(x.astype(ml_dtypes.float8_e4m3fn), "cast", x) == "exact"
    assert assert_conforms(A.data, "quantize", A.values().astype(np.float32), recipe="mxfp8") == "exact"
    with pytest.raises(ConformanceError, match="1 of 1,024 float8_e4m3fn elements differ"):
        assert_conforms(flipped(x.astype(ml_dtypes.float8_e4m3fn)), "cast", x)


RECIPES = [
    ("deepseek_fp8", "deepseek_fp8_weight"),
    *((name, name) for name in ("mxfp8", "mxfp4", "nvfp4", "per_tensor_fp8", "bfloat16", "float16")),
]


@pytest.mark.parametrize("recipes", RECIPES, ids=lambda pair: pair[0])
def test_tensors_that_torch_quantised_are_judged_like_numpys(recipes: tuple[str, str]) -> None:
    rows = [RANDOM.standard_normal((8, 256), dtype=np.float32) for _ in "ab"]
    made = {}
    for kind in (np.asarray, torch.from_numpy):
        a, b = (quantize(kind(x), recipe) for x, recipe in zip(rows, recipes, strict=True))
        d = reference.gemm(a, b, out="float32")
        assert assert_conforms(d, "gemm", a, b) == "exact"
        assert dgref.compare(d, d).equal
        wrong = d.clip(0)
        with pytest.raises(ConformanceError, match="cause: negative outputs became zero: a ReLU") as caught:
            assert_conforms(wrong, "gemm", a, b, arithmetic="exact")
        inputs = {"a": a, "b": b}
        found = dgref.diagnose("gemm", inputs, wrong, "exact")
        assert found.hypothesis == "activation_fused"
        typical = typical_arithmetic("gemm", [(tensor.format, tensor.scaling) for tensor in (a, b)])
        inferred = dgref.infer_arithmetic("gemm", inputs, reference.gemm(a, b, arithmetic=typical, out="float32"))
        assert inferred.arithmetic is not None
        made[kind] = (str(caught.value), found.sentence, inferred.arithmetic)
    assert made[np.asarray] == made[torch.from_numpy]


def test_a_label_of_another_format_is_wrong_and_bits_without_one_are_not() -> None:
    x = A.values().astype(np.float32)
    assert assert_conforms(A.data.view(ml_dtypes.float8_e4m3fn), "quantize", x, recipe="mxfp8") == "exact"
    assert assert_conforms(torch.from_numpy(A.data).view(torch.float8_e4m3fn), "quantize", x, recipe="mxfp8") == "exact"
    with pytest.raises(ConformanceError, match=r"output data: got .16, 64. of float8_e5m2, need .* of float8_e4m3fn"):
        assert_conforms(A.data.view(ml_dtypes.float8_e5m2), "quantize", x, recipe="mxfp8")
    lengths = np.array([[7], [900]], np.int32)
    schedule = reference.paged_mqa_metadata(lengths, num_sms=5)
    assert assert_conforms(schedule.view(np.uint32), "paged_mqa_metadata", lengths, num_sms=5) == "exact"
    for other in (schedule.view(np.float32), schedule.astype(np.int64)):
        with pytest.raises(ConformanceError, match="output schedule: got"):
            assert_conforms(other, "paged_mqa_metadata", lengths, num_sms=5)


def test_bits_of_an_output_are_what_out_says() -> None:
    d = reference.gemm(A, B, out="bfloat16")
    assert assert_conforms(d.view(np.uint16), "gemm", A, B, out="bfloat16") == "exact"
    with pytest.raises(ConformanceError, match=r"output d: got .* of bfloat16, need .* of float16"):
        assert_conforms(d, "gemm", A, B, out="float16")


def test_every_output_is_asserted_in_a_tuple_or_by_name() -> None:
    x = RANDOM.standard_normal((16, 64)).astype(np.float32)
    made = quantize(x, "mxfp8")
    assert assert_conforms((made.data, made.scale), "quantize", x, recipe="mxfp8") == "exact"
    assert assert_conforms({"scale": made.scale}, "quantize", x, recipe="mxfp8") == "exact"
    with pytest.raises(ConformanceError, match=r"scale: 32 of 32 float8_e8m0fnu elements differ .*\n  cause: "):
        assert_conforms((made.data, made.scale + 1), "quantize", x, recipe="mxfp8")
    for none in ({}, ()):
        with pytest.raises(DgrefError, match="outputs of quantize: got none"):
            assert_conforms(none, "quantize", x, recipe="mxfp8")
    with pytest.raises(DgrefError, match="output of quantize: got 'scales', need scale"):
        assert_conforms({"scales": made.scale}, "quantize", x, recipe="mxfp8")
    with pytest.raises(DgrefError, match="outputs of quantize: got 3, need at most 2"):
        assert_conforms((made.data, made.scale, made.scale), "quantize", x, recipe="mxfp8")


def test_words_of_scales_are_asserted_with_and_without_running_ends() -> None:
    scales = np.exp2(RANDOM.integers(-3, 3, (2, 130, 4))).astype(np.float32)
    packed = reference.scales_packed(scales)
    packed[..., 130:] = 7  # padding, which nobody needs to write
    assert assert_conforms(packed, "scales_packed", scales) == "exact"
    with pytest.raises(ConformanceError):
        assert_conforms(packed + 1, "scales_packed", scales)
    ends = np.array([100, 130], np.int32)
    packed = reference.scales_packed(scales[0], ends=ends, alignment=4)
    assert assert_conforms(packed, "scales_packed", scales[0], ends, alignment=4) == "exact"
    grouped = np.array([128, 512], np.int32)
    packed = reference.scales_packed_k_grouped(scales[0, :5], grouped)
    assert assert_conforms(packed, "scales_packed_k_grouped", scales[0, :5], grouped) == "exact"
    with pytest.raises(ConformanceError, match="cause: no hypothesis"):
        assert_conforms(packed ^ 1, "scales_packed_k_grouped", scales[0, :5], grouped)


def test_causes_are_found_whatever_the_op() -> None:
    a, b = (RANDOM.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in ((3, 4, 64), (4, 8, 64)))
    made = np.maximum(reference.einsum("bhr,hdr->bhd", a, b), 0)
    with pytest.raises(ConformanceError, match="cause: negative outputs became zero: a ReLU"):
        assert_conforms(made, "einsum", a, b, expression="bhr,hdr->bhd")
    for x in (np.full((), 3, np.float32), RANDOM.standard_normal((2, 3, 64)).astype(np.float32)):
        right = x.astype(ml_dtypes.float8_e4m3fn)
        assert assert_conforms(right, "cast", x) == "exact"
        with pytest.raises(ConformanceError, match="cause: no hypothesis"):
            assert_conforms(flipped(right) if right.ndim else right * 2, "cast", x)


@pytest.mark.parametrize("architecture", ["cpu", "sm100", "sm80"])
def test_an_output_of_what_has_no_narrow_accumulator_is_held_to_fp32(architecture: str) -> None:
    a, b = (quantize(RANDOM.standard_normal((32, 512)).astype(np.float32), "per_tensor_fp8") for _ in "ab")
    made = reference.gemm(a, b, arithmetic="cublaslt.fp8_fast", out="float32")
    assert assert_conforms(made, "gemm", a, b) == "bounded"
    assert assert_conforms(made, "gemm", a, b, architecture="sm90") == "bounded"
    with pytest.raises(ConformanceError, match=r"need bounded .*; [\d,]+ beyond the bound of an fp32 accumulator\n"):
        assert_conforms(made, "gemm", a, b, architecture=architecture)
    with pytest.raises(ConformanceError, match="beyond the bound of an accumulator of 13 fraction bits\n"):
        assert_conforms(made * 2, "gemm", a, b)
    with pytest.raises(DgrefError, match="architecture: got 'sm99', need"):
        assert_conforms(made, "gemm", a, b, architecture="sm99")


@pytest.mark.parametrize("seed", range(4))
def test_a_truncated_output_is_wrong_where_nothing_narrow_computed_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = (quantize(random.standard_normal((rows, 256), dtype=np.float32), "mxfp4") for rows in (32, 64))
    exact = reference.gemm(a, b, out="float32")
    cut = (exact.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(ml_dtypes.bfloat16)
    with pytest.raises(
        ConformanceError, match="cause: fp32 sums were cut off to bfloat16 where they should be rounded"
    ):
        assert_conforms(cut, "gemm", a, b, architecture="cpu")


def test_bits_of_another_architecture_are_not_called_right() -> None:
    x, w = (np.random.default_rng(seed).standard_normal((64, 512), dtype=np.float32) for seed in (0, 1))
    a, b = quantize(x, "deepseek_fp8"), quantize(w, "deepseek_fp8_weight")
    made = reference.gemm(a, b, arithmetic="deep_gemm.sm90.fp8_1d2d")
    assert assert_conforms(made, "gemm", a, b) == "bounded"
    cause = r"every output has the bits of deep_gemm\.sm90\.fp8_1d2d, which are not all within the bound"
    with pytest.raises(ConformanceError, match=cause):
        assert_conforms(made, "gemm", a, b, architecture="sm100")
