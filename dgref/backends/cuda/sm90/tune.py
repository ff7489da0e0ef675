"""`python -m dgref.backends.cuda.sm90.tune 64x4096x7168`: how near the chosen configuration is to the best one, timed.

A shape is M x N x K, or groups x M x N x K for grouped products. Every configuration whose estimate is within `--slack`
of the least is launched on random operands, as the bench does it: the L2 flushed before each launch, medians.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import click

from dgref import machine
from dgref.backends.cuda.driver import multiprocessors
from dgref.backends.cuda.jit import current_device
from dgref.backends.cuda.sm90.configuration import candidates
from dgref.backends.cuda.sm90.gemm import bf16_gemm, fp8_gemm
from dgref.backends.cuda.sm90.grouped import gemm_grouped_contiguous, gemm_grouped_masked
from dgref.backends.cuda.sm90.pair import SCALINGS
from dgref.backends.cuda.sm90.shape import WORDS, Configuration, Shape
from dgref.errors import InputError, expected
from dgref.files import write_atomically
from dgref.timing import median_microseconds

CLOCKS_PER_MICROSECOND = 1755  # what the estimate is fitted to
SHOWN = 5
Launch = Callable[[Configuration], None]


@dataclass(frozen=True)
class Timed:
    """One configuration: what it was estimated to take, and what it took."""

    configuration: Configuration
    estimated: float
    microseconds: float

    def __str__(self) -> str:
        tile = self.configuration.tile
        shared = f"cluster {tile.cluster_m} x {tile.cluster_n} x {tile.cluster_k}, " if tile.cluster > 1 else ""
        loaded = f"{tile.load_m} rows loaded, " if tile.load_m else ""
        widened = "" if self.configuration.shape.weights == "AS_A" else "packed, "
        how = f"{tile.block_m} x {tile.block_n}, {widened}{shared}{loaded}K in {self.configuration.splits}"
        return f"{self.microseconds:8.1f} us, estimated {self.estimated:8.1f}: {how}"


def timed(shape: Shape, groups: int, slack: float, launches: int, device: str = "cuda") -> list[Timed]:
    """Return the configurations of a shape that may be best, the one that is chosen first."""
    estimates = candidates(shape, multiprocessors(current_device()))
    ranked = sorted(estimates, key=estimates.__getitem__)
    launch = launcher(shape, groups, device)
    return [
        Timed(
            found,
            round(estimates[found] / CLOCKS_PER_MICROSECOND, 2),
            round(median_microseconds(lambda found=found: launch(found), launches), 2),
        )
        for found in ranked
        if estimates[found] <= slack * estimates[ranked[0]]
    ]


def launcher(shape: Shape, groups: int, device: str) -> Launch:
    """Return what launches a configuration of a shape on random operands."""
    import torch

    dtype = torch.bfloat16 if shape.output == "BF16" else torch.float32
    stack = (groups,) if shape.schedule == "MASKED" else ()
    weights = (groups,) if shape.schedule != "DENSE" else ()
    a, b = _payload(shape, (*stack, shape.m), device), _payload(shape, (*weights, shape.n), device, weights=True)
    d = torch.zeros(*stack, shape.m, shape.n, dtype=dtype, device=device)
    scales, options = _scaling(shape, stack, weights, device)
    if shape.schedule == "MASKED":
        counts = torch.full((groups,), shape.m, dtype=torch.int32, device=device)
        return lambda found: gemm_grouped_masked(a, b, d, counts, shape.m, *scales, **options, forced=found)
    if shape.schedule == "LABELLED":
        labels = torch.arange(shape.m, dtype=torch.int32, device=device) // (shape.m // groups)
        return lambda found: gemm_grouped_contiguous(a, b, d, labels, *scales, **options, forced=found)
    c = d.clone() if shape.accumulate else None
    if not scales:
        return lambda found: bf16_gemm(a, b, d, c, forced=found)
    return lambda found: fp8_gemm(a, scales[0], b, scales[1], d, c, **options, forced=found)


def _payload(shape: Shape, lines: tuple[int, ...], device: str, weights: bool = False) -> Any:
    import torch

    if weights and shape.weights == "E2M1":
        return torch.randint(0, 256, (*lines, shape.k // 2), dtype=torch.uint8, device=device)
    dtype = torch.float8_e4m3fn if shape.element == "E4M3" else torch.bfloat16
    return torch.randn(*lines, shape.k, device=device).to(dtype)


def _scaling(shape: Shape, stack: tuple[int, ...], weights: tuple[int, ...], device: str) -> tuple[tuple, dict]:
    """Return the scales of a and b, MN-major where they are vectors, and the options that say what they are."""
    import torch

    if shape.scaling == "NONE":
        return (), {}
    rows, columns = block = next(block for block, name in SCALINGS.items() if shape.scaling in (name, WORDS.get(name)))

    def words(*grid: int) -> Any:
        near_one = torch.randint(124, 128, (*grid, 4), dtype=torch.uint8, device=device)
        return near_one.view(torch.int32).squeeze(-1)

    def vectors(*grid: int, fill: Callable[..., Any] = lambda *grid: torch.rand(grid, device=device)) -> Any:
        return fill(*grid[:-2], grid[-1], -(-grid[-2] // 4) * 4)[..., : grid[-2]].transpose(-1, -2)

    scale_a = vectors(*stack, shape.m, -(-shape.k // 128))
    grid = (*weights, -(-shape.n // rows), -(-shape.k // columns))
    if shape.scaling in WORDS.values():
        scale_b = vectors(*grid[:-1], -(-grid[-1] // 4), fill=words)
    else:
        scale_b = torch.rand(grid, device=device) if rows > 1 else vectors(*grid)
    return (scale_a, scale_b), {"b_block": block, "packed": shape.weights == "E2M1"}


def shape_of(text: str, options: dict[str, Any]) -> tuple[Shape, int]:
    """Return the launch that a text names, and how many groups it has; rows of contiguous groups lie in one A."""
    try:
        *groups, m, n, k = (int(extent) for extent in text.split("x"))
        (count,) = groups or (1,)
    except ValueError:
        need = "M x N x K, or groups x M x N x K, such as 64x4096x7168"
        raise InputError(expected("shape", repr(text), need)) from None
    if bool(groups) != (options["schedule"] != "DENSE") or min(count, m, n, k) < 1:
        need = "no groups where the schedule is DENSE, else some, and extents of 1 or more"
        raise InputError(expected("shape", repr(text), need))
    contiguous = options["schedule"] == "LABELLED"
    capacity = m if options["schedule"] == "MASKED" else 0
    return Shape(count * m if contiguous else m, n, k, 1 if contiguous else count, capacity, **options), count


def lines(shape: Shape, found: list[Timed]) -> list[str]:
    """Return the best configurations, and the chosen one where it is not the best."""
    ranked = sorted(found, key=lambda row: row.microseconds)
    chosen, best = found[0], ranked[0]
    lost = f"the chosen one takes {chosen.microseconds / best.microseconds:.3f} times as long as the best"
    rest = [] if chosen in ranked[:SHOWN] else [f"  {chosen}  <- chosen"]
    marked = [f"  {row}{'  <- chosen' if row is chosen else ''}" for row in ranked[:SHOWN]]
    return [f"{shape.m} x {shape.n} x {shape.k}: {len(found)} configurations, {lost}", *marked, *rest]


@click.command(help=__doc__)
@click.argument("shapes", nargs=-1, required=True)
@click.option("--element", type=click.Choice(["E4M3", "BF16"]), default="E4M3")
@click.option(
    "--scaling", type=click.Choice([*SCALINGS.values(), *WORDS.values(), "NONE"]), help="of B; BLOCK where it is FP8"
)
@click.option("--weights", type=click.Choice(["AS_A", "E2M1"]), default="AS_A")
@click.option("--schedule", type=click.Choice(["DENSE", "LABELLED", "MASKED"]), default="DENSE")
@click.option("--output", type=click.Choice(["BF16", "F32"]), default="BF16")
@click.option("--accumulate", is_flag=True)
@click.option("--slack", type=click.FloatRange(1), default=1.5, show_default=True)
@click.option("--launches", type=click.IntRange(1), default=20, show_default=True)
@click.option("-o", "path", type=click.Path(path_type=Path), help="a JSON file with every launch")
def main(shapes: tuple[str, ...], slack: float, launches: int, path: Path | None, **options: Any) -> None:
    plain = {"E4M3": "VECTOR" if options["weights"] == "E2M1" else "BLOCK", "BF16": "NONE"}[options["element"]]
    options["scaling"] = options["scaling"] or plain
    machine.leave_without_gpu()
    rows, ratios = [], []
    for shape, groups in [shape_of(text, options) for text in shapes]:
        found = timed(shape, groups, slack, launches)
        click.echo("\n".join(lines(shape, found)))
        ratios.append(found[0].microseconds / min(row.microseconds for row in found))
        rows += [asdict(row) for row in found]
        if path:
            write_atomically(path, json.dumps(rows, indent=1))
    click.echo(f"geometric mean over {len(ratios)} shapes: {geometric_mean(ratios):.3f}")


if __name__ == "__main__":
    main()
