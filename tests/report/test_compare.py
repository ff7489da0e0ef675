"""Two runs against each other: regressions come first, and only they are regressions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dgref.report.compare import compare
from dgref.results import Result, Results
from tests import samples


def changed(change: Callable[[Result], None]) -> Results:
    made = samples.results(2, wrong=0)
    change(made.results[0])
    return made


def _set(**values: object) -> Callable[[Result], None]:
    return lambda row: [setattr(row, name, value) for name, value in values.items()] and None


@pytest.mark.parametrize(
    ("change", "forward", "backward"),
    [
        (_set(status="fail", level="wrong"), "wrong", "better"),
        (_set(status="crash", level=None), "wrong", "better"),
        (_set(level="bounded"), "weaker", "better"),
        (_set(level="exact"), "better", "weaker"),
        (_set(status="unsupported", level=None), "absent", "new"),
        (_set(throughput={"microseconds": 10.6}), "slower", "faster"),
        (_set(evidence={"bits": {"d": "other"}}), "bits", "bits"),
    ],
)
def test_each_change_has_its_kind_both_ways(change: Callable, forward: str, backward: str) -> None:
    before, after = samples.results(2, wrong=0), changed(change)
    assert [row.kind for row in compare(before, after)] == [forward]
    assert [row.kind for row in compare(after, before)] == [backward]


def test_equal_runs_and_small_differences_in_speed_are_no_change() -> None:
    assert compare(samples.results(), samples.results()) == []
    assert compare(samples.results(2, 0), changed(_set(throughput={"microseconds": 10.4}))) == []


def test_a_result_that_is_gone_is_a_regression() -> None:
    (change,) = compare(samples.results(2), samples.results(1))
    assert (change.kind, change.regression, change.after) == ("absent", True, "not in the run")
