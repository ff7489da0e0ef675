"""A product that a GPU is asked for with a spoiled argument is refused as on the CPU, and launches nothing then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dgref.deep_gemm as deep_gemm
from dgref.backends.cuda.sm90 import launch
from dgref.deep_gemm import kernels
from dgref.errors import DgrefError, FormatError, InputError, LayoutError, ShapeError, UnsupportedError
from tests.backends.cuda.sm90.recording import Driver, record
from tests.deep_gemm.calls import Arguments, index
from tests.deep_gemm.spoiled import spoiled, spoiled_tensors

GROUPS, M, N, K = 2, 128, 32, 256
SIZES = [128, 256]


class OnGpu(torch.Tensor):
    """A CPU tensor that claims to be on a GPU."""

    is_cuda = True


def gpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta:
        return value.as_subclass(OnGpu)
    return type(value)(map(gpu, value)) if type(value) in (tuple, list) else value


def bf16(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def fp8(*shape: int, block: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    *lead, rows, k = shape
    return torch.zeros(shape, dtype=torch.float8_e4m3fn), torch.ones(*lead, -(-rows // block), k // 128)


def contiguous(a: Any, b: Any) -> Arguments:
    return {"a": a, "b": b, "d": bf16(M, N), "grouped_layout": index(*[-1] * M)}


def ends() -> Arguments:
    held = contiguous(bf16(M, K), bf16(GROUPS, N, K))
    return held | {"grouped_layout": index(3, M), "use_psum_layout": True, "ensure_zero_padding": False}


def masked(a: Any, b: Any) -> Arguments:
    return {"a": a, "b": b, "d": bf16(GROUPS, M, N), "masked_m": index(3, 6), "expected_m": 4}


def of_k(a: Any, b: Any) -> Arguments:
    d = torch.zeros(GROUPS, M, N)
    return {"a": a, "b": b, "d": d, "ks_cpu": list(SIZES), "grouped_layout": index(*SIZES), "c": d}


def codes(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float8_e4m3fn)


def turned(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return codes(384, rows), torch.ones(3, rows)


def flat(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return codes(384 * rows), torch.ones(rows, 3)


D = torch.zeros(M, N)
CALLS: dict[str, Callable[[], Arguments]] = {
    "fp8_gemm_nt": lambda: {"a": fp8(M, K), "b": fp8(N, K, block=128), "d": D, "c": D, "recipe": (1, 128, 128)},
    "bf16_gemm_nn": lambda: {"a": bf16(M, K), "b": bf16(K, N), "d": bf16(M, N), "c": None},
    "m_grouped_fp8_gemm_nt_contiguous": lambda: contiguous(fp8(M, K), fp8(GROUPS, N, K, block=128)),
    "m_grouped_bf16_gemm_nn_contiguous": lambda: contiguous(bf16(M, K), bf16(GROUPS, K, N)),
    "m_grouped_bf16_gemm_nt_contiguous": ends,
    "m_grouped_fp8_gemm_nt_masked": lambda: masked(fp8(GROUPS, M, K), fp8(GROUPS, N, K, block=128)),
    "m_grouped_bf16_gemm_nt_masked": lambda: masked(bf16(GROUPS, M, K), bf16(GROUPS, N, K)),
    "k_grouped_fp8_gemm_tn_contiguous": lambda: of_k(turned(M), turned(N)),
    "k_grouped_fp8_gemm_nt_contiguous": lambda: of_k(flat(M), flat(N)),
    "k_grouped_bf16_gemm_tn_contiguous": lambda: of_k(bf16(384, M), bf16(384, N)),
}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    for module in ("settings", "kernels"):
        monkeypatch.setattr(f"dgref.deep_gemm.{module}.device_architecture", lambda: "sm90")
    kernels.kernels.cache_clear()
    yield record(monkeypatch)
    kernels.kernels.cache_clear()


def on_gpu(name: str, arguments: Arguments) -> None:
    getattr(deep_gemm, name)(**{key: gpu(value) for key, value in arguments.items()})


@pytest.mark.parametrize("name", CALLS)
def test_the_call_itself_is_launched_and_computed(name: str, driver: Driver) -> None:
    on_gpu(name, CALLS[name]())
    assert driver.launches
    getattr(deep_gemm, name)(**CALLS[name]())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_spoiled_argument_is_an_error_of_dgrefs_before_any_launch(driver: Driver, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(CALLS)))
    arguments = CALLS[name]()
    parameter = data.draw(st.sampled_from(sorted(arguments)))
    arguments[parameter] = data.draw(st.sampled_from(list(spoiled(arguments[parameter]))))
    launch._kept.plans.clear()
    driver.launches.clear()
    try:
        on_gpu(name, arguments)
    except DgrefError as error:
        assert str(error).startswith(f"{name}: ") and not driver.launches


def shapes_spoiled(value: Any) -> list[Any]:
    """Return operands of other dtypes, shapes and strides, as long as what they hold does not matter."""
    if isinstance(value, tuple):
        pairs = [(other, value[1]) for other in shapes_spoiled(value[0]) if other.numel()]  # else none are launched
        return pairs + [(value[0], other) for other in shapes_spoiled(value[1])]
    return [
        other
        for other in spoiled_tensors(value)
        if not other.is_meta  # here no tensor is on a GPU
        and tuple(other.shape) != (1, *value.shape)  # one group, where a GPU takes stacks as well
        and (other.dtype != torch.int32 or other.shape != value.shape)  # a GPU does not look what is in them
    ]


@pytest.mark.parametrize("name", CALLS)
def test_no_shape_that_is_refused_on_the_cpu_is_launched(name: str, driver: Driver) -> None:
    call, made = getattr(deep_gemm, name), CALLS[name]()
    operands = [key for key, value in made.items() if isinstance(value, torch.Tensor) or key in ("a", "b")]
    for key in operands:
        for other in shapes_spoiled(made[key]):
            arguments = {**CALLS[name](), key: other}
            try:
                call(**arguments)
            except DgrefError:
                launch._kept.plans.clear()
                with pytest.raises(DgrefError):
                    on_gpu(name, arguments)


MISREAD = [
    (
        "fp8_gemm_nt",
        {"a": (codes(M, K).view(torch.uint8), torch.ones(M, 2))},
        UnsupportedError,
        "need a in torch.float8_e4m3fn, not torch.uint8; uint8 and int8 are read as packed FP4",
    ),
    (
        "k_grouped_fp8_gemm_nt_contiguous",
        {"b": (codes(384 * N).view(torch.uint8), torch.ones(N, 3))},
        FormatError,
        "b: got torch.uint8, need torch.float8_e4m3fn",
    ),
    ("k_grouped_fp8_gemm_tn_contiguous", {"a": (codes(384 * M), torch.ones(3, M))}, ShapeError, "a shape: got [49152]"),
    ("k_grouped_bf16_gemm_tn_contiguous", {"a": bf16(384 * M)}, ShapeError, "a shape: got [49152], need two axes"),
    (
        "k_grouped_fp8_gemm_nt_contiguous",
        {"a": (codes(384, 2 * M)[:, :M], torch.ones(M, 3))},
        LayoutError,
        "a strides: got (256, 1), need elements one behind the other",
    ),
    ("k_grouped_fp8_gemm_nt_contiguous", {"a": (codes(0), torch.ones(M, 3))}, ShapeError, "sizes: got a sum of 384"),
    (
        "k_grouped_fp8_gemm_nt_contiguous",
        {"a": (codes(384 * M), None)},
        InputError,
        "need FP8 with scales",
    ),
    (
        "k_grouped_fp8_gemm_tn_contiguous",
        {"b": (codes(384, N), torch.ones(N, 1, 3))},
        ShapeError,
        "b scales shape: got [32, 1, 3], need two axes",
    ),
    ("m_grouped_bf16_gemm_nn_contiguous", {"d": bf16(0, N)}, ShapeError, "d: got (0, 32), need (128, 32)"),
    ("m_grouped_bf16_gemm_nn_contiguous", {"use_psum_layout": "no"}, InputError, "use_psum_layout: got 'no'"),
    ("k_grouped_bf16_gemm_tn_contiguous", {"use_psum_layout": 2}, InputError, "use_psum_layout: got 2"),
]


@pytest.mark.parametrize(("name", "changes", "kind", "sentence"), MISREAD)
def test_an_operand_that_would_be_read_as_another_is_refused(
    name: str, changes: Arguments, kind: type, sentence: str, driver: Driver
) -> None:
    with pytest.raises(kind) as caught:
        on_gpu(name, CALLS[name]() | changes)
    assert sentence in str(caught.value) and not driver.launches


def test_matrices_of_groups_may_have_any_shape(driver: Driver) -> None:
    name = "k_grouped_fp8_gemm_nt_contiguous"
    on_gpu(name, CALLS[name]())
    as_a_line = list(driver.launches)
    on_gpu(name, CALLS[name]() | {"b": (codes(N, 384), torch.ones(N, 3))})
    assert [entry[0] for entry in driver.launches[len(as_a_line) :]] == [entry[0] for entry in as_a_line]


@pytest.mark.parametrize("expected_m", [None, -1, 1.5, "four"])
def test_how_many_rows_to_expect_is_a_whole_number_on_either_device(expected_m: Any, driver: Driver) -> None:
    name = "m_grouped_bf16_gemm_nt_masked"
    for run in (on_gpu, lambda name, arguments: getattr(deep_gemm, name)(**arguments)):
        with pytest.raises(InputError, match=f"expected_m: got {expected_m!r}, need an integer from 0 up"):
            run(name, CALLS[name]() | {"expected_m": expected_m})


SCALES = torch.ones(3, M)
OF_K = {"sf": SCALES, "grouped_layout": index(*SIZES), "ks_cpu": SIZES, "gran_k": 128, "k_alignment": 128}
WORDS = [
    ({"psum_layout": torch.tensor([1.0, 3.0])}, "psum_layout: got torch.float32, need contiguous torch.int32"),
    ({"psum_layout": index([1, 3])}, "psum_layout shape: got [1, 2], need [2]"),
    ({"psum_layout": [1, 3]}, "psum_layout: got [1, 3], need a torch tensor"),
    ({**OF_K, "grouped_layout": None}, "grouped_layout: got None, need a torch tensor"),
    ({**OF_K, "grouped_layout": index(*SIZES).long()}, "grouped_layout: got torch.int64, need contiguous torch.int32"),
    ({**OF_K, "grouped_layout": index(384)}, "grouped_layout shape: got [1], need [2]"),
    ({**OF_K, "ks_cpu": [128.0, 256]}, "ks_cpu: got 128.0, need an integer from 0 up"),
    ({**OF_K, "k_alignment": "aligned"}, "k_alignment: got 'aligned', need an integer from 1 up"),
]


@pytest.mark.parametrize("placed", [gpu, lambda value: value], ids=["gpu", "cpu"])
@pytest.mark.parametrize(("changes", "sentence"), WORDS, ids=[sentence for _, sentence in WORDS])
def test_words_of_scales_are_made_for_groups_that_are_integers(
    placed: Callable, changes: Arguments, sentence: str, driver: Driver
) -> None:
    name = "get_k_grouped_mn_major_tma_aligned_packed_ue8m0_tensor" if "sf" in changes else ""
    arguments = {"sf": SCALES, **changes}
    with pytest.raises(DgrefError) as caught:
        getattr(deep_gemm, name or "get_mn_major_tma_aligned_packed_ue8m0_tensor")(
            **{key: placed(value) for key, value in arguments.items()}
        )
    assert sentence in str(caught.value) and not driver.launches
