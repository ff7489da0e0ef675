"""What happens to CUDA tensors, tested without a GPU: tensors that say they are on one, and launches that are noted."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import dgref.deep_gemm as deep_gemm
from dgref.backends.cuda.sm90 import gemm, launch
from dgref.backends.cuda.sm90 import grouped as of_groups
from dgref.deep_gemm import dense, grouped, k_grouped, kernels, reading
from dgref.errors import FormatError, InputError, LayoutError, ShapeError, UnsupportedError
from dgref.formats import LAYOUTS
from tests.backends.cuda.sm90.recording import Driver, record

M, N, K = 8, 256, 512


class OnGpu(torch.Tensor):
    """A CPU tensor that claims to be on a GPU."""

    is_cuda = True


def gpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_subclass(OnGpu)


READ = ("a", "a_scale", "b", "b_scale", "b_block", "packed")  # what a reading returns, of its first four
TENSORS = {
    "fp8": ("a", "a_scale", "b", "b_scale", "d", "c"),
    "bf16": ("a", "b", "d", "c"),
    "contiguous": ("a", "b", "d", "layout", "a_scale", "b_scale"),
    "masked": ("a", "b", "d", "masked_m", "expected_m", "a_scale", "b_scale"),
    "k": ("a", "b", "d", "layout", "c", "a_scale", "b_scale"),
}


def pack_on_cpu(name: str, scales: torch.Tensor) -> torch.Tensor:
    """Stand in for the scale-layout kernel."""
    return gpu(LAYOUTS[name].pack(scales.as_subclass(torch.Tensor)))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, tuple, dict]]]:
    noted: list[tuple[str, tuple, dict]] = []

    def note(name: str) -> Any:
        def launch(*arguments: Any, reading: Any = None, **options: Any) -> None:
            given = dict(zip(TENSORS[name], arguments, strict=False))
            read = reading and reading(*map(given.get, READ[:4]))
            noted.append((name, arguments, options | given | (dict(zip(READ, read, strict=True)) if read else {})))

        return launch

    made = kernels.Kernels(*map(note, ("fp8", "bf16", "contiguous", "masked", "k")))
    for module in (dense, grouped, k_grouped):
        monkeypatch.setattr(module, "kernels", lambda: made)
    monkeypatch.setattr("dgref.backends.cuda.scale_layouts.pack", pack_on_cpu)
    monkeypatch.setattr("dgref.deep_gemm.settings.device_architecture", lambda: "sm90")
    yield noted


def fp8(rows: int, block: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.ones(-(-rows // block[0]), K // block[1])
    if block[0] == 1:
        scale = deep_gemm.get_mn_major_tma_aligned_tensor(scale)
    return gpu(torch.zeros(rows, K).to(torch.float8_e4m3fn)), gpu(scale)


def test_fp8_goes_straight_to_the_kernel(launches) -> None:
    a, b, d = fp8(M, (1, 128)), fp8(N, (128, 128)), gpu(torch.zeros(M, N, dtype=torch.bfloat16))
    deep_gemm.fp8_gemm_nt(a, b, d)
    ((name, arguments, options),) = launches
    assert name == "fp8" and arguments[0] is a[0]
    same = {"a": a[0], "a_scale": a[1], "b": b[0], "b_scale": b[1], "d": d, "c": None}
    assert all(options.pop(key) is value for key, value in same.items())
    assert options == {"b_block": (128, 128), "packed": False, "resources": (0, False)}


def test_transposes_are_views_not_copies(launches) -> None:
    a, b, d = fp8(M, (1, 128)), fp8(N, (1, 128)), gpu(torch.zeros(M, N))
    deep_gemm.fp8_gemm_nn(a, (b[0].t(), b[1].t()), d, c=d, recipe=(1, 1, 128))
    ((_, _, options),) = launches
    assert options["b_block"] == (1, 128) and options["c"] is d
    assert [options[name].data_ptr() for name in ("b", "b_scale")] == [t.data_ptr() for t in b]


def test_packed_codes_are_announced_to_the_kernel(launches) -> None:
    a, d = fp8(M, (1, 128)), gpu(torch.zeros(M, N, dtype=torch.bfloat16))
    b = (gpu(torch.zeros(N, K // 2, dtype=torch.int8)), gpu(torch.ones(N, K // 32)))
    deep_gemm.fp8_fp4_gemm_nt(a, b, d, recipe_a=(1, 128), recipe_b=(1, 32))
    ((_, _, options),) = launches
    assert options["b_block"] == (1, 32) and options["packed"]
    assert options["b_scale"] is b[1]  # the kernel reads it wherever it lies


@pytest.mark.parametrize("name", ["m_grouped_fp8_gemm_nn_contiguous", "m_grouped_bf16_gemm_nn_contiguous"])
def test_groups_are_transposed_one_by_one(name: str, launches) -> None:
    a, (b, b_scale), d = fp8(M, (1, 128)), fp8(N, (128, 128)), gpu(torch.zeros(M, N, dtype=torch.bfloat16))
    turned = (b.t()[None], b_scale.t()[None])
    pairs = (a, turned) if "fp8" in name else (a[0].bfloat16(), turned[0].bfloat16())
    getattr(deep_gemm, name)(*pairs, d, gpu(torch.zeros(M, dtype=torch.int32)))
    ((_, _, options),) = launches
    assert options["b"].shape == (1, N, K) and ("bf16" in name or options["b_scale"].shape == (1, N // 128, K // 128))


def test_scales_of_groups_of_k_are_turned(launches) -> None:
    a = (gpu(torch.zeros(K, N).to(torch.float8_e4m3fn)), gpu(torch.ones(K // 128, N)))
    sizes = gpu(torch.tensor([K], dtype=torch.int32))
    deep_gemm.k_grouped_fp8_gemm_tn_contiguous(a, a, gpu(torch.zeros(1, N, N)), [K], sizes)
    ((_, _, options),) = launches
    assert options["a_scale"].shape == options["b_scale"].shape == (N, K // 128) and options["b_block"] == (1, 128)


def test_settings_reach_every_kernel(launches) -> None:
    deep_gemm.set_num_sms(20)
    deep_gemm.set_pdl(True)
    x, d = gpu(torch.zeros(N, K, dtype=torch.bfloat16)), gpu(torch.zeros(N, N, dtype=torch.bfloat16))
    layout = gpu(torch.zeros(N, dtype=torch.int32))
    deep_gemm.bf16_gemm_nt(x, x, d)
    deep_gemm.fp8_gemm_nt(fp8(M, (1, 128)), fp8(N, (128, 128)), gpu(torch.zeros(M, N)))
    deep_gemm.m_grouped_bf16_gemm_nt_contiguous(x, x[None], d, layout)
    deep_gemm.m_grouped_bf16_gemm_nt_masked(x[None], x[None], d[None], layout[:1], 5)
    deep_gemm.k_grouped_bf16_gemm_tn_contiguous(x, x, d[None], [K], layout[:1])
    assert [options["resources"] for _, _, options in launches] == [(20, True)] * 5


def test_groups_go_to_their_kernels_with_the_settings(launches) -> None:
    deep_gemm.set_mk_alignment_for_contiguous_layout(64)
    a, b = gpu(torch.zeros(M, K, dtype=torch.bfloat16)), gpu(torch.zeros(2, N, K, dtype=torch.bfloat16))
    d, layout = gpu(torch.zeros(M, N, dtype=torch.bfloat16)), gpu(torch.zeros(2, dtype=torch.int32))
    deep_gemm.m_grouped_bf16_gemm_nt_contiguous(a, b, d, layout, use_psum_layout=True, ensure_zero_padding=False)
    deep_gemm.m_grouped_bf16_gemm_nt_masked(a[None], b[:1], d[None], layout[:1], 5)
    assert [name for name, _, _ in launches] == ["contiguous", "masked"]
    assert launches[0][2].items() >= {"prefix_sum": True, "alignment": 64, "zero_padding": False}.items()


class OnAnother(OnGpu):
    """A CPU tensor that claims to be on the fourth GPU."""

    device = torch.device("cuda", 3)

    def get_device(self) -> int:
        return 3


def test_tensors_on_two_devices_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = record(monkeypatch)
    monkeypatch.setattr(dense, "kernels", lambda: SimpleNamespace(fp8_gemm=gemm.fp8_gemm))
    (a, a_scale), b, d = fp8(M, (1, 128)), fp8(N, (128, 128)), gpu(torch.zeros(M, N))
    message = "fp8_gemm_nt: operands: got a on cpu, a_scale on cuda:3, .*, need all on one GPU"
    with pytest.raises(InputError, match=message):
        deep_gemm.fp8_gemm_nt((a, a_scale.as_subclass(OnAnother)), b, d)
    assert not driver.launches


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    rows, stacks, depths = (getattr(of_groups, f"gemm_grouped_{kind}") for kind in ("contiguous", "masked", "k"))
    made = kernels.Kernels(gemm.fp8_gemm, gemm.bf16_gemm, rows, stacks, depths)
    for module in (dense, grouped, k_grouped):
        monkeypatch.setattr(module, "kernels", lambda: made)
    return record(monkeypatch)


def launched(driver: Driver, name: str, *arguments: Any, **options: Any) -> list[tuple]:
    driver.launches.clear()
    getattr(deep_gemm, name)(*arguments, **options)
    return list(driver.launches)


def square() -> tuple[torch.Tensor, torch.Tensor]:
    """Return an operand of as many rows as columns, whose scales have four rows and columns as well."""
    return gpu(torch.zeros(K, K).to(torch.float8_e4m3fn)), gpu(torch.zeros(4, 4))


@pytest.mark.parametrize("kind", ["fp8_gemm", "bf16_gemm"])
def test_names_of_transposes_have_plans_of_their_own(kind: str, driver: Driver) -> None:
    a, b, d = fp8(K, (1, 128)), square(), gpu(torch.zeros(K, K))
    pairs = (a, b) if kind == "fp8_gemm" else (a[0].bfloat16(), b[0].bfloat16())
    found = [launched(driver, f"{kind}_{layout}", *pairs, d) for layout in ("nt", "nn", "nt", "nn")]
    assert found[0] == found[2] and found[1] == found[3] and found[0] != found[1]


def test_a_call_that_is_repeated_elsewhere_is_launched_there_and_read_no_more(driver, monkeypatch) -> None:
    turned, asked = reading.turned, []
    monkeypatch.setattr(reading, "turned", lambda tensor, axes: asked.append(axes) or turned(tensor, axes))
    first, other = ((fp8(M, (1, 128)), fp8_turned(), gpu(torch.zeros(M, N))) for _ in range(2))
    before = [launched(driver, "fp8_gemm_nn", *given) for given in (first, other)]
    assert asked == [None, None, (0, 1), (0, 1)] and [name for name, *_ in before[1]] == ["dgref::transpose", "gemm"]
    launch._kept.plans.clear()
    assert launched(driver, "fp8_gemm_nn", *other) == before[1] != before[0]


def fp8_turned() -> tuple[torch.Tensor, torch.Tensor]:
    b, b_scale = fp8(N, (128, 128))
    return gpu(b.t().contiguous()), gpu(b_scale.t().contiguous())


def test_recipes_may_be_lists(driver: Driver) -> None:
    a, b, d = fp8(M, (1, 128)), fp8(N, (1, 128)), gpu(torch.zeros(M, N))
    given = [{"recipe": (1, 1, 128)}, {"recipe": [1, 1, 128]}, {"recipe_a": [1, 128], "recipe_b": [1, 128]}]
    found = [launched(driver, "fp8_gemm_nt", a, b, d, **options) for options in given]
    assert found[0] == found[1] and len(launch._kept.plans) == 2
    assert [arguments[0] for arguments in found[2]] == ["gemm"]


@pytest.mark.parametrize(
    "recipe", [(1.0, 1, 128), (True, True, 128), "abc", {1: 0, 2: 0, 128: 0}, iter((1, 1, 128)), ((1,), 1, 128)]
)
def test_a_recipe_of_other_than_integers_is_refused_also_after_the_same_one_in_integers(recipe: Any, driver) -> None:
    a, b, d = fp8(M, (1, 128)), fp8(N, (1, 128)), gpu(torch.zeros(M, N))
    assert launched(driver, "fp8_gemm_nt", a, b, d, recipe=(1, 1, 128))
    with pytest.raises(InputError, match=r"^fp8_gemm_nt: recipe: got .*integer"):
        launched(driver, "fp8_gemm_nt", a, b, d, recipe=recipe)
    assert not driver.launches


def stacks(element: Any = torch.bfloat16, rows: int = M, depth: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    return gpu(torch.zeros(2, rows, depth, dtype=element)), gpu(torch.zeros(2, N, depth, dtype=element))


@pytest.mark.parametrize("likely", [4.0, np.float64(4), "4"])
def test_a_number_of_rows_that_is_no_integer_is_refused_also_after_the_same_integer(likely: Any, driver) -> None:
    given = *stacks(), gpu(torch.zeros(2, M, N)), gpu(torch.zeros(2, dtype=torch.int32))
    assert launched(driver, "m_grouped_bf16_gemm_nt_masked", *given, 4)
    with pytest.raises(InputError, match="expected_m: got"):
        launched(driver, "m_grouped_bf16_gemm_nt_masked", *given, likely)


def test_head_splits_that_are_no_integers_are_refused_also_after_the_same_in_integers(driver) -> None:
    a, b, d = fp8(M, (1, 128)), fp8(N, (128, 128)), gpu(torch.zeros(M, N + 2 * 32))
    assert launched(driver, "fp8_gemm_nt_skip_head_mid", a, b, d, (64, 32, 64))
    with pytest.raises(InputError, match=r"head_splits.*got 64\.0"):
        launched(driver, "fp8_gemm_nt_skip_head_mid", a, b, d, (64.0, 32, 64))


@pytest.mark.parametrize("name", ["fp8_gemm_nt", "bf16_gemm_nt", "fp8_gemm_nt_skip_head_mid"])
def test_a_stack_is_no_matrix(name: str, driver) -> None:
    stack, matrix, d = (
        gpu(torch.zeros(1, M, K, dtype=torch.bfloat16)),
        gpu(torch.zeros(N, K)).bfloat16(),
        gpu(torch.zeros(1, M, N)),
    )
    pairs = (stack, matrix[None])
    if "fp8" in name:
        pairs = tuple((one.to(torch.float8_e4m3fn), gpu(torch.ones(1, 1, 4))) for one in pairs)
    options = {"head_splits": (64, 32, 64)} if "skip" in name else {}
    with pytest.raises(ShapeError, match=f"^{name}: a shape: got .*, need 2 axes"):
        launched(driver, name, *pairs, d, **options)


def empty_contiguous(**changes: Any) -> dict[str, Any]:
    return {
        "a": gpu(torch.zeros(M, 0, dtype=torch.bfloat16)),
        "b": gpu(torch.zeros(2, N, 0, dtype=torch.bfloat16)),
        "d": gpu(torch.zeros(M, N)),
        "grouped_layout": gpu(torch.zeros(M, dtype=torch.int32)),
    } | changes


def empty_masked(**changes: Any) -> dict[str, Any]:
    a, b = stacks(depth=0)
    rows = gpu(torch.zeros(2, dtype=torch.int32))
    return {"a": a, "b": b, "d": gpu(torch.zeros(2, M, N)), "masked_m": rows, "expected_m": 1} | changes


def empty_k(**changes: Any) -> dict[str, Any]:
    a, b = (gpu(torch.zeros(0, rows, dtype=torch.bfloat16)) for rows in (M, N))
    sizes = gpu(torch.zeros(2, dtype=torch.int32))
    return {"a": a, "b": b, "d": gpu(torch.zeros(2, M, N)), "ks_cpu": [0, 0], "grouped_layout": sizes} | changes


EMPTY = {
    "m_grouped_bf16_gemm_nt_contiguous": empty_contiguous,
    "m_grouped_bf16_gemm_nt_masked": empty_masked,
    "k_grouped_bf16_gemm_tn_contiguous": empty_k,
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("spoiled", ["a", "b", "d"])
def test_where_there_is_no_k_operands_of_another_type_are_refused_all_the_same(name: str, spoiled: str, driver) -> None:
    assert launched(driver, name, **EMPTY[name]()) == []
    given = EMPTY[name]()[spoiled].to(torch.float16)
    with pytest.raises(FormatError, match=f"^{name}: {spoiled}: got torch.float16"):
        launched(driver, name, **EMPTY[name](**{spoiled: given}))


def test_a_c_that_overlaps_d_is_read_before_it_is_written(driver) -> None:
    held = gpu(torch.arange(9.0)[:, None].repeat(1, N))
    deep_gemm.bf16_gemm_nt(*(gpu(torch.zeros(n, 0)).bfloat16() for n in (8, N)), held[1:], held[:8])
    assert held[:, 0].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7]


def test_a_view_that_is_negated_in_name_only_is_refused(driver) -> None:
    (a, a_scale), b, d = fp8(M, (1, 128)), fp8(N, (128, 128)), gpu(torch.zeros(M, N))
    assert launched(driver, "fp8_gemm_nt", (a, a_scale.contiguous()), b, d)
    negated = gpu(torch.complex(a_scale, a_scale).conj().imag)
    with pytest.raises(LayoutError, match="a_scale: got a negated view, need values as they lie in memory"):
        launched(driver, "fp8_gemm_nt", (a, negated), b, d)


def test_settings_are_numbers_of_their_own() -> None:
    given = torch.tensor(64)
    deep_gemm.set_mk_alignment_for_contiguous_layout(given)
    given.fill_(96)
    assert deep_gemm.get_mk_alignment_for_contiguous_layout() == 64
    with pytest.raises(InputError, match=r"new_value: got .*, need an integer from 1 to"):
        deep_gemm.set_mk_alignment_for_contiguous_layout(2**80)
    with pytest.raises(InputError, match="set_pdl: new_enable_pdl: got 'no', need True or False"):
        deep_gemm.set_pdl("no")


def q() -> torch.Tensor:
    return gpu(torch.zeros(2, 32, 64).to(torch.float8_e4m3fn))


CALLS_WITHOUT_A_KERNEL = {
    "einsum": lambda d: deep_gemm.einsum("bhr,hdr->bhd", d, d, d),
    "fp8_einsum": lambda d: deep_gemm.fp8_einsum("bhr,hdr->bhd", (d, d), (d, d), d),
    "tf32_hc_prenorm_gemm": lambda d: deep_gemm.tf32_hc_prenorm_gemm(d.bfloat16(), d, d, d),
    "fp8_mqa_logits": lambda d: deep_gemm.fp8_mqa_logits(q(), (d, d), d, d, d),
    "get_paged_mqa_logits_metadata": lambda d: deep_gemm.get_paged_mqa_logits_metadata(d, 64, 132),
    "k_grouped_fp8_gemm_tn_contiguous": lambda d: deep_gemm.k_grouped_fp8_gemm_tn_contiguous(
        (d, d), (d, d), d[None], [8], gpu(torch.tensor([8], dtype=torch.int32)), recipe=(1, 1, 32)
    ),
    "fp8_gemm_nt": lambda d: deep_gemm.fp8_gemm_nt((d, d), (d, d), d, recipe=(1, 1, 64)),
}


@pytest.mark.parametrize("name", CALLS_WITHOUT_A_KERNEL)
def test_a_call_without_a_kernel_says_so(name: str, launches) -> None:
    with pytest.raises(UnsupportedError, match=f"^{name}: tensors: got CUDA tensors on sm90"):
        CALLS_WITHOUT_A_KERNEL[name](gpu(torch.ones(8, 8)))
    assert not launches


def test_bytes_of_fp8_without_its_dtype_are_said_to_be_read_as_codes(launches) -> None:
    (a, a_scale), (b, b_scale) = (
        [gpu(part) for part in fp8(rows, block)] for rows, block in ((M, (1, 128)), (N, (128, 128)))
    )
    with pytest.raises(UnsupportedError, match=r"with b in torch.uint8; .* packed FP4.* \.view\(torch.float8_e4m3fn\)"):
        deep_gemm.fp8_gemm_nt((a, a_scale), (gpu(b.view(torch.uint8)), b_scale), gpu(torch.zeros(M, N)))
    assert not launches


def test_another_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "device_architecture", lambda: "sm120")
    kernels.kernels.cache_clear()
    a = gpu(torch.zeros(8, 64, dtype=torch.bfloat16))
    with pytest.raises(UnsupportedError, match=r"^bf16_gemm_nt: CUDA tensors: got a GPU of sm120, need sm90"):
        deep_gemm.bf16_gemm_nt(a, a, gpu(torch.zeros(8, 8)))
