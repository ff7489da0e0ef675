"""The adapter over DeepGEMM, on the drop-in in its place: layouts, arguments and arithmetic agree bit for bit.

A case goes through the adapter, the drop-in and a reference; its outputs must be those of the op itself under the
arithmetic that the adapter declares.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import dgref.deep_gemm
from dgref import suite
from dgref.arch import ARCHITECTURES
from dgref.backends import backends
from dgref.backends.deep_gemm import OPERATIONS, DeepGemmBackend
from dgref.formats.native import to_numpy
from dgref.ops import OPS
from dgref.suite import Case, OperandChoice

SUITES = ("gemm", "grouped", "einsum", "mqa", "hyperconnection", "layouts")
SHIPPED = ("sm90", "sm100")
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
    operands = {"a": OperandChoice("deepseek_fp8"), "b": OperandChoice("deepseek_fp8_weight")}
    fields = {"shape": {"m": 16, "n": 128, "k": 256}, "operands": operands, "out": "bfloat16"}
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


def test_on_a_gpu_lines_that_the_copy_engine_cannot_read_are_refused() -> None:
    odd = case(shape={"m": 16, "n": 128, "k": 200})
    sentence = DeepGemmBackend(dgref.deep_gemm, "cuda", "sm90").unsupported(odd, ARCHITECTURES["sm90"])
    assert "lines of a multiple of 16 bytes: a has 200 elements in one" in sentence


def test_an_absent_library_says_how_to_get_it() -> None:
    backend = backends()["deep_gemm"]
    assert backend.unavailable() is None or "deep_gemm" in backend.unavailable()


def test_provenance_names_the_library_that_ran() -> None:
    found = adapter("sm90").provenance()
    assert found["version"] == "2.6.1" and found["module"] == "dgref.deep_gemm"
