"""Operands that someone holds are the case that they are: extents, parameters and layouts follow from them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from dgref import quantize, reference
from dgref.errors import DgrefError, InputError, ShapeError
from dgref.given import given
from dgref.ops import OPS
from dgref.ops.op import Op
from dgref.suite import load, names

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, dtype=np.float32)


def smallest() -> list:
    """Return the case of every op that takes least work, of each setting of its parameters that shape inputs only."""
    found: dict = {}
    for case in (case for name in names() for case in load(name).cases if load(name).device != "gpu"):
        op = OPS[case.op]
        shaping = {p.name: case.params.get(p.name) for p in op.params if p.shapes_inputs_only and not p.choices}
        key = (case.op, tuple(shaping.items()))
        if 0 not in case.shape.values() and (key not in found or op.flops(case) < op.flops(found[key])):
            found[key] = case
    return list(found.values())


@pytest.mark.parametrize("case", smallest(), ids=lambda case: case.name)
def test_the_inputs_of_a_case_are_that_case_again(case) -> None:
    op, inputs = OPS[case.op], case.make_inputs()
    problem = op.problem(case)
    stated = {p.name: problem[p.name] for p in op.params if not p.shapes_inputs_only}
    stated |= {axis: problem[axis] for axis in op.extents_as_options}
    found = given(case.op, {**inputs, **stated}, case.out if op.out_formats else None)
    op.accept(found.case, found.inputs)
    again, told = op.problem(found.case, found.inputs), set(op.told) | {"groups", "keys", "routes", "zero_padding"}
    assert {axis: again[axis] for axis in case.shape if axis not in told} == {
        axis: extent for axis, extent in case.shape.items() if axis not in told
    }
    assert {n: again[n] for n in again.params if n not in told} == {
        n: problem[n] for n in problem.params if n not in told
    }
    right = op.compute(case, inputs)
    made = op.compute(found.case, found.inputs)
    for name, array in op.allocate(found.case, inputs=found.inputs).items():
        assert (array.shape, array.dtype) == (np.shape(right[name]), right[name].dtype)
        assert np.asarray(made[name]).tobytes() == np.asarray(right[name]).tobytes()


A, B = quantize(normal(4, 128), "deepseek_fp8"), quantize(normal(3, 16, 128), "deepseek_fp8_weight")
LABELS = np.array([0, 2, 1, -1], np.int32)


@pytest.mark.parametrize(
    ("op", "values", "words"),
    [
        ("gemm", {"a": A, "b": A, "accumulate": True}, "operand c of gemm: got nothing, need a tensor"),
        ("gemm", {"a": A, "b": A, "head_splits": 3}, "param 'head_splits': got 3, need a list of whole numbers"),
        ("gemm", {"a": A, "b": A, "C": A}, "parameter of gemm: got 'C', need"),
        ("gemm", {"a": A, "b": A, "c": normal(4, 4), "accumulate": False}, "need nothing where accumulate = False"),
        ("gemm", {"a": A, "b": A, "m": 5}, "parameter m of gemm: got 5, need 4, as shapes show"),
        ("gemm", {"a": A, "b": B}, "b shape: got .3, 16, 128., need 2 axes"),
        ("gemm_grouped_contiguous", {"a": A, "b": B}, "operand grouped_layout of gemm_grouped_contiguous: got nothing"),
        (
            "gemm_grouped_contiguous",
            {"a": A, "b": B, "grouped_layout": "x"},
            "grouped_layout: got a str, need an integ",
        ),
        ("gemm_grouped_contiguous", {"a": A, "b": B, "grouped_layout": LABELS[:, None]}, "grouped_layout shape: got"),
        (
            "gemm_grouped_contiguous",
            {"a": A, "b": B, "grouped_layout": LABELS, "alignment": float("nan")},
            "'alignment'",
        ),
        ("gemm_grouped_contiguous", {"a": A, "b": B, "grouped_layout": LABELS, "zero_padding": None}, "'zero_padding'"),
        ("gemm_grouped_contiguous", {"a": A, "b": B, "grouped_layout": LABELS, "groups": "x"}, "'groups'"),
        ("scales_required", {"scales": normal(1, 4, 1), "block": 0, "m": 4, "k": 1}, "parameter architecture"),
        ("einsum", {"a": normal(2, 3, 4), "b": normal(2, 3, 4)}, "parameter expression of einsum: got nothing"),
        ("paged_mqa_metadata", {"context_lens": LABELS[:, None] * 0}, "parameter num_sms of paged_mqa_metadata"),
        (
            "paged_mqa_metadata",
            {"context_lens": LABELS[:, None] * 0, "num_sms": 1, "max_context_len": 10**12},
            "got 1000000000000, need an integer from 0 to",
        ),
    ],
)
def test_what_is_no_problem_of_the_op_is_a_sentence(op: str, values: dict, words: str) -> None:
    with pytest.raises(DgrefError, match=words):
        given(op, values, "bfloat16")


@pytest.mark.parametrize(
    ("op", "values", "words"),
    [
        (
            "quantize",
            {"x": normal(4, 8), "recipe": "bfloat16"},
            "quantize recipe: got bfloat16, need a recipe with scale",
        ),
        (
            "mqa_logits",
            {
                "q": normal(2, 4, 32).astype(ml_dtypes.bfloat16),
                "kv": normal(5, 32).astype(ml_dtypes.bfloat16),
                "weights": normal(2, 4),
                "starts": np.zeros(2, int),
                "ends": np.ones(2, int),
                "clean": False,
                "max_seqlen_k": -1,
            },
            "max_seqlen_k: got -1, need at least 0",
        ),
        ("gemm", {"a": normal(4, 8), "b": normal(4, 8)}, "operand a of gemm: got float32, need float8_e4m3fn or"),
    ],
)
def test_what_the_op_refuses_of_a_case_it_refuses_of_operands(op: str, values: dict, words: str) -> None:
    found = given(op, values, "float32" if OPS[op].out_formats else None)
    with pytest.raises(DgrefError, match=words):
        found.op.accept(found.case, found.inputs)


def test_torch_operands_of_every_kind_become_numpy_arrays() -> None:
    a = quantize(torch.from_numpy(normal(4, 128)), "nvfp4")
    layout = torch.tensor([0, 0, 1, 1], dtype=torch.int32)
    b = quantize(torch.from_numpy(normal(2, 8, 128)), "nvfp4")
    found = given("gemm_grouped_contiguous", {"a": a, "b": b, "grouped_layout": layout}, "float32")
    assert all(isinstance(part, np.ndarray) for t in "ab" for part in (found.inputs[t].data, found.inputs[t].scale))
    assert isinstance(found.inputs["grouped_layout"], np.ndarray)
    assert found.case.operands["a"].recipe == "nvfp4"


def test_an_array_has_its_axes_in_the_order_of_the_expression() -> None:
    a, b = (normal(*shape).astype(ml_dtypes.bfloat16) for shape in ((3, 4, 64), (4, 8, 64)))
    found = given("einsum", {"a": a, "b": b, "expression": "bhr,hdr->bhd"}, "float32")
    assert found.case.shape == {"batch": 4, "m": 3, "n": 8, "k": 64}
    made = found.op.compute(found.case, found.inputs)["d"]
    assert made.tobytes() == reference.einsum("bhr,hdr->bhd", a, b, out="float32").tobytes()
    with pytest.raises(ShapeError, match=r"a shape: got .3, 256., need 3 axes"):
        given("einsum", {"a": a.reshape(3, 256), "b": b, "expression": "bhr,hdr->bhd"}, "float32")


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0, 3, 4), (2, 3, 4, 5)])
def test_a_conversion_takes_any_axes_as_rows(shape: tuple[int, ...]) -> None:
    found = given("cast", {"x": np.zeros(shape, np.float32)}, "float8_e4m3fn")
    assert found.joined == shape
    assert found.inputs["x"].shape == (int(np.prod(shape[:-1])), shape[-1] if shape else 1)


def test_rows_of_two_matrices_share_no_block_of_scales() -> None:
    assert given("quantize", {"x": normal(2, 8, 64), "recipe": "mxfp8"}).joined == (2, 8, 64)
    assert given("quantize", {"x": normal(2, 128, 128), "recipe": "deepseek_fp8_weight"}).joined == (2, 128, 128)
    for shape, recipe in (((2, 64, 128), "deepseek_fp8_weight"), ((2, 8, 64), "nvfp4")):
        with pytest.raises(InputError, match=r"x shape: got .*, need 2 axes"):
            given("quantize", {"x": normal(*shape), "recipe": recipe})


def test_counts_that_nobody_gives_are_zero() -> None:
    case = next(case for case in smallest() if case.op == "mega_moe")
    inputs = case.make_inputs()
    counts = inputs.pop("recv_stats")
    found = given("mega_moe", {**inputs, **{n: v for n, v in case.params.items() if n != "routes"}})
    assert isinstance(found.op, Op) and not found.inputs["recv_stats"].any()
    assert found.inputs["recv_stats"].shape == counts.shape
