"""The page opens anywhere: one file, no network, no script error, light enough for thousands of results."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dgref.merging import merge
from dgref.report import html
from dgref.report.pictures import error_map, histogram, short
from dgref.results import STATUSES, UNJUDGED, Result, Results
from tests import samples

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--window-size=500,900",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--dump-dom",
]
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def opened(page: str, tmp_path: Path, script: str = "") -> tuple[str, str]:
    """Return the document after the page's scripts and one more have run, and what the browser logged."""
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


@needs_chromium
def test_the_page_runs_without_an_error_and_filters(tmp_path: Path) -> None:
    script = """
      const count = () => document.querySelectorAll("#rows > details").length;
      const before = count();
      filter.value = "case-1 mine"; filter.dispatchEvent(new Event("input"));
      const few = count();
      const first = document.querySelector("#rows > details"); first.open = true; first.append(body(results[1]));
      document.title = `${before} ${few}`;
    """
    document, log = opened(html.render(samples.results(30, wrong=2)), tmp_path, script)
    assert "<title>30 11</title>" in document
    assert "every result" in document.lower()
    assert "CONSOLE" not in log, log


@needs_chromium
def test_text_of_a_kernel_cannot_become_markup(tmp_path: Path) -> None:
    attack = "</script><img src=x onerror=\"document.title='broken'\"><b>\u2028"
    rows = [Result(f"s/{i}", attack, "fail", attack, why=attack, reproduce=attack, op=attack) for i in range(2)]
    page = html.render(Results(rows, {"processor": attack}))
    document, log = opened(
        page, tmp_path, "document.querySelectorAll('#rows > details').forEach((d) => d.append(body(results[0])))"
    )
    assert "<title>broken" not in document
    assert "CONSOLE" not in log, log


