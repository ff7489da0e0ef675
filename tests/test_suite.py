"""Suites are data: what cannot be used is a sentence that names file, case and field."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgref import grid, suite
from dgref.errors import DgrefError, SuiteError, UnknownNameError
from dgref.grid import expand
from dgref.suite import Case

GOOD = """
[[case]]
id = "one"
why = "because"
op = "gemm"
shape = { m = 4, n = 8, k = 32 }
a = "mxfp8"
b = { recipe = "mxfp8", layout = "swizzle_128x4" }
"""


def load(tmp_path: Path, text: str) -> suite.Suite:
    path = tmp_path / f"s{abs(hash(text))}.toml"
    path.write_text(text, encoding="utf-8")
    return suite.load_file(path)


@pytest.mark.parametrize("name", suite.names())
def test_every_shipped_suite_loads_and_says_what_it_is_for(name: str) -> None:
    row = suite.load(name)
    assert row.description
    assert len({case.id for case in row.cases}) == len(row)


@pytest.mark.parametrize("name", suite.names())
def test_every_shipped_case_survives_a_round_trip_through_plain_data(name: str) -> None:
    for case in suite.load(name).cases:
        assert Case.from_dict(case.to_dict()) == case


def test_the_default_run_has_at_least_300_cases() -> None:
    assert sum(len(row) for row in map(suite.load, suite.names()) if row.default) >= 300


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('op = "gemm"', 'op = "gem"', "case 'one' field 'op': op: got 'gem', need gemm"),
        ('a = "mxfp8"', 'a = "mxpf8"', "case 'one' field 'a' field 'recipe': recipe: got 'mxpf8', need mxfp8"),
        ('a = "mxfp8"', 'a = { recipe = "mxfp8", layuot = "x" }', "field: got 'layuot', need layout"),
        ('layout = "swizzle_128x4"', 'layout = "swizzle_128x5"', "need swizzle_128x4"),
        ('layout = "swizzle_128x4"', 'major = "row"', "field 'major'"),
        ("m = 4", "m = -4", "field 'shape.m': got -4, need an integer from 0 to 68719476736"),
        ("m = 4", "m = 4.5", "field 'shape.m': got 4.5"),
        (
            "m = 4, n = 8",
            "m = 1000000000, n = 1000000000",
            "field 'shape': got 1,000,000,000,000,000,000 elements, need at most",
        ),
        ("m = 4,", "", "no extent for m"),
        ("m = 4", "m = 4, q = 1", "axis: got 'q'"),
        ('why = "because"', "", "field 'why': got nothing, need a text"),
        ('why = "because"', "why = 3", "field 'why': got 3, need a text"),
        ('id = "one"', 'id = "a b"', "need a name without spaces"),
        ('id = "one"', 'id = "../x"', "need a name without spaces"),
        ('why = "because"', 'why = "x"\nexpect = "modle"', "field 'expect': value: got 'modle', need model"),
        ('why = "because"', 'why = "x"\nbackend = "torch"', "field: got 'backend'"),
        ('why = "because"', 'why = "x"\nsuite = "other"', "field: got 'suite'"),
        ('why = "because"', 'why = "x"\ninputs = { kind = "nromal" }', "need normal"),
        ('why = "because"', 'why = "x"\ninputs = { seed = -1 }', "field 'seed': got -1"),
        ('why = "because"', 'why = "x"\nparams = 3', "field 'params': got 3, need a table"),
        ('why = "because"', 'why = "x"\nout = "float7"', "field 'out'"),
        ("[[case]]", "default = 3\n[[case]]", "field 'default'"),
        ("[[case]]", 'device = "tpu"\n[[case]]', "field 'device'"),
        ("[[case]]", "[case]", "need tables under [[case]]"),
        ("[[case]]", "[[cases]]", "field: got 'cases', need case"),
        ("shape = { m = 4, n = 8, k = 32 }", 'shape = "4x8x32"', "field 'shape': got '4x8x32', need a table"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(SuiteError, match=re.escape(words)) as caught:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert ".toml" in str(caught.value)


@pytest.mark.parametrize("text", ["", "x = [", "description = 'nothing else'", GOOD + GOOD])
def test_empty_broken_and_double_files_are_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(SuiteError, match=r"\.toml"):
        load(tmp_path, text)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(SuiteError, match=r"binary\.toml"):
        suite.load_file(path)


def test_an_unknown_suite_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"need .*smoke"):
        suite.load("smok")


def test_a_grid_is_every_combination_under_an_id_of_its_own() -> None:
    grid = {"id": "{shape.m}-{a.recipe}", "shape": {"m": [1, 2], "k": 3}, "a": ["x", {"recipe": ["y", "z"]}]}
    rows = list(expand(grid))
    assert [row["id"] for row in rows] == ["1-x", "1-y", "1-z", "2-x", "2-y", "2-z"]
    assert rows[1]["shape"] == {"m": 1, "k": 3}


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"id": "{shape.q}", "shape": {"m": [1]}}, "field 'id'"),
        ({"id": "x", "shape": {"m": []}}, "field 'shape.m': got an empty list"),
        ({"id": "x", "a": [[1] * 1000, [2]], "b": list(range(1000)), "c": list(range(1000))}, "too many combinations"),
    ],
)
def test_a_grid_that_cannot_be_expanded_is_named(grid: dict, words: str) -> None:
    with pytest.raises(SuiteError, match=re.escape(words)):
        list(expand(grid))


def test_a_case_of_a_file_is_reproduced_from_that_file(tmp_path: Path) -> None:
    (case,) = load(tmp_path, GOOD).cases
    assert case.source.endswith(".toml")
    assert suite.load("smoke").cases[0].source == "smoke"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable, max_size=8)
VALUES = st.recursive(
    SCALARS | st.sampled_from(["gemm", "mxfp8", "model", "k", "normal", "bfloat16"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["m", "n", "k", "recipe", "layout", "major", "kind", "seed", "id"]), inner)
    ),
    max_leaves=6,
)
FIELDS = ("id", "why", "op", "shape", "a", "b", "params", "out", "inputs", "expect", "operands", "unknown")
START: dict[str, Any] = {
    "id": "x", "why": "y", "op": "gemm", "shape": {"m": 4, "n": 8, "k": 32}, "a": "mxfp8", "b": "mxfp8"
}  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
def test_any_case_is_accepted_or_refused_in_a_sentence(changes: dict[str, Any]) -> None:
    try:
        case = Case.from_dict({**START, **changes})
    except DgrefError as error:
        assert str(error)
    else:
        assert Case.from_dict(case.to_dict()) == case


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3))
def test_any_grid_is_expanded_or_refused_in_a_sentence(changes: dict[str, Any]) -> None:
    try:
        rows = list(expand({**START, **changes}))
        [Case.from_dict(row) for row in rows[:4]]
    except DgrefError as error:
        assert str(error)


def test_an_unknown_suite_is_answered_with_all_of_them() -> None:
    with pytest.raises(UnknownNameError, match=r"got 'nosuch', need one of .*einsum.*smoke.*\.toml"):
        suite.load("nosuch")


def test_a_grid_id_that_asks_a_plain_operand_for_its_layout_is_told_so() -> None:
    with pytest.raises(SuiteError, match="bfloat16 is a plain name, without a layout"):
        grid._fill("{a.layout}", {"operands": {"a": "bfloat16"}}, "s.toml")


def test_a_file_is_read_as_it_is_now_and_where_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (suite.folder() / "smoke.toml").read_text(encoding="utf-8")
    for folder, words in (("one", "of one"), ("two", "of two")):
        (tmp_path / folder).mkdir()
        described = re.sub(r"^description = .*", f'description = "{words}"', text, count=1, flags=re.MULTILINE)
        (tmp_path / folder / "mine.toml").write_text(described, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "one")
    assert suite.load("./mine.toml").description == "of one"
    monkeypatch.chdir(tmp_path / "two")
    assert suite.load("./mine.toml").description == "of two"
    (tmp_path / "two" / "mine.toml").write_text(described.replace("of two", "edited"), encoding="utf-8")
    assert suite.load("./mine.toml").description == "edited"
