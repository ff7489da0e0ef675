"""The default suites hold a small case for every instantiation of our Hopper GEMM kernel: recordings can keep each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from math import prod
from typing import Any

import pytest

from dgref.backends.cuda.sm90.cases import CASES, OUTPUTS, _operands, _shape
from dgref.backends.cuda.sm90.configuration import configuration
from dgref.formats import FORMATS, RECIPES
from dgref.ops import OPS
from dgref.recordings import LARGEST_BYTES
from dgref.suite import Case, OperandChoice, load, names

H200_MULTIPROCESSORS = 132
SHAPE = {"m": 128, "n": 128, "k": 512}
FLAGS = {  # parameters that choose another instantiation, not only another argument of the launch
    "gemm": ("accumulate",),
    "gemm_grouped_contiguous": ("psum",),
    "gemm_grouped_masked": (),
    "gemm_grouped_k": ("accumulate", "psum"),
}


def path_of(case: Case) -> tuple[str, ...]:
    """Return what chooses the instantiation that a case runs; FP8 operands are brought into one memory order first."""
    operands = _operands(case)
    majors = [case.operands[name].major for name in "ab"] if (case.op, operands.element) == ("gemm", "BF16") else []
    flags = [flag for flag in FLAGS[case.op] if case.params.get(flag)]
    weights = "E2M1" if operands.packed else operands.element
    return (case.op, operands.element, weights, operands.scaling, case.out, *majors, *flags)


def is_ours(case: Case) -> bool:
    return case.op in CASES and CASES[case.op].refuses(case) is None


def is_small(case: Case) -> bool:
    """Say whether a recording keeps a case's outputs."""
    elements = sum(prod(shape) for shape in OPS[case.op].output_shapes(case).values())
    return elements * FORMATS[case.out].bits // 8 <= LARGEST_BYTES


@cache
def recordable() -> list[Case]:
    """Return the cases of the shipped suites that our kernels compute and a recording keeps."""
    return [
        case
        for suite in map(load, names())
        if suite.default
        for case in suite.cases
        if is_ours(case) and is_small(case)
    ]


def possible() -> Iterator[Case]:
    """Yield a case for every combination that our kernels do not refuse."""
    for op, pair, out in product(CASES, pairs(), OUTPUTS):
        shape = SHAPE if op == "gemm" else {"g": 2, **SHAPE}
        for majors, chosen in product(product(("k", "mn"), repeat=2), product((False, True), repeat=len(FLAGS[op]))):
            operands = {name: OperandChoice(pair[i], major=majors[i]) for i, name in enumerate("ab")}
            case = Case("possible", "", op, shape, operands, dict(zip(FLAGS[op], chosen, strict=True)), out)
            if is_ours(case):
                yield case


@cache
def pairs() -> list[tuple[str, str]]:
    """Return one pair of recipes for each pair of operands that the kernels tell apart."""
    found: dict[Any, tuple[str, str]] = {}
    for a, b in product(RECIPES, repeat=2):
        operands = _operands(Case("pair", "", "gemm", {}, {"a": OperandChoice(a), "b": OperandChoice(b)}))
        if not isinstance(operands, str):
            found.setdefault(operands, (a, b))
    return list(found.values())


def test_every_instantiation_has_a_case_small_enough_to_be_recorded() -> None:
    assert {path_of(case) for case in possible()} - {path_of(case) for case in recordable()} == set()


def splits(case: Case) -> bool:
    return configuration(_shape(case, False), H200_MULTIPROCESSORS).splits > 1


FEATURES = {
    "split K of FP8": lambda case: case.op == "gemm" and _operands(case).element == "E4M3" and splits(case),
    "split K of BF16": lambda case: case.op == "gemm" and _operands(case).element == "BF16" and splits(case),
    "room between heads": lambda case: case.params.get("head_splits"),
    "zeros in padding": lambda case: case.params.get("zero_padding"),
    "empty groups": lambda case: case.params.get("groups") == "empty",
    "FP8 a that is transposed": lambda case: _operands(case).b_block and case.operands["a"].major == "mn",
    "FP8 b that is transposed": lambda case: _operands(case).b_block and case.operands["b"].major == "mn",
}


@pytest.mark.parametrize("feature", FEATURES)
def test_what_a_launch_may_be_asked_for_has_a_case_small_enough_to_be_recorded(feature: str) -> None:
    cases = [case for case in recordable() if 0 not in case.shape.values()]
    assert any(FEATURES[feature](case) for case in cases)