def test_the_page_names_no_other_host() -> None:
    page = html.render(samples.results())
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)|@import|url\(|https?://(?!www\.w3\.org)""", page)


def test_two_thousand_results_stay_under_three_megabytes() -> None:
    page = html.render(samples.results(2000, wrong=100))
    assert len(page.encode()) < 3 << 20


def test_what_is_wrong_comes_first_with_cause_fix_and_reproduction() -> None:
    page = html.render(samples.results())
    wrong = page[page.index("What is wrong") : page.index("Conformance matrix")]
    for words in ("sample/case-0", "the scales are transposed", "pass mn-major", "dgref run sample --case case-0"):
        assert words in wrong


def test_every_command_stands_alone_in_a_box_from_which_it_can_be_copied() -> None:
    results = samples.results()
    results.results[0].diagnosis |= {"fix": "ask the kernel", "ask": "dgref fingerprint sample --case 'a<b'"}
    page = html.render(results)
    assert "ask the kernel</p>" in page
    for command in ("dgref fingerprint sample --case &#39;a&lt;b&#39;", results.results[0].reproduce):
        assert f'<pre class="command">{command}</pre>' in page


def test_a_fix_shows_code_where_it_has_backticks_and_no_other_markup() -> None:
    assert html.coded("set `a<b` to 1, <i>") == "set <code>a&lt;b</code> to 1, &lt;i&gt;"
    (row,) = samples.results(1).results
    row.diagnosis = {"status": "confirmed", "sentence": "cut", "fix": "use `cvt.rn`"}
    assert "<b>Fix.</b> use <code>cvt.rn</code>" in html.render(Results([row]))


def test_a_page_of_several_runs_says_so_quietly() -> None:
    flags = [{"suites": ["gemm"], "shard": [1, 1]}, {"suites": ["edges"], "shard": [1, 1]}]
    rows = samples.results(2).results
    page = html.render(merge([Results([row], flags=said) for row, said in zip(rows, flags, strict=True)]))
    assert '<p class="sub">Made of 2 runs, which differ in suites.</p>' in page
    assert 'class="warning"' not in page


def diagnosed(name: str | None, count: int) -> list[Result]:
    cause = {"hypothesis": name, "status": "confirmed" if name else "none", "sentence": f"{name} it is"}
    return [Result(f"s/{name}-{i}", "mine", "fail", "d differs", diagnosis=cause) for i in range(count)]


def test_failures_are_grouped_by_cause_the_most_frequent_first() -> None:
    page = html.render(Results([*diagnosed("nibble_order", 2), *diagnosed(None, 1), *diagnosed("scale_swizzle", 30)]))
    titles = re.findall(r'<h3 class="why" id="cause-\d+">(.*?)</h3>', page)
    assert titles == ["30 × scale swizzle", "2 × nibble order", "1 × no cause found"]
    assert re.findall(r'href="#(cause-\d+)"><b>(\d+)', page) == [("cause-1", "30"), ("cause-2", "2"), ("cause-3", "1")]
    assert page.count("scale_swizzle it is") == html.SHOWN_OF_A_CAUSE
    assert f"and {30 - html.SHOWN_OF_A_CAUSE - html.SHOWN_IDS} more" in page


def idle(reason: str, count: int, backend: str = "mine") -> list[Result]:
    return [Result(f"s/{reason}-{i}", backend, "unsupported", reason) for i in range(count)]


def test_why_results_were_not_run_stands_above_the_matrix_by_count_and_times_below_all_verdicts() -> None:
    rare = [row for number in range(html.SHOWN_REASONS) for row in idle(f"rare {number}", 1)]
    rows = [*idle("no <kernel>", 1), *idle("needs sm100", 4), *idle("needs sm100", 1, "other"), *rare]
    page = html.render(Results([*samples.results(), *rows]))
    why = page[page.index("Why 14 of 17 results were not run") : page.index("Every result")]
    counts = re.findall(r"<b>(\d+)</b><span>(.*?) <small>(.*?)</small>", why)
    assert counts[:2] == [("5", "needs sm100", "mine, other"), ("1", "no &lt;kernel&gt;", "mine")]
    assert len(counts) == html.SHOWN_REASONS and "and 2 of other reasons" in why
    assert page.index("Every result") < page.index("Throughput against the roof")
    assert '<a href="#speed">3 of the results were timed</a>' in page
    assert "were not run" not in html.render(samples.results())


@needs_chromium
def test_a_reason_shows_the_results_that_it_kept_from_running(tmp_path: Path) -> None:
    page = html.render(Results([*samples.results(), *idle("needs sm100", 4), *idle("no kernel", 1)]))
    script = (
        "document.querySelector('[data-idle]').click(); document.title = document.getElementById('shown').textContent"
    )
    document, log = opened(page, tmp_path, script)
    assert "<title>4 of 8" in document and "CONSOLE" not in log, log


def test_more_causes_than_are_shown_are_counted() -> None:
    rows = [row for number in range(html.SHOWN_CAUSES + 2) for row in diagnosed(f"fault_{number}", 1)]
    assert "and 2 more of other causes" in html.render(Results(rows))


def test_missing_outputs_are_neither_wrong_nor_conforming() -> None:
    page = html.render(Results([Result("s/1", "files/x", "missing"), Result("s/2", "files/x", "pass", level="exact")]))
    assert "<h1>1 of 2 outputs is missing</h1>" in page
    assert '<div class="tile missing"><b>1</b>' in page
    assert '<div class="tile wrong"><b>0</b>' in page


@needs_chromium
def test_a_wide_matrix_scrolls_inside_its_box_and_keeps_its_first_column(tmp_path: Path) -> None:
    names = [f"recorded/nvidia-h200/library-{number}/fast" for number in range(9)]
    rows = [Result("s/1", name, "pass", level="exact", op="gemm_grouped_contiguous") for name in names]
    script = """
      const box = document.querySelector(".matrix-box"), first = document.querySelector(".matrix tbody th");
      const [page, inner] = [document.documentElement.scrollWidth <= innerWidth, box.scrollWidth > box.clientWidth];
      box.scrollLeft = 200;
      const stays = Math.abs(first.getBoundingClientRect().left - box.getBoundingClientRect().left) < 3;
      document.title = `${page} ${inner} ${stays} ${first.offsetWidth < innerWidth / 2}`;
    """
    document, _ = opened(html.render(Results(rows)), tmp_path, script)
    assert "<title>true true true true</title>" in document


@needs_chromium
def test_choices_of_formats_fold_under_their_operation_unless_one_is_wrong(tmp_path: Path) -> None:
    formats = ("bfloat16", "mxfp8", "mxfp4")
    rows = [
        Result(f"s/{op}-{name}", "mine", "pass", level="exact", op=op, recipes={"a": name})
        for op in ("cast", "gemm")
        for name in formats
    ]
    rows[-1].status, rows[-1].level = "fail", "wrong"
    script = """
      const folds = [...document.querySelectorAll(".formats")];
      const before = folds.map((fold) => fold.rows.length + (fold.hidden ? " folded" : " open"));
      document.querySelector(".op button[aria-expanded=false]").click();
      document.body.dataset.seen = before.join(", ") + "; then " + folds.filter((fold) => fold.hidden).length;
    """
    document, _ = opened(html.render(Results(rows)), tmp_path, script)
    assert 'data-seen="3 folded, 3 open; then 0"' in document


@needs_chromium
def test_a_histogram_scrolls_on_a_narrow_screen_and_keeps_its_size(tmp_path: Path) -> None:
    made = samples.results(1)
    made.results[0].outputs = {"d": {**samples.WRONG, "histogram": {str(2**i): 1 for i in range(14)}}}
    script = """
      const drawing = document.querySelector("svg.histogram"), box = drawing.parentElement;
      const whole = drawing.getBoundingClientRect().width >= drawing.viewBox.baseVal.width;
      const inside = document.documentElement.scrollWidth <= innerWidth;
      document.body.dataset.seen = [whole, box.scrollWidth > box.clientWidth, inside].join(" ");
    """
    document, _ = opened(html.render(made), tmp_path, script)
    assert 'data-seen="true true true"' in document


def test_a_name_breaks_behind_its_signs_only() -> None:
    assert html.breakable("torch/cuda_fast<") == "torch/<wbr>cuda_<wbr>fast&lt;"
    assert html.breakable("") == ""


@pytest.mark.parametrize("status", STATUSES)
def test_every_group_has_a_meaning_and_a_colour(status: str) -> None:
    row = Result("s/x", "b", status, level="model", op="gemm")
    page = html.render(Results([row, Result("s/y", "b", "pass", level="exact")]))
    assert f'"label":"{row.status.replace("_", " ") if status != "pass" else "model"}"' in page
    assert f"<span>{row.group}</span><small>{html._MEANINGS[row.group]}</small>" in page
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)[1]
    assert row.group == "not run" or f".{row.group.replace(' ', '-')} {{ --tone: var(--" in style


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["fail", "pass"], "1 of 2 results is wrong"),
        (["fail", "fail"], "2 of 2 results are wrong"),
        (["fail"], "1 of 1 result is wrong"),
        (["pass", "pass"], "All 2 results conform"),
        (["pass"], "The result conforms"),
        (["pass", "waived"], "The other result conforms, 1 known failure waived"),
        (["pass", "unexpected_pass"], "1 of 2 results passes though waived"),
        (["skipped"], "Nothing could run"),
    ],
)
def test_the_headline_counts_in_plain_words(rows: list[str], words: str) -> None:
    page = html.render(Results([Result(f"s/{i}", "b", status, level="exact") for i, status in enumerate(rows)]))
    assert f"<h1>{words}</h1>" in page


