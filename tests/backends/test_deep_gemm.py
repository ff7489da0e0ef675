"""The adapter over DeepGEMM, on the drop-in in its place: layouts, arguments and arithmetic agree bit for bit.

A case goes through the adapter, the drop-in and a reference; its outputs must be those of the op itself under the
arithmetic that the adapter declares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dgref.deep_gemm
from dgref import suite, waivers
from dgref.arch import ARCHITECTURES
from dgref.backends import backends
from dgref.backends.deep_gemm import OPERATIONS, DeepGemmBackend
from dgref.backends.deep_gemm_cases.call import Call
from dgref.formats.native import to_numpy
from dgref.ops import OPS
from dgref.suite import Case, OperandChoice

SUITES = ("gemm", "grouped", "einsum", "mqa", "hyperconnection", "layouts")
SHIPPED = ("sm90", "sm100")
GUIDE = Path(__file__).parents[2] / "docs" / "deep_gemm.md"
LIMIT = 1 << 24  # multiply-adds: what the engine does within a tenth of a second
PER_OP = 12  # of each suite and op, spread over its cases


@pytest.fixture(autouse=True)
def default_settings() -> Iterator[None]:
    yield
    dgref.deep_gemm.configure()
    dgref.deep_gemm.set_mk_alignment_for_contiguous_layout(128)


def adapter(architecture: str) -> DeepGemmBackend:
    dgref.deep_gemm.configure(architecture)
    return DeepGemmBackend(dgref.deep_gemm, "cpu", architecture)


def served(architecture: str) -> list[Case]:
    backend, row = DeepGemmBackend(dgref.deep_gemm, "cpu", architecture), ARCHITECTURES[architecture]
    chosen: list[Case] = []
    for name in SUITES:
        by_op: dict[str, list[Case]] = {}
        for case in suite.load(name).cases:
            if backend.unsupported(case, row) is None and OPS[case.op].flops(case) < 2 * LIMIT:
                by_op.setdefault(case.op, []).append(case)
        for cases in by_op.values():
            chosen += cases[:: -(-len(cases) // PER_OP)]
    return chosen


ENDS = {"block": 32, "psum": True, "alignment": 160}
CASES = [(architecture, case) for architecture in SHIPPED for case in served(architecture)]
CASES += [("sm100", Case("ends", "", "scales_packed_k_grouped", {"g": 4, "m": 8, "k": 1600}, params=ENDS))]
WEIGHTS = {"a": OperandChoice("deepseek_fp8"), "b": OperandChoice("deepseek_fp8_weight")}
PRODUCTS = {"expression": "bhr,hdr->bhd"}
CASES += [("sm90", Case("weights", "", "einsum", {"batch": 3, "m": 24, "n": 136, "k": 256}, WEIGHTS, PRODUCTS))]


@pytest.mark.parametrize(("architecture", "case"), CASES, ids=lambda value: getattr(value, "name", value))
def test_case_through_adapter_and_drop_in_is_the_op_itself(architecture: str, case: Case) -> None:
    backend, op = adapter(architecture), OPS[case.op]
    arithmetic = backend.arithmetic(case, ARCHITECTURES[architecture]) or f"deep_gemm.{architecture}.bf16"
    inputs = case.make_inputs()
    kernel = backend.prepare(case, inputs)
    kernel.poison(0xC3)
    kernel()
    need, defined = op.compute(case, inputs, arithmetic), op.defined(case, inputs)
    for name, result in kernel.outputs().items():
        got = to_numpy(result.contiguous())
        assert (got.dtype, got.shape) == (need[name].dtype, need[name].shape)
        mask = np.ones(got.shape, bool) if defined[name] is None else defined[name]
        bits = f"u{got.dtype.itemsize}"
        assert np.array_equal(got[mask].view(bits), np.ascontiguousarray(need[name][mask]).view(bits))


def test_every_op_that_the_adapter_serves_is_tested() -> None:
    assert {case.op for _, case in CASES} == set(OPERATIONS)


def case(op: str = "gemm", **changes) -> Case:
    fields = {"shape": {"m": 16, "n": 128, "k": 256}, "operands": WEIGHTS, "out": "bfloat16"}
    return Case("a-case", "for a test", op, **{**fields, **changes})


MX = {name: OperandChoice("mxfp8") for name in "ab"}
BF16 = {name: OperandChoice("bfloat16") for name in "ab"}
REFUSALS = [
    ("sm120", case(), "DeepGEMM ships sm_90a and sm_100a kernels: this is sm120"),
    ("sm90", case("cast"), "DeepGEMM has no cast"),
    ("sm90", case("mega_moe"), "dgref verify"),
    ("sm90", case(operands=MX), "sm_90a kernels take E4M3 with FP32 scales"),
    ("sm100", case(), "UE8M0 scales, which would round those of deepseek_fp8"),
    ("sm90", case(out="float32"), "the sm_90a 1D2D kernel writes bfloat16"),
    ("sm90", case(operands=BF16, params={"accumulate": True}), "rounds a product to BF16 before the copy engine adds"),
    ("sm90", case(operands=BF16, params={"accumulate": True}, out="float32"), ""),
    ("sm90", case(shape={"m": 16, "n": 128, "k": 200}), ""),
]


@pytest.mark.parametrize(("architecture", "refused", "words"), REFUSALS)
def test_what_deep_gemm_cannot_do_is_said_in_a_sentence(architecture: str, refused: Case, words: str) -> None:
    sentence = DeepGemmBackend(dgref.deep_gemm, "cpu", architecture).unsupported(refused, ARCHITECTURES[architecture])
    assert words in sentence if words else sentence is None


ROW_BY_ROW = {name: OperandChoice("deepseek_fp8") for name in "ab"}
SUM = {"accumulate": True}
FEW, MORE = {"g": 2, "m": 32, "n": 64, "k": 256}, {"g": 2, "m": 128, "n": 64, "k": 256}
BATCH = {"batch": 2, "m": 64, "n": 128, "k": 256}


def contiguous(**params) -> Case:
    return case("gemm_grouped_contiguous", shape=MORE | {"m": 768}, params=params)


def over_batch(**shape: int) -> Case:
    return case("einsum", shape=BATCH | shape, operands=BF16, params={"expression": "bmk,bnk->mn"})


FLOAT = {"operands": ROW_BY_ROW, "params": SUM, "out": "float32"}
REFUSED = [
    (case(shape={"m": 16, "n": 128, "k": 200}), "lines of a multiple of 16 bytes: a has 200 elements in one"),
    (case(shape={"m": 32, "n": 64, "k": 256}, **FLOAT), "does not compile"),
    (case("gemm_grouped_k", shape=FEW, **FLOAT), "does not compile"),
    *((contiguous(alignment=height), f"256 rows: not {height}") for height in (1, 12, 96, 192, 320, 384)),
    *((over_batch(**{axis: 24}), "multiples of 64") for axis in "mnk"),
]
WRONG = [  # what DeepGEMM 2.6.1 takes on an H200 and computes wrongly
    *(case("gemm_grouped_masked", shape=MORE | {"m": rows}) for rows in (32, 48)),
    contiguous(alignment=8),
    contiguous(zero_padding=True),
    case("einsum", shape=BATCH, operands=ROW_BY_ROW, params=PRODUCTS),
    over_batch(),
]
RIGHT = [
    case("gemm_grouped_masked", shape=MORE),
    *(contiguous(alignment=height) for height in (16, 48, 64, 128, 256)),
    case("einsum", shape=BATCH, operands=WEIGHTS, params=PRODUCTS),
    *(case(shape={"m": rows, "n": 64, "k": k}, **FLOAT) for rows, k in ((33, 256), (0, 256), (32, 0))),
]


@pytest.mark.parametrize(("refused", "words"), REFUSED)
def test_what_the_library_fails_on_is_unsupported_on_a_gpu_and_nowhere_else(refused: Case, words: str) -> None:
    row = ARCHITECTURES["sm90"]
    assert words in DeepGemmBackend(dgref.deep_gemm, "cuda", "sm90").unsupported(refused, row)
    assert DeepGemmBackend(dgref.deep_gemm, "cpu", "sm90").unsupported(refused, row) is None


@pytest.mark.parametrize("judged", [*WRONG, *RIGHT])
def test_what_the_library_takes_is_judged_be_it_right_or_wrong(judged: Case) -> None:
    assert DeepGemmBackend(dgref.deep_gemm, "cuda", "sm90").unsupported(judged, ARCHITECTURES["sm90"]) is None


def test_every_fault_in_the_guide_is_shown_by_a_case_that_runs(tmp_path: Path) -> None:
    own, known = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    paths = {"limits.toml": tmp_path / "limits.toml", "waivers.toml": tmp_path / "waivers.toml"}
    for path, text in zip(paths.values(), (own, known), strict=True):
        path.write_text(text, encoding="utf-8")
    shown = re.findall(r"`dgref run (\S+) --case '?([^ ']+)'? -b deep_gemm`", GUIDE.read_text(encoding="utf-8"))
    assert len(shown) == 6
    for name, identity in shown:
        (found,) = suite.chosen(suite.load(paths.get(name, name)).cases, [identity])
        assert DeepGemmBackend(dgref.deep_gemm, "cuda", "sm90").unsupported(found, ARCHITECTURES["sm90"]) is None
    assert list(waivers.idle(waivers.load(paths["waivers.toml"]), [], [])) == []


@pytest.mark.parametrize("shape", [{"m": 0, "n": 8, "k": 256}, {"m": 16, "n": 8, "k": 0}])
def test_operands_without_elements_have_rows_all_the_same(shape: dict[str, int]) -> None:
    empty = case(shape=shape)
    call = Call(adapter("sm90"), empty, empty.make_inputs())
    assert all(call.payload(name).stride()[-1] == 1 for name in "ab")  # what DeepGEMM asserts


def test_an_absent_library_says_how_to_get_it() -> None:
    backend = backends()["deep_gemm"]
    assert backend.unavailable() is None or "deep_gemm" in backend.unavailable()


def test_provenance_names_the_library_that_ran() -> None:
    found = adapter("sm90").provenance()
    assert found["version"] == "2.6.1" and found["module"] == "dgref.deep_gemm"
