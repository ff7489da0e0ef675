"""From a configuration and operands to a launch; one that repeats is a dictionary look-up and a driver call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any
from weakref import WeakValueDictionary

from dgref.backends.cuda import environment
from dgref.backends.cuda.binding import Address, Operand, Struct
from dgref.backends.cuda.driver import ensure_context, multiprocessors
from dgref.backends.cuda.jit import Kernel, compile_kernel, current_device, current_place, on_device
from dgref.backends.cuda.launch import LATEST, WHOLE_CARD, Plan, Resources
from dgref.backends.cuda.sm90 import workspace
from dgref.backends.cuda.sm90.configuration import unfolded
from dgref.backends.cuda.sm90.operands import NO_SCALES, Matrix, Scales
from dgref.backends.cuda.sm90.rearrange import folded, rearranged
from dgref.backends.cuda.sm90.shape import GRANULES, Configuration, scales_deep, store_line
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import InputError, LayoutError, ShapeError, expected, shown, whole_number

PREPARED_KEPT = 512
NO_MAP = TensorMap(bytes(128))


class _Plans(dict):
    """The plans of one thread, by what their calls look like."""

    __slots__ = ("__weakref__",)


class _Kept(threading.local):
    """Where a thread finds its plans."""

    def __init__(self):
        self.plans = _Plans()
        with _LISTING:
            _EVERY_THREADS[id(self.plans)] = self.plans


_LISTING = threading.Lock()
_EVERY_THREADS: WeakValueDictionary[int, _Plans] = WeakValueDictionary()
_kept = _Kept()


@dataclass(frozen=True)
class Operands:
    """Everything that `dgref::gemm` reads and writes, as addresses, strides and maps."""

    a: Matrix
    b: Matrix
    d: Address
    c: Address | int
    row_stride: int
    group_stride: int
    map_d: Callable[[int, int], TensorMap] | None = None  # of a row's bytes in one box, and of its rows; None: no bulk
    map_c: Callable[[int, int], TensorMap] | None = None
    scale_a: Callable[[int, int], TensorMap] | Scales = NO_SCALES  # a map of one box's rows, and of its 128s of K
    scale_b: Callable[[int, int], TensorMap] | Scales = NO_SCALES
    foldable: tuple[Scales, Scales] | None = None  # of A and of packed B, where the latter may be folded into codes
    layout: Address | int = 0  # labels, ends or counts of the groups
    group_maps: Any = 0  # a tensor of maps, where the groups of K lie in matrices of their own
    groups: int | None = None  # None: as many as B has
    zero_padding: bool = False
    head: tuple[int, int, int] = (0, 0, 0)


@lru_cache(maxsize=1024)
def kernel_of(configuration: Configuration, by_pointer: bool = False) -> Kernel:
    """Compile or load the instantiation of a configuration; the first time is where its choice is printed.

    `by_pointer` is for a C that the copy engine cannot reach.
    """
    addend = {"addend": "dgref::Addend::BY_POINTER"} if by_pointer else {}
    if environment.flag("PRINT_CONFIGS"):
        print(f"dgref: {configuration}", file=sys.stderr)
    return compile_kernel("sm90/gemm.cu", "dgref::gemm", configuration.constants | addend)


def prepare(
    configuration: Configuration, operands: Operands, resources: Resources = WHOLE_CARD, before: Sequence[Plan] = ()
) -> Plan | Steps:
    """Return a launch on the current device and stream with everything in place, after those that it needs."""
    workspace.make_ready(current_place()[0])
    operands, more = rearranged(configuration, operands)
    before = (*before, *more)
    if configuration.shape.folded:
        operands, others, folding = folded(operands, GRANULES[configuration.shape.folded])
        rest = unfolded(configuration.shape, available(resources))
        before = (*before, folding, _plan(rest, others, resources))
    plan = _plan(configuration, operands, resources)
    return Steps(workspace.turn(*current_place()), *before, plan) if before else plan


def _plan(configuration: Configuration, operands: Operands, resources: Resources) -> Plan:
    """Return the launch of one product."""
    tile, (device, stream) = configuration.tile, current_place()
    cluster = (tile.cluster, 1, 1) if tile.cluster > 1 else None
    plan = kernel_of(configuration, configuration.shape.accumulate and not operands.map_c).prepare(
        (configuration.blocks,),
        (configuration.threads,),
        _arguments(configuration, operands, device, stream),
        shared_bytes=configuration.shared_bytes,
        cluster=cluster,
        programmatic=resources.programmatic,
    )
    plan.configuration = configuration
    return plan


def _arguments(configuration: Configuration, operands: Operands, device: int, stream: int) -> list[Any]:
    shape, tile = configuration.shape, configuration.tile
    map_a, scale_a = _scale_arguments(operands.scale_a, tile.rows_copied, shape.parts)
    map_b, scale_b = _scale_arguments(operands.scale_b, tile.block_n, scales_deep(shape))
    partials = arrivals = 0
    if configuration.partial_bytes:
        partials = workspace.partial_sums(device, stream, configuration.partial_bytes)
        arrivals = workspace.arrivals(device, stream, configuration.tiles * tile.math_groups)
    return [
        operands.a.tensor_map(tile.rows_copied // tile.cluster_n, shape.block_k // shape.parts),
        operands.b.tensor_map(tile.block_n // tile.cluster_m, shape.block_k),
        map_a,
        map_b,
        operands.map_d(store_line(shape, tile), 64) if operands.map_d else NO_MAP,
        operands.map_c(128, tile.rows_copied) if operands.map_c else NO_MAP,
        operands.group_maps,
        scale_a,
        scale_b,
        operands.d,
        operands.c,
        operands.row_stride,
        operands.group_stride,
        operands.layout,
        partials,
        arrivals,
        operands.a.rows,
        shape.n,
        shape.k,
        operands.b.groups if operands.groups is None else operands.groups,
        configuration.splits,
        configuration.band,
        shape.alignment,
        int(operands.zero_padding),
        *operands.head,
        int(operands.map_d is not None),
    ]


def _scale_arguments(
    scales: Callable[[int, int], TensorMap] | Scales, rows: int, deep: int
) -> tuple[TensorMap, Struct]:
    """Return a map of scales and how they are read by pointer: one of the two says nothing."""
    return (NO_MAP, scales.struct()) if isinstance(scales, Scales) else (scales(rows, deep), NO_SCALES.struct())


class Steps:
    """Launches that follow each other: another thread's on their stream would rewrite what the last one reads."""

    def __init__(self, turn: AbstractContextManager, *plans: Any):
        self._turn, self._plans = turn, plans

    def at(self, addresses: Sequence[int]) -> None:
        """Launch all of them, with the operands of a call at these addresses."""
        with self._turn:
            for plan in self._plans:
                plan.at(addresses)


