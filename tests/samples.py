"""Small suites, cases and results that several tests start from."""

from __future__ import annotations

from pathlib import Path

from dgref.results import Result, Results
from dgref.suite import Case, OperandChoice, Suite

MISBEHAVING = str(Path(__file__).parent / "backends" / "misbehaving.py")


def case(id: str = "tiny", **changes: object) -> Case:
    operands = {name: OperandChoice("bfloat16") for name in "ab"}
    fields = {"id": id, "why": "small", "op": "gemm", "shape": {"m": 4, "n": 8, "k": 16}, "operands": operands}
    return Case(**{**fields, "suite": "sample", **changes})


def masked() -> Case:
    operands = {name: OperandChoice("bfloat16") for name in "ab"}
    return case("masked", op="gemm_grouped_masked", shape={"g": 2, "m": 16, "n": 8, "k": 16}, operands=operands)


def suite(count: int = 1) -> Suite:
    return Suite("sample", "for tests", tuple(case(f"case-{number}") for number in range(count)))


MAP = {"cells": ["0090", "0000"], "shape": [8, 16], "tile": [4, 4], "rows_per_group": 4}
WRONG = {"count": 128, "differing": 4, "summary": "4 of 128 differ", "histogram": {"1": 3, "3..4": 1}, "map": MAP}


def results(count: int = 3, wrong: int = 1) -> Results:
    """Return results of one backend, the first few of them wrong, with pictures and a diagnosis."""
    rows = []
    for number in range(count):
        bad = number < wrong
        rows.append(
            Result(
                case=f"sample/case-{number}",
                backend="mine",
                status="fail" if bad else "pass",
                level="wrong" if bad else "model",
                required="model",
                op="gemm",
                out="bfloat16",
                shape={"m": 4, "n": 8, "k": 16},
                recipes={"a": "mxfp8", "b": "mxfp8"},
                why="so that <something> is shown",
                reason="d: 4 of 128 differ" if bad else "",
                outputs={"d": WRONG} if bad else {"d": {"count": 128, "differing": 0, "summary": "all 128 equal"}},
                diagnosis={"sentence": "the scales are transposed", "fix": "pass mn-major"} if bad else None,
                evidence={"runs": 4, "poisons": ["0xFF", "0x55"], "bits": {"d": f"{number:016x}"}},
                seconds={"total": 0.01},
                throughput={"microseconds": 10.0, "tflops": 1.0, "gigabytes_per_second": 2.0, "of_roof": 0.5},
                reproduce=f"dgref run sample --case case-{number} --backend mine",
            )
        )
    return Results(rows, {"processor": "a CPU", "gpu": None, "commit": "abc"}, {"backends": ["mine"]})
