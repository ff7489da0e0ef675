"""A dump in any of three kinds of file becomes the case that made it; what does not fit is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

from dgref.buffers import buffers_of
from dgref.cli.diagnose import command
from dgref.compare.dump import as_case, choice_of, read_arrays
from dgref.compare.hypotheses import State
from dgref.compare.prediction import compute
from dgref.errors import FileError, InputError, UnknownNameError
from dgref.faults.problems import PROBLEMS, state_of
from dgref.suite import Case, OperandChoice


def mxfp4() -> State:
    operand = OperandChoice("mxfp4", "swizzle_128x4")
    return state_of(Case("dump", "a test", "gemm", {"m": 40, "n": 48, "k": 128}, {"a": operand, "b": operand}))


def arrays_of(state: State, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs = {name: part.array for name, part in buffers_of(state.case, state.inputs).items()}
    return {**inputs, **{name: array.view(f"u{array.itemsize}") for name, array in outputs.items()}}


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".pt":
        import torch

        torch.save({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, path)
    else:
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
def test_a_dump_gives_back_inputs_and_outputs(tmp_path: Path, suffix: str) -> None:
    state = mxfp4()
    right = compute(state)
    path = write(tmp_path / f"dump{suffix}", arrays_of(state, right))
    choices = {name: choice_of("mxfp4:swizzle_128x4", name) for name in ("a", "b")}
    found = as_case(read_arrays(path), choices=choices, out="bfloat16")
    assert found.case.shape == {"m": 40, "n": 48, "k": 128}
    assert found.outputs["d"].tobytes() == right["d"].tobytes()
    for name in ("a", "b"):
        assert found.inputs[name].data.tobytes() == state.inputs[name].data.tobytes()
        assert found.inputs[name].scale.tobytes() == state.inputs[name].scale.tobytes()


@pytest.mark.parametrize("problem", ["contiguous", "masked", "logits", "prenorm"])
def test_dumps_of_other_operations_are_read_by_their_own_names(problem: str) -> None:
    state = state_of(PROBLEMS[problem].case(np.random.default_rng(2)))
    state = State(replace(state.case, operands={**state.case.operands, **defaults(state)}), state.inputs, None)
    arrays = arrays_of(state, {n: a for n, a in compute(replace(state, arithmetic="exact")).items()})
    found = as_case(arrays, state.case.op, state.case.operands, state.case.params, {}, state.case.out)
    assert dict(found.case.shape) == dict(state.case.shape)


def defaults(state: State) -> dict[str, OperandChoice]:
    from dgref.ops import OPS

    named = OPS[state.case.op].recipes(state.case)
    return {name: OperandChoice(recipe) for name, recipe in named.items() if name not in state.case.operands}


def test_the_command_names_the_fault_and_leaves_with_1(tmp_path: Path) -> None:
    state = mxfp4()
    data = state.inputs["a"].data.reshape(40, 64, 2)[..., ::-1].reshape(40, 128)
    wrong = compute(state.put("a", replace(state.inputs["a"], data=data)))
    path = write(tmp_path / "dump.npz", arrays_of(state, wrong))
    recipe = "mxfp4:swizzle_128x4"
    options = [str(path), "--a", recipe, "--b", recipe, "--out", "bfloat16", "--arithmetic", "deep_gemm.sm100.fp8_fp4"]
    result = CliRunner().invoke(command, options, standalone_mode=False)
    assert result.return_value == 1
    assert result.output.startswith("confirmed: the nibbles of a were swapped")
    assert "fix: take the even index of a from the low nibble" in result.output
    right = write(tmp_path / "right.npz", arrays_of(state, compute(state)))
    assert CliRunner().invoke(command, [str(right), *options[1:]], standalone_mode=False).return_value == 0


def test_what_does_not_fit_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="mxfp4"):
        choice_of("mxfp44", "a")
    with pytest.raises(UnknownNameError, match="swizzle_128x4"):
        choice_of("mxfp4:swizzle_128x", "a")
    with pytest.raises(UnknownNameError, match=r"a\.scale"):
        as_case({"a.scales": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match="bits need a meaning"):
        as_case({"a": np.zeros((4, 4), np.uint8), "b": np.zeros((4, 4), np.uint8), "d": np.zeros((4, 4), np.float32)})
    with pytest.raises(InputError, match="an output: d"):
        as_case({"a": np.zeros((4, 4), np.float32)})
    with pytest.raises(FileError, match="no such file"):
        read_arrays(tmp_path / "absent.npz")
    (tmp_path / "broken.npz").write_bytes(b"not a zip")
    with pytest.raises(FileError, match="unreadable"):
        read_arrays(tmp_path / "broken.npz")


@pytest.mark.parametrize("dtype", [complex, bool, "U2", "M8[D]", [("x", "f4")]])
def test_arrays_that_hold_no_numbers_are_named(tmp_path: Path, dtype: object) -> None:
    path = write(tmp_path / "dump.npz", {"a": np.zeros((4, 16), np.float32), "b.scale": np.zeros((4, 16), dtype)})
    with pytest.raises(InputError, match=r"b\.scale: got .*, need floats or integers"):
        read_arrays(path)


def test_arrays_whose_dtype_numpy_loses_come_back_as_bits_and_others_as_they_are(tmp_path: Path) -> None:
    arrays = {"a": np.ones(3, ml_dtypes.bfloat16), "d": np.ones(3, np.float32), "masked_m": np.ones(3, np.int32)}
    np.savez(tmp_path / "dump.npz", **arrays)
    found = read_arrays(tmp_path / "dump.npz")
    assert {name: array.dtype.name for name, array in found.items()} == {
        "a": "uint16",
        "d": "float32",
        "masked_m": "int32",
    }
    assert found["a"].tolist() == [0x3F80] * 3


def test_bytes_in_the_other_order_are_the_same_numbers(tmp_path: Path) -> None:
    bits, values = np.array([0x3F80, 0x4000], ">u2"), np.array([1.0, 2.0], ">f4")
    read = read_arrays(write(tmp_path / "dump.npz", {"a": bits, "d": values}))
    assert (read["a"] == bits).all() and read["a"].dtype == np.dtype("u2")
    assert (read["d"] == values).all() and read["d"].dtype == np.dtype("f4")


def test_an_output_of_another_width_is_diagnosed_by_its_shape_and_not_reinterpreted() -> None:
    state = mxfp4()
    arrays = {**arrays_of(state, {}), "d": np.array(7, np.int8)}
    found = as_case(arrays, choices={name: choice_of("mxfp4:swizzle_128x4", name) for name in "ab"}, out="bfloat16")
    assert (found.outputs["d"].shape, found.outputs["d"].dtype) == ((), np.int8)


@pytest.mark.parametrize("layout", ["linear", "swizzle_128x4", "packed_ue8m0"])
@pytest.mark.parametrize("single", [False, True])
def test_narrow_codes_may_have_a_byte_each_where_the_scales_say_so(layout: str, single: bool) -> None:
    operand = OperandChoice("mxfp4", layout)
    state = state_of(Case("dump", "a test", "gemm", {"m": 40, "n": 48, "k": 128}, {"a": operand, "b": operand}))
    arrays = arrays_of(state, compute(state))
    if single:
        arrays |= {name: state.inputs[name].data for name in "ab"}
    found = as_case(arrays, choices={"a": operand, "b": operand}, out="bfloat16")
    assert found.case.shape == {"m": 40, "n": 48, "k": 128}
    assert all(found.inputs[name].data.tobytes() == state.inputs[name].data.tobytes() for name in "ab")


@pytest.mark.parametrize("single", [False, True])
def test_scales_that_are_too_few_are_named_with_their_sizes_and_never_the_codes(single: bool) -> None:
    operand = OperandChoice("mxfp4", "swizzle_128x4")
    state = state_of(Case("dump", "a test", "gemm", {"m": 64, "n": 64, "k": 512}, {"a": operand, "b": operand}))
    arrays = arrays_of(state, compute(state)) | {"a.scale": state.inputs["a"].scale}  # linear: as many as half of K has
    if single:
        arrays |= {name: state.inputs[name].data for name in "ab"}
    with pytest.raises(InputError, match=r"a\.scale buffer: got 1,024 elements of shape \(64, 16\), need 2,048 "):
        as_case(arrays, choices={"a": operand, "b": operand}, out="bfloat16")


def as_views(arrays: dict[str, np.ndarray], rows: dict[str, int], by_column: bool) -> dict[str, np.ndarray]:
    """Return buffers by column as libraries pass them on: rows x scales (or words), padding rows left out."""
    views = {name: np.swapaxes(arrays[name], -1, -2)[:count] for name, count in rows.items()}
    return {**arrays, **{name: view if by_column else np.ascontiguousarray(view) for name, view in views.items()}}


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("m", [40, 38])
@pytest.mark.parametrize(("recipe", "layout"), [("deepseek_fp8", "mn_major_tma"), ("mxfp8", "packed_ue8m0")])
def test_scales_by_column_are_read_from_their_buffer_and_from_its_view(
    tmp_path: Path, suffix: str, m: int, recipe: str, layout: str
) -> None:
    operand = OperandChoice(recipe, layout)
    state = state_of(Case("dump", "a test", "gemm", {"m": m, "n": 48, "k": 384}, {"a": operand, "b": operand}))
    buffers = arrays_of(state, compute(replace(state, arithmetic="exact")))
    views = as_views(buffers, {"a.scale": m, "b.scale": 48}, by_column=False)
    strided = as_views(buffers, {"a.scale": m, "b.scale": 48}, by_column=True)
    flat = {**buffers, **{f"{name}.scale": buffers[f"{name}.scale"].reshape(-1) for name in "ab"}}
    for number, arrays in enumerate((buffers, views, flat, strided)[: 3 if suffix == ".safetensors" else 4]):
        path = tmp_path / f"dump{number}{suffix}"
        if suffix == ".pt" and arrays is strided:
            import torch

            torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
        else:
            write(path, arrays)
        found = as_case(read_arrays(path), choices={"a": operand, "b": operand}, out="bfloat16")
        for name in ("a", "b"):
            assert found.inputs[name].scale.tobytes() == state.inputs[name].scale.tobytes()


def test_words_of_rows_that_a_kernel_permutes_are_read_from_their_view_too() -> None:
    operand = OperandChoice("mxfp8", "utccp_4x32_packed_ue8m0")
    state = state_of(Case("dump", "a test", "gemm", {"m": 40, "n": 48, "k": 384}, {"a": operand, "b": operand}))
    arrays = arrays_of(state, compute(replace(state, arithmetic="exact")))
    found = as_case(
        as_views(arrays, {"a.scale": 128, "b.scale": 128}, True), "gemm", state.case.operands, out="bfloat16"
    )
    assert all(found.inputs[name].scale.tobytes() == state.inputs[name].scale.tobytes() for name in "ab")


def test_a_square_that_is_buffer_or_view_is_read_by_its_strides_or_refused() -> None:
    operand = OperandChoice("deepseek_fp8", "mn_major_tma")
    state = state_of(Case("dump", "a test", "gemm", {"m": 4, "n": 4, "k": 512}, {"a": operand, "b": operand}))
    arrays = arrays_of(state, compute(replace(state, arithmetic="exact")))
    arrays["b.scale"] = arrays["b.scale"].reshape(-1)
    with pytest.raises(InputError, match=r"a\.scale: got shape \(4, 4\) by row, .*need one axis if it is the buffer"):
        as_case(arrays, choices=state.case.operands, out="bfloat16")
    found = as_case(as_views(arrays, {"a.scale": 4}, True), "gemm", state.case.operands, out="bfloat16")
    assert found.inputs["a"].scale.tobytes() == state.inputs["a"].scale.tobytes()
    alike = {**arrays, "a.scale": np.ones((4, 4), np.float32)}  # both readings give the same
    assert (as_case(alike, choices=state.case.operands, out="bfloat16").inputs["a"].scale == 1).all()


def test_rows_that_a_layout_does_not_divide_are_named_with_the_operand() -> None:
    data, scales = np.zeros((42, 128), np.uint8), np.zeros((42, 4), np.uint8)
    arrays = {"a": data, "a.scale": scales, "b": data, "b.scale": scales, "d": np.zeros((42, 42), np.float32)}
    choices = {"a": choice_of("mxfp8:shuffle_rows_16", "a"), "b": choice_of("mxfp8", "b")}
    with pytest.raises(InputError, match=r"a\.scale axis -2 of the scales: got 42, need a multiple of 16"):
        as_case(arrays, choices=choices)


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_a_payload_of_another_width_is_named_by_its_own_dtype(dtype: type) -> None:
    arrays = {"a": np.ones((4, 128), dtype), "a.scale": np.ones((4, 1), np.float32), "d": np.ones((4, 4), np.float32)}
    choices = {name: choice_of("deepseek_fp8", name) for name in "ab"}
    need = rf"a: got {np.dtype(dtype)}, need float8_e4m3fn, or its bits as uint8"
    with pytest.raises(InputError, match=need):
        as_case({**arrays, "b": arrays["a"], "b.scale": arrays["a.scale"]}, choices=choices)


@pytest.mark.parametrize(
    ("choice", "scales", "words"),
    [
        ("deepseek_fp8", np.ones((3, 40), np.float32), r"these fit deepseek_fp8:mn_major"),
        ("deepseek_fp8", np.ones((40, 12), np.float32), r"these fit 1x32 blocks \(deepseek_fp8_32_ue8m0, .*float32\)"),
        ("deepseek_fp8_weight", np.ones((40, 3), np.float32), r"these fit 1x128 blocks \(deepseek_fp8\)"),
        ("mxfp8", np.ones((40, 3), np.int32), r"these fit mxfp8:packed_ue8m0"),
        ("mxfp8", np.ones((3, 40), np.int32), r"these fit mxfp8:packed_ue8m0"),
        ("deepseek_fp8", np.ones((40, 1), np.int32), r"these fit 1x128 blocks \(deepseek_fp8_ue8m0:packed_ue8m0\)"),
        ("mxfp8", np.ones((40, 3), np.int64), r"int64 is no dtype of scales: bytes are uint8, words of four int32"),
        ("mxfp8:packed_ue8m0", np.ones((40, 3), np.int64), r"got int64, need int32"),
        ("mxfp8:packed_ue8m0", np.ones((40, 12), np.uint8), r"words of four bytes are int32, and these are uint8"),
    ],
)
def test_scales_that_fit_nowhere_come_with_what_they_would_fit(choice: str, scales: np.ndarray, words: str) -> None:
    data = np.zeros((40, 384), np.uint8)
    arrays = {"a": data, "a.scale": scales, "b": data, "b.scale": np.ones((40, 3), np.float32)}
    arrays["d"] = np.zeros((40, 40), np.float32)
    choices = {"a": choice_of(choice, "a"), "b": choice_of("deepseek_fp8", "b")}
    with pytest.raises(InputError, match=rf"a\.scale buffer: .*{words}"):
        as_case(arrays, choices=choices)