def repeatable(build: Callable[..., Plan | Steps | None], tensors: Sequence[Any], options: tuple) -> bool:
    """Launch `build(*tensors, *options)`; a call whose tensors look like an earlier one's only says where they lie.

    Returns whether there was anything to launch: where there is not, `build` returns None.

    Every line here is paid for by every launch. Plans are kept per thread, so that no two threads write their addresses
    into one argument block, and per stream, whose workspaces they hold.
    """
    device, stream = current_place()
    addresses, key, together, elsewhere = [], [build, device, stream, options], 0, False
    for tensor in tensors:
        if tensor is None:
            addresses.append(0)
            key.append(None)
        else:
            addresses.append(address := tensor.data_ptr())
            together |= address
            if tensor.get_device() != device:
                elsewhere = True
            if tensor.is_neg():
                raise _negated(build, tensors)
            key.append(tensor.dtype)
            key.append(tensor.shape)
            key.append(tensor.stride())
    if elsewhere:
        return _on_their_device(build, tensors, options)
    if together & 15:
        key += [address & 15 for address in addresses]
    try:
        plan = _kept.plans.get(key := tuple(key))
    except TypeError:
        raise _unhashable(build, len(tensors), options) from None
    if plan is None:
        _check_axes(build, tensors)
        ensure_context(device)
        operands = (tensor if tensor is None else Operand(tensor, index) for index, tensor in enumerate(tensors))
        plan = build(*operands, *options)
        if plan is None:
            return False
        if len(_kept.plans) >= PREPARED_KEPT:
            _kept.plans.clear()
        _kept.plans[key] = plan
    plan.at(addresses)
    return True


def _unhashable(build: Callable[..., Any], before: int, options: tuple) -> InputError:
    """Return the error for the first option, behind so many tensors, that plans cannot be looked up by."""
    named = zip(list(signature(build).parameters)[before:], options, strict=True)
    name, value = next((name, value) for name, value in named if not _can_be_looked_up(value))
    return InputError(expected(name, shown(value), "a tuple" if isinstance(value, list) else "what can be hashed"))


def _can_be_looked_up(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _check_axes(build: Callable[..., Any], tensors: Sequence[Any]) -> None:
    for name, tensor in zip(signature(build).parameters, tensors, strict=False):
        if tensor is not None and not tensor.shape:
            raise ShapeError(expected(name, "a tensor without axes", "one of one axis or more"))


def _negated(build: Callable[..., Any], tensors: Sequence[Any]) -> LayoutError:
    """Return the error for a view that torch has negated in name only, as `.imag` of a conjugate is."""
    named = zip(signature(build).parameters, tensors, strict=False)
    name = next(name for name, tensor in named if tensor is not None and tensor.is_neg())
    return LayoutError(expected(name, "a negated view", "values as they lie in memory: .resolve_neg() makes them so"))


def _on_their_device(build: Callable[..., Plan | Steps | None], tensors: Sequence[Any], options: tuple) -> bool:
    named = zip(signature(build).parameters, tensors, strict=False)
    given = {name: tensor for name, tensor in named if tensor is not None}
    devices = {tensor.device for tensor in given.values()}
    if len(devices) > 1 or min(tensor.get_device() for tensor in given.values()) < 0:
        placed = ", ".join(f"{name} on {tensor.device}" for name, tensor in given.items())
        raise InputError(expected("operands", placed, "all on one GPU"))
    with on_device(next(iter(given.values()))):
        return repeatable(build, tensors, options)


def release_workspaces() -> None:
    """Give back the GPU memory that launches share, in every thread and on every device.

    Any thread may call it at any time: launches under way keep what they use, and the next call of each geometry plans
    anew. Only a CUDA graph that was captured before must not be replayed after it. The memory goes back to torch's
    allocator, and from there to the GPU with `torch.cuda.empty_cache()`.
    """
    with _LISTING:
        for plans in _EVERY_THREADS.values():
            plans.clear()
    LATEST.plan = None
    workspace.forget()


def available(resources: Resources) -> int:
    """Return how many multiprocessors a launch on the current device is shared out to."""
    whole = multiprocessors(current_device())
    return whole_number("multiprocessors", resources.multiprocessors, 0, whole) or whole
