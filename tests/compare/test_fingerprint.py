"""Inference of arithmetics: from recorded kernels, from synthetic ones, by probes; and honesty where none fits."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from dgref.compare import fingerprint_space
from dgref.compare.fingerprint import infer_arithmetic
from dgref.compare.inference import named, plain
from dgref.errors import InputError, ShapeError, UnsupportedError
from dgref.formats import RECIPES, quantize
from dgref.formats.element import FORMATS
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic, sm90_fp8
from dgref.reference.contraction import contract, finish
from tests.conftest import VECTORS, needs_vectors

E4M3 = "float8_e4m3fn"
WGMMA, ADA = f"sm90.wgmma.{E4M3}", f"sm89.mma.{E4M3}"


def load(name):
    with np.load(VECTORS / "h200" / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def plain_tensor(codes, format=E4M3):
    return ScaledTensor(codes, format)


def blocks(codes, scale, rows):
    return ScaledTensor(codes, E4M3, scale, Scaling((rows, 128)))


def recorded(name):
    """The op, inputs and outputs of one recorded kernel, and the arithmetic that NUMERICS says it has."""
    file, _, key = name.partition(":")
    z = load(file)
    if file == "deep_gemm_tf32_hc_prenorm":
        inputs = {"a": plain_tensor(z["a"], "bfloat16"), "b": plain_tensor(z["b"], "float32")}
        return "hc_prenorm", inputs, {"d": z["d"], "sqr_sum": z["s"]}
    if file == "deep_gemm_mqa_logits":
        kv = ScaledTensor(z["kv"], E4M3, z["kv_scale"][:, None], Scaling((1, 0)))
        return "mqa_logits", {"q": plain_tensor(z["q"]), "kv": kv, "weights": z["weights"]}, z["logits"]
    if "sfa" in z:
        rows = 128 if file.endswith("1d2d") else 1
        return "gemm", {"a": blocks(z["a"], z["sfa"], 1), "b": blocks(z["b"], z["sfb"], rows)}, z["d"]
    format = "bfloat16" if file == "deep_gemm_bf16" else E4M3
    return "gemm", {"a": plain_tensor(z["a"], format), "b": plain_tensor(z["b"], format)}, z[key or "d"]


RECORDED = {
    "deep_gemm_fp8_1d2d": "deep_gemm.sm90.fp8_1d2d",
    "deep_gemm_fp8_1d1d": "deep_gemm.sm90.fp8_1d1d",
    "deep_gemm_bf16": "deep_gemm.sm90.bf16",
    "deep_gemm_tf32_hc_prenorm": "deep_gemm.sm90.hc_prenorm",
    "deep_gemm_mqa_logits": "deep_gemm.sm90.mqa_logits",
    "cublaslt_fp8_tensorwise:d_fast": "cublaslt.fp8_fast",
    "cublaslt_fp8_tensorwise:d_precise": "cublaslt.fp8_promote128",
    "cublaslt_fp8_tensorwise_k7168:d_fast": "cublaslt.fp8_fast_split2",
    "cublaslt_fp8_tensorwise_k7168:d_precise": "cublaslt.fp8_promote128",
}


def unscaled(arithmetic: Arithmetic) -> Arithmetic:
    """The same arithmetic where scales are all 1 and so leave no trace."""
    return plain(arithmetic.but(scales="none" if arithmetic.scales == "epilogue" else arithmetic.scales))


@needs_vectors
@pytest.mark.parametrize("name", RECORDED)
def test_every_recorded_kernel_is_recognised_from_its_outputs_alone(name, monkeypatch):
    monkeypatch.setattr(fingerprint_space, "presets", lambda *args, **kwargs: [])
    found = infer_arithmetic(*recorded(name))
    assert found.arithmetic is not None
    assert found.agreement == 1.0
    assert unscaled(found.arithmetic) == unscaled(ARITHMETICS[RECORDED[name]])


@needs_vectors
def test_a_known_arithmetic_is_named():
    found = infer_arithmetic(*recorded("deep_gemm_mqa_logits"))
    assert found.arithmetic.name == "deep_gemm.sm90.mqa_logits"
    assert found.tried <= 2


def test_what_an_output_cannot_tell_apart_is_listed():
    rng = np.random.default_rng(0)
    a, b = (FORMATS[E4M3].encode(rng.integers(-2, 3, (24, 512)).astype(np.float32)) for _ in "ab")
    inputs = {"a": plain_tensor(a), "b": plain_tensor(b)}
    found = infer_arithmetic("gemm", inputs, contract(*inputs.values(), "cublaslt.fp8_fast"))
    assert found.arithmetic is not None
    assert found.open["splits"] == (2, 3, 4, 8)  # sums of small integers are exact in every order
    assert ADA in found.open["core"]


def operands(m=24, n=40, k=768, scaled=False, format=E4M3):
    rng = np.random.default_rng(5)
    codes = [FORMATS[format].encode(rng.standard_normal((rows, k)).astype(np.float32) * 3) for rows in (m, n)]
    if not scaled:
        return {name: plain_tensor(x, format) for name, x in zip("ab", codes, strict=True)}
    grids = [rng.uniform(0.5, 2, (rows, k // 128)).astype(np.float32) for rows in (m, -(-n // 128))]
    return {"a": blocks(codes[0], grids[0], 1), "b": blocks(codes[1], grids[1], 128)}


SYNTHETIC = [
    Arithmetic("x", ADA),
    Arithmetic("x", WGMMA, 256),
    Arithmetic("x", "sm100.mma.float8_e4m3fn"),
    Arithmetic("x", "sm100.tcgen05.float8_e4m3fn"),
    Arithmetic("x", WGMMA, splits=3, split_unit=128, reduction="descending"),
    Arithmetic("x", WGMMA, splits=6, split_unit=128, reduction="tree"),
    Arithmetic("x", WGMMA, splits=4, split_unit=64),
    Arithmetic("x", "sm80.mma.bfloat16"),
    Arithmetic("x", "sm90.wgmma.bfloat16", splits=4, split_unit=128),
]
SCALED = [
    sm90_fp8().but(promotion="multiply_add"),
    sm90_fp8().but(promotion="multiply_add", scales="each"),
    sm90_fp8(interval=64),
    sm90_fp8().but(splits=2, split_unit=128),
    Arithmetic("x", ADA, 128, "fma", "product"),
]


def check_recovered(arithmetic, inputs, c=None):
    if c is not None:
        inputs = {**inputs, "c": c}
    a, b = inputs["a"], inputs["b"]
    output = finish(contract(a, b, arithmetic, c), out="float32", rounding=arithmetic.output_rounding)
    found = infer_arithmetic("gemm", inputs, output)
    assert found.arithmetic is not None, found.summary()
    np.testing.assert_array_equal(contract(a, b, found.arithmetic, c), output)
    if not found.open:
        assert plain(found.arithmetic).core == arithmetic.core


@pytest.mark.parametrize("arithmetic", SYNTHETIC, ids=lambda a: f"{a.core}-{a.interval}-{a.splits}-{a.reduction}")
def test_synthetic_arithmetics_are_recovered(arithmetic):
    check_recovered(arithmetic, operands(format="bfloat16" if "bfloat16" in arithmetic.core else E4M3))


@pytest.mark.parametrize(
    "arithmetic", SCALED, ids=lambda a: f"{a.core}-{a.interval}-{a.promotion}-{a.scales}-{a.splits}"
)
def test_synthetic_promotions_are_recovered(arithmetic):
    check_recovered(arithmetic, operands(scaled=True))


@pytest.mark.parametrize(("recipe", "name"), [("mxfp8", "deep_gemm.sm100.fp8_1d1d"), ("nvfp4", "cublaslt.sm100.nvfp4")])
def test_block_scaled_instructions_are_recovered(recipe, name, monkeypatch):
    rng = np.random.default_rng(4)
    a, b = (quantize(rng.standard_normal((rows, 512)).astype(np.float32), recipe) for rows in (20, 36))
    monkeypatch.setattr(fingerprint_space, "presets", lambda *args, **kwargs: [])
    found = infer_arithmetic("gemm", {"a": a, "b": b}, contract(a, b, name))
    assert found.arithmetic is not None
    assert found.arithmetic.name == name


@pytest.mark.parametrize("boundaries", [(), (256, 512)])
def test_scales_that_are_folded_into_codes_are_recovered(boundaries):
    rng = np.random.default_rng(21)
    a, _ = operands(scaled=True).values()
    exponents = rng.integers(121, 128, (40, 24)).astype(np.uint8)
    exponents[3, 9] = 140  # one row of one block does not fold
    codes = rng.integers(0, 16, (40, 768), dtype=np.uint8)
    b = ScaledTensor(codes, "float4_e2m1fn", exponents, RECIPES["mxfp4"].scaling)
    folding = ARITHMETICS["dgref.sm90.fp8_mxfp4"].but(boundaries=boundaries)
    check_recovered(folding, {"a": a, "b": b})


def test_c_inside_the_first_chain_is_recovered():
    c = np.random.default_rng(1).standard_normal((24, 40)).astype(np.float32)
    check_recovered(Arithmetic("x", WGMMA, c="core"), operands(), c)


def test_truncation_of_the_output_is_recovered():
    inputs = operands(format="bfloat16")
    sums = contract(inputs["a"], inputs["b"], "deep_gemm.sm90.bf16")
    found = infer_arithmetic("gemm", inputs, finish(sums, out="bfloat16", rounding="toward_zero"))
    assert found.arithmetic.output_rounding == "toward_zero"


def test_a_kernel_with_one_wrong_row_gets_the_nearest_arithmetic_and_its_disagreement():
    inputs = operands()
    output = contract(inputs["a"], inputs["b"], "cublaslt.fp8_fast")
    output[23] *= 1.5
    found = infer_arithmetic("gemm", inputs, output, budget=1.0)
    assert found.arithmetic is None
    assert found.agreement == 23 / 24
    assert found.nearest.core == WGMMA
    assert found.summary().startswith("no arithmetic found; nearest sm90.wgmma")
    assert json.loads(json.dumps(found.to_dict()))["found"] is False


def test_an_inference_is_data_that_a_backend_can_declare():
    inputs = operands()
    found = infer_arithmetic("gemm", inputs, contract(inputs["a"], inputs["b"], "cublaslt.fp8_fast"))
    data = json.loads(json.dumps(found.to_dict()))
    assert Arithmetic.from_dict(data["arithmetic"]) == found.arithmetic
    assert "100.00% of 960 elements" in found.summary()


@pytest.mark.parametrize(
    ("arithmetic", "scaled", "chains", "sums"),
    [
        (sm90_fp8((256, 512)), True, "0, 128, 256, 384, 512, 640", "0, 256, 512"),
        (sm90_fp8((256, 640)), True, "0, 128, 256, 384, 512, 640", "0, 256"),
        (sm90_fp8(), True, "0, 128, 256, 384, 512, 640", "at 0"),
        (Arithmetic("x", WGMMA, boundaries=(256, 640)), False, "0, 256, 640", "at 0"),
        (Arithmetic("x", "sm80.mma.bfloat16"), False, "at 0", "at 0"),
    ],
    ids=["splits of promoted chains", "a last split of one chain", "promoted chains", "split chains", "one chain"],
)
def test_probes_find_width_reach_promotion_and_splits(arithmetic, scaled, chains, sums):
    inputs = operands(scaled=scaled, format="bfloat16" if "bfloat16" in arithmetic.core else E4M3)
    found = infer_arithmetic("gemm", inputs, backend=lambda a, b: contract(a, b, arithmetic))
    core = arithmetic.tensor_core
    assert found.evidence[0] == f"terms more than {core.fraction_bits} bits below the largest are cut off"
    assert found.evidence[1] == f"{core.step} products are aligned at once"
    assert chains in found.evidence[2]
    assert sums in found.evidence[3]
    assert found.tried <= 8
    assert found.arithmetic.ranges(768) == arithmetic.ranges(768)


def test_the_fullest_group_stands_for_a_grouped_product():
    inputs = operands()
    rng = np.random.default_rng(2)
    weights = FORMATS[E4M3].encode(rng.standard_normal((3, 40, 768)).astype(np.float32))
    labels = np.array([0] * 4 + [1] * 16 + [-1] * 4, np.int32)
    d = np.zeros((24, 40), np.float32)
    d[4:20] = contract(plain_tensor(inputs["a"].data[4:20]), plain_tensor(weights[1]), "cublaslt.fp8_fast")
    grouped = {"a": inputs["a"], "b": plain_tensor(weights), "grouped_layout": labels}
    found = infer_arithmetic("gemm_grouped_contiguous", grouped, d)
    assert found.evidence[0] == "group 1, rows 4..19"
    assert named(found.arithmetic).name == "cublaslt.fp8_fast"
    masked = {
        "a": plain_tensor(inputs["a"].data[None].repeat(3, 0)),
        "b": plain_tensor(weights),
        "masked_m": [1, 20, 0],
    }
    d = contract(masked["a"], masked["b"], "cublaslt.fp8_promote128")
    d[1, 20:] = 7
    assert infer_arithmetic("gemm_grouped_masked", masked, d).arithmetic.interval == 128


def test_logits_that_a_row_does_not_see_are_left_out():
    rng = np.random.default_rng(3)
    q, kv = (
        plain_tensor(FORMATS[E4M3].encode(rng.standard_normal(s).astype(np.float32))) for s in ((6, 16, 64), (30, 64))
    )
    weights = rng.standard_normal((6, 16)).astype(np.float32)
    from dgref.reference.attention import mqa_logits

    spans = {"starts": np.arange(6), "ends": np.arange(6) + 20}
    logits = mqa_logits(q, kv, weights, *spans.values(), arithmetic="deep_gemm.sm90.mqa_logits")
    found = infer_arithmetic("mqa_logits", {"q": q, "kv": kv, "weights": weights, **spans}, logits)
    assert found.arithmetic is not None
    assert found.compared == 6 * 20


def test_a_case_names_its_op_and_output_format():
    @dataclass
    class Case:
        op: str = "gemm"
        out: str = "float16"

    inputs = operands()
    half = finish(contract(inputs["a"], inputs["b"], "cublaslt.fp8_fast"), out="float16").view(np.uint16)
    assert infer_arithmetic(Case(), inputs, half).arithmetic is not None


def test_what_cannot_be_inferred_is_refused():
    inputs = operands()
    with pytest.raises(UnsupportedError, match="op: got 'quantize', need gemm or"):
        infer_arithmetic("quantize", inputs, np.zeros((1, 1), np.float32))
    with pytest.raises(ShapeError, match="output: got"):
        infer_arithmetic("gemm", inputs, np.zeros((1, 1), np.float32))
    with pytest.raises(InputError, match="output: got none"):
        infer_arithmetic("gemm", inputs)
    with pytest.raises(UnsupportedError, match="formats that no tensor core multiplies"):
        infer_arithmetic("gemm", operands(format="bfloat16"), np.zeros((24, 40), np.float32), architecture="sm70")


def grouped(layout: list[int], **how) -> tuple[dict, np.ndarray]:
    """Return operands of groups of rows, and their product in pieces of 128 of K."""
    from dgref.reference import gemm_grouped_contiguous

    rng = np.random.default_rng(5)
    a, b = (quantize(rng.standard_normal(s).astype(np.float32), "mxfp8") for s in ((4, 256), (4, 16, 256)))
    inputs = {"a": a, "b": b, "grouped_layout": np.array(layout, np.int32), **how}
    return inputs, gemm_grouped_contiguous(**inputs, arithmetic="dgref.sm90.fp8_fp4", out="float32")


@pytest.mark.parametrize(
    ("layout", "how", "evidence"),
    [
        ([1, 2, 3, 4], {"psum": True, "alignment": 1}, "group 0, rows 0..0"),
        ([0, 1, 4, 4], {"psum": True, "alignment": 1}, "group 2, rows 1..3"),
        ([0, 4, 4, 4], {"psum": True, "alignment": 1}, "group 1, rows 0..3"),
        ([0, 1, 2, 4], {"psum": True, "alignment": 2}, "group 3, rows 2..3"),
        ([3, 1, 3, 0], {}, "group 3, rows 0..2, 2 of them"),
        ([2, 2, -1, 1], {}, "group 2, rows 0..1"),
    ],
)
def test_a_group_is_found_by_its_labels_or_running_ends_whatever_their_number(layout, how, evidence):
    inputs, d = grouped(layout, **how)
    found = infer_arithmetic("gemm_grouped_contiguous", inputs, d)
    assert found.arithmetic is not None
    assert found.evidence[0] == evidence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grouped_layout": None}, "operand grouped_layout of gemm_grouped_contiguous: got nothing"),
        ({"a": None}, "operand a of gemm_grouped_contiguous: got nothing"),
        ({"C": None}, "parameter of gemm_grouped_contiguous: got 'C'"),
        ({"grouped_layout": np.full(4, -1)}, "groups: got no rows in any"),
    ],
)
def test_operands_that_are_missing_or_misspelt_are_named(changes, words):
    inputs, d = grouped([0, 0, 1, 1])
    with pytest.raises(InputError, match=words):
        infer_arithmetic("gemm_grouped_contiguous", {**inputs, **changes}, d)


def test_splits_of_the_prenorm_show_what_one_of_them_does():
    from dgref.reference import hc_prenorm

    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((8, 512)).astype("bfloat16"), rng.standard_normal((24, 512)).astype(np.float32)
    outputs = hc_prenorm(a, b, num_splits=3, arithmetic="deep_gemm.sm90.hc_prenorm")
    found = infer_arithmetic("hc_prenorm", {"a": a, "b": b, "num_splits": 3}, outputs)
    assert found.arithmetic.name == "deep_gemm.sm90.hc_prenorm"


def test_probes_of_torch_operands_are_torch_tensors():
    import torch

    def backend(a, b):
        assert isinstance(a.data, torch.Tensor) and isinstance(b.scale, torch.Tensor)
        return contract(a, b, "dgref.sm90.fp8_fp4")

    a, b = (quantize(torch.randn(16, 256), "mxfp8") for _ in "ab")
    assert infer_arithmetic("gemm", {"a": a, "b": b}, backend=backend).arithmetic is not None
