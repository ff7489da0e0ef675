"""The speeds that the documentation shows are those of the committed bundle."""

from __future__ import annotations

from pathlib import Path

from dgref.report.speed import render
from dgref.results import Result, load_results

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_shows_what_the_bundle_holds() -> None:
    page = (ROOT / "docs" / "kernels-sm90.md").read_text(encoding="utf-8")
    shown = page.split("<!-- speed -->\n")[1].split("<!-- /speed -->")[0]
    assert shown == render(load_results(ROOT / "reports" / "nvidia-h200-deepseek"))


def timed(case: str, backend: str, microseconds: float, level: str) -> Result:
    """Return a result with nothing but a time and a level."""
    status = "pass" if level != "wrong" else "fail"
    return Result(case=case, backend=backend, status=status, level=level, throughput={"microseconds": microseconds})


def test_deep_gemm_stands_beside_ours_with_its_level_and_the_mean_of_each_family() -> None:
    rows = [
        *(timed("deepseek/1x2112x7168", name, us, "model") for name, us in (("cuda", 12), ("deep_gemm", 15))),
        *(timed("deepseek/64x2112x7168", name, us, "model") for name, us in (("cuda", 10), ("deep_gemm", 8))),
        timed("deepseek/masked-6x32x4096x7168", "cuda", 50, "model"),
        timed("deepseek/masked-6x32x4096x7168", "deep_gemm", 55, "wrong"),
        timed("deepseek/bf16-1x2112x7168", "cuda", 50, "model"),
    ]
    shown = render(rows).splitlines()
    assert shown[2:5] == [
        "| 1x2112x7168 | 12.0 | 15.0 | 1.25 | model |",
        "| 64x2112x7168 | 10.0 | 8.0 | 0.80 | model |",
        "| masked-6x32x4096x7168 | 50.0 | 55.0 | 1.10 | **wrong** |",
    ]
    assert shown[-1] == "Geometric means of the ratios: dense 1.000 (least 0.80), masked 1.100 (least 1.10)."
