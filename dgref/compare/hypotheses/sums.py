"""Sums in another order or width: what differs when every operand was read rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dgref.compare.hypotheses.base import Misreading, Scene, State, hypothesis
from dgref.formats import FORMATS, ScaledTensor, dequantize
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic
from dgref.reference.tensor_core import TENSOR_CORES

_INTERVALS = (32, 64, 128, 256, 512, 1024)


def _model(scene: Scene) -> Arithmetic | None:
    arithmetic = scene.state.arithmetic
    arithmetic = ARITHMETICS[arithmetic] if isinstance(arithmetic, str) and arithmetic in ARITHMETICS else arithmetic
    return arithmetic if isinstance(arithmetic, Arithmetic) else None


def _under(cause: str, arithmetic: Any, fix: str, remedy: str = "adding up so", site: str = "") -> Misreading:
    return Misreading(cause, lambda s: replace(s, arithmetic=arithmetic), site, fix, remedy)


@hypothesis(42, likelihood=0.8)
def fast_accumulation(scene: Scene) -> Iterator[Misreading]:
    """Partial sums never promoted to fp32: fast accumulation left on."""
    model = _model(scene)
    if model and model.interval and model.scales in ("none", "epilogue"):
        yield _under(
            "the tensor core's accumulator was never promoted to fp32: fast accumulation is on",
            model.but(interval=0),
            "turn fast accumulation off (use_fast_accum=False, CUBLASLT_MATMUL_DESC_FAST_ACCUM = 0)",
        )


@hypothesis(41, likelihood=0.7)
def accumulator_width(scene: Scene) -> Iterator[Misreading]:
    """An accumulator of another width, or promoted to fp32 at another interval."""
    model = _model(scene)
    if model is None:
        return
    chain = f"promote every {model.interval} of K" if model.interval else "add all of K in one chain"
    fix = f"declare what the kernel does, or make it {chain} on {model.core}"
    core = model.tensor_core
    own = (core.fraction_bits, core.output, core.step)
    seen = {own}
    for row in TENSOR_CORES.values():
        key = (row.fraction_bits, row.output, row.step)
        if (row.format, row.scale_block) == (core.format, core.scale_block) and key not in seen:
            seen.add(key)
            cause = f"products were added as {row.name} does, in {row.fraction_bits} fraction bits, not as {core.name}"
            yield _under(cause, model.but(core=row.name), fix, site="core")
    for interval in _INTERVALS if model.interval else ():
        if interval != model.interval:
            cause = f"sums were promoted to fp32 every {interval} of K, not every {model.interval}"
            yield _under(cause, model.but(interval=interval), fix, site="interval")


def _orders(model: Arithmetic, k: int) -> Iterator[tuple[str, Arithmetic]]:
    for count in (2, 3, 4, 8):
        for unit in (model.interval,) if model.interval else (128, 64):
            for order in ("ascending",) if count == 2 else ("ascending", "descending", "tree"):
                split = model.but(splits=count, split_unit=unit, boundaries=(), reduction=order)
                if len(split.ranges(k)) == count:
                    yield f"K split into {count} (whole {unit}s), added {order}", split
    if model.boundaries or model.splits > 1:
        yield "K not split", model.but(splits=1, boundaries=())
        for order in {"ascending", "descending", "tree"} - {model.reduction}:
            yield f"the splits of K added {order}", model.but(reduction=order)
    if model.scales == "product":
        for promotion in {"fma", "multiply_add"} - {model.promotion}:
            yield f"promotion by {promotion.replace('_', ', then ')}", model.but(promotion=promotion)
        yield "the scales of a and b applied one after the other", model.but(scales="each")


@hypothesis(44, likelihood=0.75, benign=True)
def reduction_order(scene: Scene) -> Iterator[Misreading]:
    """The same products added in another valid order."""
    model, k = _model(scene), _extent_of_k(scene)
    if model and k:
        for what, other in _orders(model, k):
            fix = "nothing to fix; to be bitwise equal, fix the order (one split, one tile shape for every batch)"
            yield _under(what, other, fix)


@hypothesis(45, likelihood=0.94, benign=True)
def infinitely_precise(scene: Scene) -> Iterator[Misreading]:
    """Every output exact and rounded once: more precise than what is declared."""
    if _model(scene) is not None:
        yield _under("sums that lose nothing before the output is rounded", "exact", "")


def _extent_of_k(scene: Scene) -> int:
    tensor = next((t for n, t in scene.state.matrices() if n in ("a", "q", "x")), None)
    return 0 if tensor is None else tensor.shape[-1]


@hypothesis(34, likelihood=0.45)  # last: it dequantises everything
def fallback_to_half(scene: Scene) -> Iterator[Misreading]:
    """Another kernel ran: operands dequantised to a 16-bit format, then a plain product."""
    scaled = [name for name, _ in scene.state.scaled() if name in ("a", "b")]
    if scaled and {"a", "b"} <= set(scene.state.inputs):
        for format in ("bfloat16", "float16"):
            for core in (f"sm90.wgmma.{format}", f"sm80.mma.{format}"):
                yield Misreading(
                    f"another kernel ran: operands were dequantised to {format}, then multiplied ({core})",
                    _dequantised(format, core),
                    format,
                    "the library fell back silently: check that the quantised kernel supports shape and architecture",
                    "doing so",
                )
                break


def _dequantised(format: str, core: str) -> Callable[[State], State]:
    def change(state: State) -> State:
        for name in ("a", "b"):
            tensor = state.inputs[name]
            values = np.asarray(dequantize(tensor), np.float32)
            state = state.put(name, ScaledTensor(FORMATS[format].encode(values), format))
        return replace(state, arithmetic=Arithmetic(f"{format} fallback", core))

    return change
