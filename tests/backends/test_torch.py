"""Which cases torch's grouped products take, and what is declared of them; what they give is checked on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dgref.arch import ARCHITECTURES
from dgref.backends import select
from dgref.suite import Case, load_file

PLAIN, FAST = select(["torch/cuda", "torch/cuda_fast"])


SUITE = """
[[case]]
id = "one"
why = "a test"
op = "gemm_grouped_contiguous"
shape = {{ g = 2, m = 32, n = 32, k = {k} }}
a = "{a}"
b = "{b}"
params = {{ psum = {psum}, alignment = 1 }}
"""


@pytest.fixture
def case(tmp_path: Path) -> Callable[..., Case]:
    """Return a function that makes a case of a suite."""

    def make(a: str = "per_row_fp8", b: str = "per_channel_fp8", psum: str = "true", k: int = 64) -> Case:
        path = tmp_path / "suite.toml"
        path.write_text(SUITE.format(a=a, b=b, psum=psum, k=k))
        return load_file(path).cases[0]

    return make


@pytest.mark.parametrize(
    ("given", "architecture", "reason"),
    [
        ({"psum": "false"}, "sm90", "the ends of the groups"),
        ({}, "sm100", "on sm90"),
        ({"k": 40}, "sm90", "multiples of 16"),
        ({"a": "deepseek_fp8", "b": "deepseek_fp8_weight"}, "sm90", "a scale for each row"),
    ],
)
def test_what_torch_cannot_multiply_in_groups_is_refused(case, given: dict, architecture: str, reason: str) -> None:
    assert reason in PLAIN.unsupported(case(**given), ARCHITECTURES[architecture])


def test_scaled_groups_are_taken_and_only_the_fast_ones_declared(case) -> None:
    for backend in (PLAIN, FAST):
        assert backend.unsupported(case(), ARCHITECTURES["sm90"]) is None
    assert PLAIN.arithmetic(case(), None) is None
    assert (FAST.arithmetic(case(), None).scales, FAST.arithmetic(case(), None).interval) == ("each", 0)


def test_plain_groups_have_no_fast_accumulation(case) -> None:
    plain = case("bfloat16", "bfloat16")
    assert PLAIN.unsupported(plain, ARCHITECTURES["sm90"]) is None
    assert "no fast accumulation" in FAST.unsupported(plain, ARCHITECTURES["sm90"])
