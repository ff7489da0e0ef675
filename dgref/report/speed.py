"""Timed results as Markdown tables: `python -m dgref.report.speed reports/nvidia-h200`.

Of a bundle that holds results of DeepGEMM's kernels, the table sets ours beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from statistics import geometric_mean

from dgref import suite
from dgref.results import Result, Results, load_results

OURS, PEER, TENSORWISE, DEEP_GEMM = "cuda", "torch/cuda", "torch/cuda_fast", "deep_gemm"
ROWS = (1, 16, 64, 128, 512, 4096)


def times(results: Results) -> dict[tuple[str, str], Result]:
    """Return every timed result by (case id, backend), in the suite's order, whichever shard a result came from."""
    place = {case.id: index for index, case in enumerate(suite.load("deepseek").cases)}
    found = {(row.case.split("/", 1)[1], row.backend): row for row in results if row.throughput}
    return dict(sorted(found.items(), key=lambda item: place.get(item[0][0], len(place))))


def dense(found: dict[tuple[str, str], Result]) -> Iterator[str]:
    """Yield the table of dense FP8 products: microseconds, and in brackets the ratio to the tensorwise product."""
    shapes = dict.fromkeys(
        (r.shape["n"], r.shape["k"]) for (id, name), r in found.items() if _is_dense(id) and name == OURS
    )
    yield "| N x K | " + " | ".join(f"M = {m}" for m in ROWS) + " |"
    yield "|---" * (len(ROWS) + 1) + "|"
    ratios = []
    for n, k in shapes:
        cells = []
        for m in ROWS:
            mine, peer = (
                _us(found, id, name) for id, name in ((f"{m}x{n}x{k}", OURS), (f"tensorwise-{m}x{n}x{k}", TENSORWISE))
            )
            ratios.append(peer / mine)
            cells.append(f"{mine:.1f} ({peer / mine:.2f})")
        yield f"| {n} x {k} | " + " | ".join(cells) + " |"
    yield ""
    yield f"Geometric mean of the {len(ratios)} ratios: {geometric_mean(ratios):.2f}."


def others(found: dict[tuple[str, str], Result]) -> Iterator[str]:
    """Yield the table of every other timed case of ours, beside torch or, of packed weights, our FP8 product."""
    yield "| case | us | TFLOPS | GB/s | share of the roof | beside it, us (ratio) |"
    yield "|---|---|---|---|---|---|"
    for (id, name), row in found.items():
        if name != OURS or _is_dense(id):
            continue
        speed = row.throughput
        packed = id.startswith("fp4")
        what, peer = ("FP8", found.get((id.rsplit("-", 1)[1], OURS))) if packed else ("torch", found.get((id, PEER)))
        other = peer.throughput["microseconds"] if peer else 0
        beside = f"{what} {other:.1f} ({other / speed['microseconds']:.2f})" if peer else ""
        cells = (f"{speed['microseconds']:.1f}", f"{speed['tflops']:.0f}", f"{speed['gigabytes_per_second']:.0f}")
        yield f"| {id} | " + " | ".join(cells) + f" | {speed['of_roof']:.2f} | {beside} |"


def beside_deep_gemm(found: dict[tuple[str, str], Result]) -> Iterator[str]:
    """Yield the table of every case that both computed, and the mean of DeepGEMM's time over ours in each family."""
    yield "| case | ours, us | DeepGEMM, us | ratio | DeepGEMM's level |"
    yield "|---|---|---|---|---|"
    ratios: dict[str, list[float]] = {}
    for (id, name), row in found.items():
        theirs = found.get((id, DEEP_GEMM))
        if name != OURS or theirs is None:
            continue
        mine, other = row.throughput["microseconds"], theirs.throughput["microseconds"]
        ratios.setdefault("dense" if _is_dense(id) else id.rsplit("-", 1)[0], []).append(other / mine)
        level = theirs.level if theirs.status == "pass" else f"**{theirs.level or theirs.status}**"
        yield f"| {id} | {mine:.1f} | {other:.1f} | {other / mine:.2f} | {level} |"
    yield ""
    means = (f"{family} {geometric_mean(some):.3f} (least {min(some):.2f})" for family, some in ratios.items())
    yield f"Geometric means of the ratios: {', '.join(means)}."


def _is_dense(id: str) -> bool:
    return id.split("x")[0].isdigit()


def _us(found: dict[tuple[str, str], Result], id: str, name: str) -> float:
    return found[id, name].throughput["microseconds"]


def render(results: Results) -> str:
    """Return the tables of a bundle."""
    found = times(results)
    if any(name == DEEP_GEMM for _, name in found):
        return "\n".join(beside_deep_gemm(found)) + "\n"
    return "\n".join([*dense(found), "", *others(found)]) + "\n"


if __name__ == "__main__":
    print(render(load_results(sys.argv[1])), end="")
