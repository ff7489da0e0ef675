"""A spoiled argument gives an error of dgref's that names the function, and leaves the output as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from inspect import unwrap
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dgref.deep_gemm as deep_gemm
from dgref.deep_gemm.operands import check_writable
from dgref.errors import DgrefError, FormatError, InputError, LayoutError, ShapeError
from tests.deep_gemm.calls import CALLS, GROUPS, K, M, N, bf16, fp8, index, turned
from tests.deep_gemm.spoiled import spoiled

# every public function that takes no tensor, an alias, or a name that something else tests
WITHOUT_A_CALL = {
    *("configure", "install", "uninstall", "SymmBuffer", "get_symm_buffer_for_mega_moe", "ceil_div", "align"),
    *("init_dist", "uneven_all_gather"),
}


def outputs(arguments: dict[str, Any]) -> list[bytes]:
    """Return the bytes of the tensors that a call writes, as far as they have any."""
    found = [arguments[name] for name in ("d", "sqr_sum", "y") if isinstance(arguments.get(name), torch.Tensor)]
    held = [tensor.detach() for tensor in found if tensor.layout == torch.strided and not tensor.is_meta]
    return [
        tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"" for tensor in held
    ]


def function(name: str) -> Callable:
    return reduce(getattr, name.split("."), deep_gemm)


def test_every_public_function_has_a_call_to_spoil() -> None:
    spoiled_ones = {unwrap(function(name)) for name in CALLS}
    public = {name for name in deep_gemm.__all__ if callable(getattr(deep_gemm, name))}
    missing = {name for name in public - WITHOUT_A_CALL if unwrap(getattr(deep_gemm, name)) not in spoiled_ones}
    assert missing <= {name for name in public if name.startswith(("set_", "get_"))}


@pytest.mark.parametrize("name", CALLS)
def test_the_call_itself_works(name: str) -> None:
    function(name)(**CALLS[name]())


@pytest.mark.parametrize("name", ["fp8_gemm_nt", "fp8_fp4_gemm_nt", "fp8_m_grouped_gemm_nt_masked"])
def test_too_few_arguments_are_too_few_for_the_name_that_was_called(name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\(\) missing \d required"):
        function(name)()


@settings(max_examples=300, deadline=None)
@given(data=st.data(), architecture=st.sampled_from(["sm90", "sm100"]))
def test_a_spoiled_argument_is_an_error_of_dgrefs_or_none(data: st.DataObject, architecture: str) -> None:
    deep_gemm.configure(architecture)
    name = data.draw(st.sampled_from(sorted(CALLS)))
    arguments = CALLS[name]()
    parameter = data.draw(st.sampled_from(sorted(arguments)))
    choices = list(spoiled(arguments[parameter]))
    arguments[parameter] = choices[data.draw(st.integers(0, len(choices) - 1), parameter)]
    before = outputs(arguments)
    try:
        function(name)(**arguments)
    except DgrefError as error:
        assert str(error).startswith(f"{name.rsplit('.', 1)[-1]}: ")
        assert outputs(arguments) == before


def dense(**changes: Any) -> Callable:
    call = {"a": fp8(M), "b": fp8(N, 128), "d": torch.zeros(M, N)} | changes
    return lambda: deep_gemm.fp8_gemm_nt(**call)


def grouped(**changes: Any) -> Callable:
    call = {"a": bf16(M, K), "b": bf16(GROUPS, N, K), "d": torch.zeros(M, N), "grouped_layout": index(*[0] * M)}
    return lambda: deep_gemm.m_grouped_bf16_gemm_nt_contiguous(**call | changes)


CODES, SCALES = fp8(M)
BYTES = CODES.view(torch.uint8)
WORDS = torch.zeros(M, 2, dtype=torch.int32)  # for 1x32 blocks
BOTH_BYTES = {"a": (BYTES, SCALES), "b": (BYTES, SCALES)}
NO_WORDS = (CODES, WORDS.view(torch.float32))
BY_32 = {"recipe_a": (1, 32), "recipe_b": (128, 128)}
NEAR_MISSES = [
    (ShapeError, "a scales shape: got [2, 6]", "this one is transposed", dense(a=(CODES, torch.ones(2, M)))),
    (ShapeError, "b scales shape: got [8, 2], need [1, 2]", "fit 1x128 blocks: say so in the recipe", dense(b=fp8(N))),
    (ShapeError, "a scales shape: got [6, 8]", "these fit 1x32 blocks", dense(a=(CODES, torch.ones(M, 8)))),
    (ShapeError, "a scales shape: got [6, 2], need [6, 4]", ": .view(torch.float8", dense(**BOTH_BYTES)),
    (ShapeError, "b: got k = 256, need k = 512", "a looks like FP8", dense(a=(BYTES, SCALES))),
    (ShapeError, "b: got k = 512, need k = 256", "b looks like FP8", dense(b=(BYTES, SCALES))),
    (ShapeError, "b: got k = 8, need k = 256", "[b looks transposed: nt,", dense(b=(turned(fp8(N)[0]), SCALES))),
    (ShapeError, "b: got k = 256, need k = 6", "[a looks transposed", dense(a=(turned(CODES), SCALES))),
    (ShapeError, "b: got k = 6, need k = 256", "[a or b looks transposed", dense(b=(turned(CODES), SCALES))),
    (FormatError, "a scales: got torch.int64, need torch.float32", "", dense(a=(CODES, WORDS.long()), **BY_32)),
    (ShapeError, "a scales shape: got [6, 2], need [6, 8]", ": .view(torch.int32)", dense(a=NO_WORDS, **BY_32)),
    (ShapeError, "b scales shape: got [6, 2], need [6, 1]", "these fit 1x32 blocks: say so", dense(b=(CODES, WORDS))),
    (FormatError, "a: got a tuple of 3, need a tuple (tensor, scales)", "", dense(a=(CODES, SCALES, SCALES))),
    (ShapeError, "b: got k = 8, need k = 256", "b looks transposed", dense(b=turned(fp8(N, 128)))),
    (ShapeError, "d shape: got [8, 6], need [6, 8]", "this one is transposed", dense(d=torch.zeros(N, M))),
    (FormatError, "d: got None, need a torch tensor", "", dense(d=None)),
    (LayoutError, "d strides: got (0, 1)", "an expanded view", dense(d=torch.zeros(1, N).expand(M, N))),
    (LayoutError, "d strides: got (1, 1)", "an overlapping view", dense(d=torch.zeros(99).as_strided((M, N), (1, 1)))),
    (InputError, "d: got a tensor on meta", "", dense(d=torch.zeros(M, N, device="meta"))),
    (FormatError, "a scales: got None, need a torch tensor", "", dense(a=(CODES, None))),
    (FormatError, "recipe: got (1, 128), need 3 integers", "", dense(recipe=(1, 128))),
    (InputError, "recipe: got 'row', need an integer from 1 up", "", dense(recipe=(1, "row", 128))),
    (FormatError, "a: got tuple, need a torch tensor alone", "takes no scales", grouped(a=fp8(M))),
    (FormatError, "grouped_layout: got [0, 0], need a torch tensor", "", grouped(grouped_layout=[0, 0])),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "sentence", "hint", "call"), NEAR_MISSES, ids=[row[1] for row in NEAR_MISSES])
def test_a_near_miss_is_named_with_what_would_be_right(kind: type, sentence: str, hint: str, call: Callable) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert sentence in str(caught.value) and hint in str(caught.value)


TURNED = [  # functions of several groups, and which of their operands have its last two axes swapped
    ("m_grouped_fp8_fp4_gemm_nt_contiguous", "b"),
    ("m_grouped_fp8_fp4_gemm_nt_contiguous", "a"),
    ("m_grouped_bf16_gemm_nt_contiguous", "b"),
    ("m_grouped_fp8_fp4_gemm_nt_masked", "b"),
    ("m_grouped_bf16_gemm_nt_masked", "b"),
    ("k_grouped_fp8_gemm_tn_contiguous", "b"),
    ("k_grouped_bf16_gemm_tn_contiguous", "b"),
    ("fp8_einsum", "b"),
]


@pytest.mark.parametrize(("name", "operand"), TURNED, ids=["-".join(row) for row in TURNED])
def test_an_operand_with_its_axes_swapped_is_named_before_its_scales(name: str, operand: str) -> None:
    arguments = CALLS[name]()
    found = arguments[operand]
    arguments[operand] = (turned(found[0]), found[1]) if isinstance(found, tuple) else turned(found)
    with pytest.raises(ShapeError, match=rf"^{name}: b: got k = .*\[{operand} looks transposed\]"):
        function(name)(**arguments)


@pytest.mark.parametrize("form", ["tn", "nt"])
@pytest.mark.parametrize("sizes", [[128, 128], [256, 256]])
def test_sizes_that_do_not_add_up_to_k_are_named_before_scales(form: str, sizes: list[int]) -> None:
    name = f"k_grouped_fp8_gemm_{form}_contiguous"
    arguments = CALLS[name]() | {"ks_cpu": sizes, "grouped_layout": index(*sizes)}
    sentence = {
        "tn": f"grouped_layout: got lengths that add up to {sum(sizes)}, need 384, the K of a",
        "nt": f"the sizes in ks_cpu add up to {sum(sizes)}",
    }
    with pytest.raises(ShapeError, match=sentence[form]):
        function(name)(**arguments)


def test_the_type_of_the_scales_of_keys_is_judged_before_their_shape() -> None:
    call = CALLS["fp8_mqa_logits"]()
    keys, scales = call["kv"]
    with pytest.raises(FormatError, match=r"kv scales: got torch\.int64, need torch\.float32"):
        deep_gemm.fp8_mqa_logits(**call | {"kv": (keys, scales.long()[1:])})


def test_rows_apart_or_interleaved_have_memory_of_their_own() -> None:
    made = torch.zeros(M, N)
    dense(d=made)()
    apart = torch.zeros(M, 2 * N)[:, :N]
    dense(d=apart)()
    assert torch.equal(apart, made)
    for strides, shape, overlapping in (((3, 2), (2, 3), False), ((4, 2), (2, 3), True), ((9, 3, 1), (1, 4, 3), False)):
        view = torch.zeros(30).as_strided(shape, strides)
        if not overlapping:
            check_writable("d", view)
            continue
        with pytest.raises(LayoutError, match="an overlapping view"):
            check_writable("d", view)


def test_the_function_that_was_called_is_named_not_the_one_inside() -> None:
    d = torch.zeros(M, N)
    with pytest.raises(ShapeError, match=r"^m_grouped_bf16_gemm_nn_contiguous: grouped_layout shape"):
        deep_gemm.m_grouped_bf16_gemm_nn_contiguous(bf16(M, K), bf16(GROUPS, K, N), d, index(0))


def test_pythons_own_sentence_stays_for_arguments_too_many_or_unknown() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'd'"):
        deep_gemm.bf16_gemm_nt(bf16(M, K), bf16(N, K))
    with pytest.raises(TypeError, match="unexpected keyword argument 'out'"):
        deep_gemm.bf16_gemm_nt(bf16(M, K), bf16(N, K), torch.zeros(M, N), out=1)
