"""Every row of the op table keeps the promises of the row class, by default: a new row is tested when it has a case."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dgref.errors import DgrefError
from dgref.formats import ScaledTensor
from dgref.ops import OPS
from dgref.reference.dispatch import using
from dgref.reference.limits import within
from dgref.suite import InputChoice, OperandChoice
from tests.ops.cases import CASES, case
from tests.reference.plain import bits

EVERY = [pytest.param(row, id=f"{row.op}-{number}") for number, (row, _) in enumerate(CASES)]
MODELLED = [pytest.param(row, model, id=f"{row.op}-{n}") for n, (row, model) in enumerate(CASES) if model]


def first_of_each_op(count: int = 2) -> list:
    """Return the first cases of every op, for tests that are slow and gain nothing from more group patterns."""
    seen: Counter = Counter()
    kept = []
    for number, (row, model) in enumerate(CASES):
        seen[row.op] += 1
        if seen[row.op] <= count:
            kept.append(pytest.param(row, model, id=f"{row.op}-{number}"))
    return kept


FEW = first_of_each_op()
FEW_MODELLED = [pair for pair in FEW if pair.values[1]]


def test_every_row_has_a_case():
    assert {row.op for row, _ in CASES} == set(OPS)


def test_names_say_no_format_and_no_architecture():
    for name in OPS:
        assert not any(word in name for word in ("fp8", "fp4", "bf16", "sm90", "sm100", "cuda")), name


@pytest.mark.parametrize("row", EVERY)
def test_outputs_have_the_shapes_dtypes_and_masks_of_the_row(row):
    op = OPS[row.op]
    op.validate(row)
    inputs = op.make_inputs(row)
    outputs, allocated, defined = op.compute(row, inputs), op.allocate(row), op.defined(row, inputs)
    assert set(outputs) == set(allocated) == set(defined) == set(op.output_shapes(row))
    for name, array in outputs.items():
        assert (array.shape, array.dtype) == (allocated[name].shape, allocated[name].dtype), name
        assert defined[name] is None or (defined[name].shape, defined[name].dtype) == (array.shape, bool)


@pytest.mark.parametrize("row", EVERY)
def test_inputs_have_the_shapes_of_the_row_and_are_made_the_same_again(row):
    op = OPS[row.op]
    problem, first, again = op.problem(row), op.make_inputs(row), op.make_inputs(row)
    assert set(first) == {operand.name for operand in op.present(problem)}
    for operand in op.present(problem):
        one, two = first[operand.name], again[operand.name]
        assert tuple(one.shape) == operand.shape(problem), operand.name
        for x, y in ((one.data, two.data), (one.scale, two.scale)) if isinstance(one, ScaledTensor) else ((one, two),):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("row", "model"), MODELLED)
def test_exact_and_model_agree_where_both_are_exact(row, model):
    op = OPS[row.op]
    inputs = op.make_inputs(row)
    exact, modelled, defined = op.compute(row, inputs), op.compute(row, inputs, model), op.defined(row, inputs)
    for name in exact:
        where = ... if defined[name] is None else defined[name]
        np.testing.assert_array_equal(exact[name][where], modelled[name][where])


@pytest.mark.parametrize("row", EVERY)
def test_costs_are_whole_numbers_and_no_more_than_everything(row):
    op = OPS[row.op]
    inputs = op.make_inputs(row)
    flops, moved = op.flops(row, inputs), op.bytes(row, inputs)
    assert isinstance(flops, int) and isinstance(moved, int) and flops >= 0
    assert (flops, moved) == (op.flops(row), op.bytes(row))  # the indices of a case are made from its seed
    everything = sum(_size(x) for x in inputs.values()) + sum(x.nbytes for x in op.allocate(row).values())
    assert moved <= everything


def _size(operand) -> int:
    if not isinstance(operand, ScaledTensor):
        return operand.nbytes
    return operand.data.nbytes + (0 if operand.scale is None else operand.scale.nbytes)


def test_flops_and_bytes_of_a_dense_product_are_those_of_the_textbook():
    row = case("gemm", dict(m=128, n=256, k=512), {"a": "deepseek_fp8", "b": "deepseek_fp8_weight"}, out="bfloat16")
    op = OPS["gemm"]
    assert op.flops(row) == 2 * 128 * 256 * 512
    assert op.bytes(row) == 128 * 512 + 128 * 4 * 4 + 256 * 512 + 2 * 4 * 4 + 128 * 256 * 2
    packed = replace(
        row, operands={"a": OperandChoice("mxfp4"), "b": OperandChoice("nvfp4")}, params={"accumulate": True}
    )
    assert op.bytes(packed) == 128 * 512 // 2 + 128 * 16 + 256 * 512 // 2 + 256 * 32 + 2 * 128 * 256 * 2


def test_ragged_ops_cost_what_their_groups_use():
    row = case("gemm_grouped_masked", dict(g=2, m=8, n=16, k=32), {"a": "bfloat16", "b": "bfloat16"}, out="bfloat16")
    inputs = {"masked_m": np.array([3, 0], np.int32)}
    assert OPS[row.op].flops(row, inputs) == 2 * 3 * 16 * 32
    assert OPS[row.op].bytes(row, inputs) == 2 * (3 * 32 + 16 * 32 + 3 * 16) + 2 * 4


def test_allocated_bytes_hold_the_poison():
    row = case("gemm", dict(m=2, n=3, k=32), {"a": "mxfp8", "b": "mxfp8"})
    assert (bits(OPS["gemm"].allocate(row, 0x55)["d"]) == 0x55555555).all()


GEMM, AB = dict(m=4, n=6, k=32), {"a": "mxfp8", "b": "mxfp8"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (case("gemm", dict(m=4, n=6), AB), "gemm shape: got no extent for k, need every one of m, n, k [x]"),
        (case("gemm", {**GEMM, "kk": 1}, AB), "gemm: axis: got 'kk', need k [x]"),
        (case("gemm", GEMM, {"a": "mxfp8"}), "gemm b: got no recipe, need one, such as { recipe = 'mxfp8' } [x]"),
        (case("gemm", GEMM, {**AB, "c": "float32"}), "gemm: operand: got 'c', need"),
        (case("gemm", GEMM, AB, {"acumulate": True}), "gemm: param: got 'acumulate', need accumulate [x]"),
        (case("gemm", GEMM, AB, {"accumulate": 1}), "gemm param 'accumulate': got 1, need true or false [x]"),
        (
            case("gemm", GEMM, AB, {"head_splits": [4, 1, 4]}),
            "gemm head_splits, n: got ((4, 1, 4), 6), need left, mid, right >= 0",
        ),
        (
            case("gemm", GEMM, AB, out="float8_e4m3fn"),
            "gemm out: got float8_e4m3fn, need bfloat16 or float16 or float32 [x]",
        ),
        (
            case("gemm", GEMM, {"a": "mxfp8", "b": "float8_e8m0fnu"}),
            "gemm b: got float8_e8m0fnu (float8_e8m0fnu), need a recipe of float8_e4m3fn or",
        ),
        (
            case("einsum", dict(batch=1, m=1, n=1, k=1), AB, {"expression": "bhr,hdr->bdh"}),
            "einsum param 'expression': value: got 'bhr,hdr->bdh', need bhr,hdr->bhd",
        ),
        (
            case("hc_prenorm", dict(m=1, n=1, k=1), params={"num_splits": 0}),
            "hc_prenorm num_splits: got 0, need a whole number of at least 1 [x]",
        ),
        (
            case("mega_moe", dict(ranks=2, tokens=1, hidden=1, intermediate=32, experts=3, topk=1)),
            "mega_moe experts, ranks: got (3, 2), need experts a multiple of ranks > 0 [x]",
        ),
        (
            case("gemm_grouped_k", dict(g=2, m=1, n=1, k=4), {"a": "per_row_fp8", "b": "per_row_fp8"}),
            "gemm_grouped_k k: got 4, need recipes whose scales cover a part of K each [x]",
        ),
    ],
)
def test_errors_name_field_value_need_and_case(row, words):
    with pytest.raises(DgrefError) as caught:
        OPS[row.op].validate(row)
    assert words in str(caught.value)


@pytest.mark.parametrize(("row", "model"), FEW)
def test_every_extent_of_0_and_1_is_computed_or_refused_in_a_sentence(row, model):
    op = OPS[row.op]
    for axis, extent in ((axis, extent) for axis in row.shape for extent in (0, 1)):
        small = replace(row, shape={**row.shape, axis: extent})
        try:
            op.validate(small)
        except DgrefError as error:
            assert str(error).startswith(f"{row.op} ") and "need" in str(error)
            continue
        inputs = op.make_inputs(small)
        outputs = op.compute(small, inputs, model or "exact")
        assert {name: array.shape for name, array in outputs.items()} == op.output_shapes(small)
        op.defined(small, inputs), op.flops(small, inputs), op.bytes(small, inputs)


@pytest.mark.parametrize(("row", "model"), FEW_MODELLED)
def test_a_model_stays_inside_the_bound_of_its_op(row, model):
    op, row = OPS[row.op], replace(row, inputs=InputChoice("normal", 7))
    inputs = op.make_inputs(row)
    exact, modelled, limits = op.compute(row, inputs), op.compute(row, inputs, model), op.bound(row, inputs, model)
    for name, mask in op.defined(row, inputs).items():
        where = ... if mask is None else mask
        assert within(modelled[name], limits[name])[where].all() and within(exact[name], limits[name])[where].all()
        assert not limits[name]["besides"][where].any()


@pytest.mark.parametrize(("row", "model"), FEW_MODELLED)
def test_the_readable_path_gives_the_bits_of_the_fast_one(row, model):
    op, row = OPS[row.op], replace(row, inputs=InputChoice("wide", 11))
    inputs = op.make_inputs(row)
    for arithmetic in (model, "exact"):
        fast = op.compute(row, inputs, arithmetic)
        with using("readable"):
            slow = op.compute(row, inputs, arithmetic)
        for name in fast:
            np.testing.assert_array_equal(bits(fast[name]), bits(slow[name]))


WRONG = (None, 0, -1, 2.5, "x", "", True, (1,), [0, 0, 0], (1.5, 2, 3), (-1, 2, 3), {}, float("nan"), 10**9)


@pytest.mark.parametrize("row", EVERY)
def test_any_value_of_a_parameter_is_taken_or_refused_in_a_sentence(row):
    op = OPS[row.op]
    for param in op.params:
        for value in WRONG:
            try:
                op.validate(replace(row, params={**row.params, param.name: value}))
            except DgrefError as error:
                assert "need" in str(error)