def test_what_was_only_timed_is_not_called_bounded() -> None:
    page = html.render(Results([Result("s/x", "b", "pass", UNJUDGED, op="gemm")]))
    assert "<h1>1 result timed, not judged</h1>" in page and 'title="1 not judged"' in page
    assert '<div class="tile bounded"><b>0</b>' in page


def test_every_row_of_the_data_can_be_read_back() -> None:
    page = html.render(samples.results(5))
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert [row["case"] for row in json.loads(data.group(1))] == [f"sample/case-{i}" for i in range(5)]


def test_an_error_map_draws_a_run_of_cells_as_one_rectangle() -> None:
    svg = ElementTree.fromstring(error_map({**samples.MAP, "cells": ["0099", "0090"]}))
    (hit,) = [row for row in svg if row.get("class") == "hit"]
    assert hit.get("d").count("M") == 2
    assert [row for row in svg if row.get("class") == "split"]


def test_a_histogram_has_a_labelled_column_for_each_bin() -> None:
    svg = ElementTree.fromstring(histogram({"1": 10, "2": 0, "3..4": 2_500_000}))
    assert len([row for row in svg if row.get("class") == "column"]) == 2
    assert {"10", "2.5M", "3..4"} <= {row.text for row in svg}


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (999, "999"), (1200, "1.2k"), (34_000, "34k"), (5_600_000, "5.6M")]
)
def test_counts_are_short(count: int, text: str) -> None:
    assert short(count) == text
