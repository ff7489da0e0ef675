"""Three lines in a user's own test say whether a kernel's output is right, and what is wrong with it."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import pytest

from dgref import reference
from dgref.backends import backends, load_file
from dgref.errors import ConformanceError, DgrefError
from dgref.formats import quantize
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
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
    with pytest.raises(ConformanceError, match=r"need model .*1 of 6 float32 elements differ from model"):
        assert_conforms(made, "gemm", a, b, arithmetic="deep_gemm.sm90.bf16")


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
    import torch

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
    with pytest.raises(ConformanceError, match=r"\n  cause: .*\n  fix: .*\n  again: dgref run .*one\.toml --case x "):
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
    torch = pytest.importorskip("torch")
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
