"""A results file is whole, versioned, and read back as it was; anything else is a sentence."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref import files
from dgref.errors import DgrefError, FileError
from dgref.merging import merge
from dgref.report import compare, html, junit, terminal
from dgref.results import (
    BAD,
    GOOD,
    NOT_RUN,
    SCHEMA,
    STATUSES,
    UNJUDGED,
    Result,
    Results,
    load_results,
    parse_results,
    plain,
)
from tests import samples

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def test_results_survive_a_round_trip_through_a_file_and_its_folder(tmp_path: Path) -> None:
    made = samples.results()
    made.save(tmp_path / "results.json")
    assert load_results(tmp_path) == load_results(tmp_path / "results.json") == made


def test_a_frame_has_one_row_a_result_and_dotted_columns() -> None:
    frame = samples.results(5).frame()
    assert len(frame) == 5
    assert frame["shape.k"].tolist() == [16] * 5
    assert set(frame["status"]) == {"fail", "pass"}


def test_grouping_a_frame_by_level_leaves_no_result_out() -> None:
    rows = [
        Result("s/1", "mine", "pass", level="model"),
        Result("s/2", "mine", "error"),
        Result("s/3", "mine", "unsupported"),
        Result("s/4", "mine", "missing"),
        Result("s/5", "mine", "waived", level="bounded"),
        Result("s/6", "mine", "waived"),
        Result("s/7", "mine", "pass", UNJUDGED),
    ]
    counts = Results(rows).frame().groupby("level").size().to_dict()
    names = ("model", "wrong", "not run", "missing", "bounded", "waived", "not judged")
    assert counts == dict.fromkeys(names, 1)


def test_every_status_is_good_bad_or_not_run() -> None:
    assert set(STATUSES) == GOOD | BAD | NOT_RUN
    assert not GOOD & BAD


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["pass"], 0), (["waived", "pass"], 0), (["pass", "unsupported"], 0), (["unsupported"], 3), ([], 3),
        (["unavailable", "skipped"], 3), *((["pass", status], 1) for status in sorted(BAD)),
    ],
)  # fmt: skip
def test_exit_codes(statuses: list[str], code: int) -> None:
    assert Results([Result(f"s/{i}", "b", status) for i, status in enumerate(statuses)]).exit_code == code


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": "other/1"}', '{"schema": "dgref.results/1"}'])
def test_other_files_are_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"results\.json"):
        load_results(path)


def test_a_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        load_results(tmp_path / "absent.json")


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_any_json_is_read_or_refused_in_a_sentence(data: object) -> None:
    for document in (
        data,
        {"schema": "dgref.results/1", "results": data},
        {"schema": "dgref.results/1", "results": [data]},
    ):
        try:
            parse_results(document, "x.json")
        except DgrefError as error:
            assert "x.json" in str(error)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(list(Result.__dataclass_fields__)), JSON))
def test_any_row_is_read_or_refused_in_a_sentence(row: dict) -> None:
    start = {"case": "s/x", "backend": "b", "status": "pass"}
    try:
        parse_results({"schema": "dgref.results/1", "results": [{**start, **row}]}, "x.json").to_json()
    except DgrefError as error:
        assert "x.json" in str(error)


def test_plain_holds_numbers_and_says_the_rest_in_words() -> None:
    made = plain(
        {"a": np.float32(0.5), "n": math.nan, 3: (np.int64(7), -math.inf), "p": Path("x"), "b": np.bool_(True)}
    )
    assert made == {"a": 0.5, "n": "nan", "3": [7, "-inf"], "p": "x", "b": True}
    json.dumps(made, allow_nan=False)


def test_shards_merge_into_the_whole() -> None:
    whole = samples.results(6)
    parts = [Results(whole.results[i::2], whole.machine, whole.flags) for i in range(2)]
    merged = merge(parts)
    assert sorted(row.case for row in merged) == [row.case for row in whole]
    assert merge([whole, whole]).results == whole.results


def test_a_merged_run_claims_the_suites_of_all_its_parts() -> None:
    parts = [Results([], {}, {"suites": names}) for names in (["gemm", "smoke"], ["smoke", "edges"])]
    assert merge(parts).flags == {"suites": ["gemm", "smoke", "edges"], "runs": 2, "differ": ["suites"]}


def test_two_different_results_of_one_case_do_not_merge() -> None:
    with pytest.raises(FileError, match=r"sample/case-0 on mine: got two different results"):
        merge([samples.results(1, wrong=1), samples.results(1, wrong=0)])


def test_shards_of_two_machines_do_not_merge() -> None:
    other = samples.results(1)
    other.machine = {**other.machine, "gpu": {"name": "another"}}
    with pytest.raises(FileError, match="shards' gpu"):
        merge([samples.results(1), other])


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = samples.results().save(tmp_path / "results.json")
    before = path.read_bytes()

    def refuse(*names: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(FileError, match="No space left"):
        samples.results(9).save(path)
    assert path.read_bytes() == before
    assert [row.name for row in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    "nested", [{"outputs": {"x": 1}}, {"recipes": {"x": 1}}, {"throughput": {"x": 1}}, {"seconds": {"x": "1"}}]
)
def test_nested_fields_of_another_kind_are_named(nested: dict) -> None:
    row = {"case": "s/c", "backend": "b", "status": "pass", **nested}
    with pytest.raises(FileError, match="s/c"):
        parse_results({"schema": SCHEMA, "results": [row]}, "file")


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from _places(part, (*path, key))


def _failing() -> dict:
    made = json.loads(samples.results(1).to_json())
    row = made["results"][0]
    row["diagnosis"] |= {"hypothesis": "scale_layout", "status": "confirmed", "agreed": 3, "total": 4}
    row["outputs"]["d"]["worst"] = [{"index": [0, 1], "ulps": 3, "line": "[0, 1] differs"}]
    row["evidence"] |= {"guards": ["d: written past"], "judged": "4 rows", "diagnosis": "failed"}
    made["machine"]["gpu"] = {"name": "a GPU"}
    return made


@pytest.mark.parametrize("spoiled", [None, -3, "q", 10**400, [5], [[]], {"x": 5}, {"x": ["y"]}])
def test_a_field_of_any_kind_is_refused_by_name_or_shown(spoiled: Any, capsys: pytest.CaptureFixture[str]) -> None:
    whole = _failing()
    for place in _places(whole):
        document = copy.deepcopy(whole)
        holder = document
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = spoiled
        try:
            read = parse_results(document, "x.json")
        except FileError as error:
            assert "x.json" in str(error)
            continue
        html.render(read), junit.render(read), compare.compare(read, read), terminal.summary(read)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"diagnosis": {"sentence": 5}}, "diagnosis.sentence"),
        ({"evidence": {"poisons": [255]}}, r"evidence.poisons\[0\]"),
        ({"outputs": {"d": {"map": {"cells": "zz", "shape": "q", "tile": [4, 4]}}}}, "outputs.d.map"),
        ({"outputs": {"d": {"map": {"cells": ["12"]}}}}, "outputs.d.map"),
        ({"outputs": {"d": {"histogram": {"1": -3}}}}, "outputs.d.histogram.1"),
    ],
)
def test_a_spoiled_field_is_named_with_its_result(changes: dict, field: str) -> None:
    row = {"case": "s/c", "backend": "b", "status": "fail", **changes}
    with pytest.raises(FileError, match=f"{field}.*of s/c: got"):
        parse_results({"schema": SCHEMA, "results": [row]}, "file")


def test_text_that_no_page_can_hold_is_refused(tmp_path: Path) -> None:
    row = {"case": "s/c", "backend": "b", "status": "fail", "reason": "\ud800"}
    (tmp_path / "results.json").write_text(json.dumps({"schema": SCHEMA, "results": [row]}))
    with pytest.raises(FileError, match="surrogates not allowed"):
        load_results(tmp_path)


def _shard(index: int, count: int, whole: Results) -> Results:
    return Results(whole.results[index - 1 :: count], whole.machine, {**whole.flags, "shard": [index, count]})


def test_a_merge_says_what_is_missing_and_what_came_twice() -> None:
    first, second = (_shard(index, 2, samples.results(6)) for index in (1, 2))
    assert merge([first, second]).warnings == []
    assert merge([merge([first]), second]).warnings == []  # though the first report said what it lacked
    assert merge([first]).warnings == ["shards: got none of 2/2, need all 2"]
    twice = merge([first, first]).warnings
    assert twice[0] == "part 2: got no result that the parts before it lack, need each once"
    assert twice[1:] == merge([first]).warnings


def test_a_merge_of_several_runs_says_so_whatever_is_merged_first() -> None:
    flags = [
        {"suites": [name], "settings": {"repeats": count}} for name, count in (("gemm", 2), ("edges", 2), ("x", 9))
    ]
    one, two, three = (replace(samples.results(1), flags=row) for row in flags)
    said = "Made of 3 runs, which differ in suites and settings; the settings in results.json are those of the first"
    assert merge([one, two, three]).makeup == merge([merge([one, two]), three]).makeup == said
    assert parse_results(json.loads(merge([one, two, three]).to_json()), "again").makeup == said


def test_a_required_backend_that_judged_nothing_is_no_success() -> None:
    known = samples.results(2, wrong=0)
    name = known.results[0].backend
    assert (known.exit_code, replace(known, flags={"required": {name: [name]}}).exit_code) == (0, 0)
    absent = Result("gemm/x", "cuda", "unavailable", "needs a CUDA device; torch sees none")
    found = replace(
        known, results=[*known.results, absent], flags={"required": {name: [name], "cuda": ["cuda"]}, "shard": [1, 1]}
    )
    assert found.exit_code == 3
    (line,) = found.unmet
    assert line == (
        "required backend cuda: got no judged result (needs a CUDA device; torch sees none), need at least one"
    )
    timed = replace(absent, status="pass", reason=UNJUDGED)
    assert replace(found, results=[*known.results, timed]).exit_code == 3
    shard = replace(found, flags={"required": {"cuda": ["cuda", "cuda/x"]}, "shard": [1, 2]})
    assert (shard.exit_code, merge([shard]).exit_code) == (0, 3)
    assert replace(found, results=[*found.results, replace(absent, status="fail", reason="")]).exit_code == 1


def test_a_merge_of_unrelated_runs_says_what_differs() -> None:
    other = Results([Result("s/x", "torch/cpu", "pass")], {}, {"backends": ["torch/cpu"]})
    merged = merge([samples.results(1), other])
    assert merged.warnings == []  # two whole runs: on purpose
    assert (merged.flags["runs"], merged.flags["differ"]) == (2, ["backends"])
    assert merged.makeup == "Made of 2 runs, which differ in backends"
    parts = [
        replace(part, flags={**part.flags, "shard": [i, 2]}) for i, part in enumerate((samples.results(1), other), 1)
    ]
    (line,) = merge(parts).warnings
    assert line == "merged results' backends: got other ones in another part, need shards of one run"
    assert merge(parts).makeup == merge([samples.results(1)]).makeup == ""
    assert merge([samples.results(1), other]).flags["backends"] == ["mine", "torch/cpu"]


@pytest.mark.parametrize("suites", [[{"a": 1}], 3, "smoke"])
def test_suites_that_are_no_list_of_names_are_refused(suites: object) -> None:
    document = {"schema": SCHEMA, "results": [], "flags": {"suites": suites}}
    with pytest.raises(FileError, match=r"field 'flags\.suites"):
        parse_results(document, "x.json")


def test_warnings_are_read_back_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = samples.results()
    made.warnings.append("a shard is <missing>")
    made.save(tmp_path / "results.json")
    terminal.summary(load_results(tmp_path))
    assert "warning: a shard is <missing>" in capsys.readouterr().out
    assert "a shard is &lt;missing&gt;" in html.render(load_results(tmp_path))
