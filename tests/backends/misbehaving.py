"""Backends that go wrong in one way each; a run names this file as its backend."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dgref import timing
from dgref.backends.base import BackendBase, BufferKernel, FunctionKernel
from dgref.errors import UnsupportedError
from dgref.guards import guarded_outputs
from dgref.ops import OPS


class Misbehaving(BackendBase):
    def __init__(self, fault: str, prepare: Callable[[Any, Any, dict], Any], claim: str | None = "exact"):
        self.name = f"misbehaving/{fault}"
        self._prepare, self._claim = prepare, claim

    def arithmetic(self, case: Any, architecture: Any) -> str | None:
        return self._claim

    def prepare(self, case: Any, inputs: Any) -> Any:
        return self._prepare(case, inputs, OPS[case.op].compute(case, inputs, "exact"))


class Endless(Misbehaving):
    def provenance(self) -> dict[str, Any]:
        found: dict[str, Any] = {"deep": functools.reduce(lambda inner, _: [inner], range(5000), 0)}
        found["self"] = found
        return found


def _raising(error: BaseException) -> Callable:
    def prepare(case: Any, inputs: Any, right: dict) -> Any:
        raise error

    return prepare


def _calling(function: Callable[[], Any]) -> Callable:
    return lambda case, inputs, right: FunctionKernel(lambda: function() or right)


def _changed(change: Callable[[dict], dict]) -> Callable:
    return lambda case, inputs, right: FunctionKernel(lambda: change({k: v.copy() for k, v in right.items()}))


def _off_by_one_bit(outputs: dict) -> dict:
    first = next(iter(outputs.values()))
    first.reshape(-1).view(np.uint8)[0] ^= 1
    return outputs


def _random(case: Any, inputs: Any, right: dict) -> Any:
    count = itertools.count()

    def launch() -> dict:
        outputs = {name: array.copy() for name, array in right.items()}
        return _off_by_one_bit(outputs) if next(count) else outputs

    return FunctionKernel(launch)


def _buffers(write: Callable[[np.ndarray, np.ndarray], None]) -> Callable:
    def prepare(case: Any, inputs: Any, right: dict) -> Any:
        outputs = OPS[case.op].allocate(case)

        def launch() -> None:
            for name, array in outputs.items():
                write(array, right[name])

        return BufferKernel(launch, outputs)

    return prepare


def _stray(elements: int) -> Callable:
    """Return a kernel that also writes one element so many elements before its output, or behind its end."""

    def prepare(case: Any, inputs: Any, right: dict) -> Any:
        outputs = guarded_outputs(case)
        part = outputs.parts["d"]
        at = (part.stop if elements >= 0 else part.start) + elements * part.array.itemsize

        def launch() -> None:
            outputs["d"][...] = right["d"]
            part.bytes[at : at + part.array.itemsize] = 0x3F, 0xFF  # the second byte is one of the poisons

        return BufferKernel(launch, outputs)

    return prepare


def _all_but_last_row(out: np.ndarray, right: np.ndarray) -> None:
    out[..., :-1, :] = right[..., :-1, :]


def _everything(out: np.ndarray, right: np.ndarray) -> None:
    out[...] = right


def _adds_what_was_there(out: np.ndarray, right: np.ndarray) -> None:
    stale = np.nan_to_num(out.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    out[...] = (right.astype(np.float32) + stale).astype(out.dtype)


def _overwrites_inputs(case: Any, inputs: Any, right: dict) -> Any:
    inputs["a"].data[...] = 0
    return FunctionKernel(lambda: right)


def _clears_inputs(case: Any, inputs: Any, right: dict) -> Any:
    inputs.clear()
    return FunctionKernel(lambda: right)


class Timed(Misbehaving):
    device = "cuda"

    def prepare(self, case: Any, inputs: Any) -> Any:
        timing.throughput = lambda *args: {"microseconds": 1.0}  # in the worker's process, which has no GPU
        Path(tempfile.gettempdir(), "prepared").touch()
        return super().prepare(case, inputs)


class Mute(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("no words")


def _leaves_a_fork_behind() -> None:
    if os.fork():
        os._exit(7)
    time.sleep(8)
    os._exit(0)


BACKENDS = [
    Misbehaving("correct", _changed(dict)),
    Misbehaving("exit", _calling(lambda: os._exit(7))),
    Misbehaving("segfault", _calling(lambda: ctypes.string_at(0))),
    Misbehaving("killed", _calling(lambda: os.kill(os.getpid(), 9))),
    Misbehaving("leaves_a_fork", _calling(_leaves_a_fork_behind)),
    Misbehaving("hang", _calling(lambda: time.sleep(600))),
    Misbehaving("memory", _raising(MemoryError("no more of it"))),
    Misbehaving("cuda_memory", _raising(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"))),
    Misbehaving("illegal", _raising(RuntimeError("CUDA error: an illegal memory access was encountered"))),
    Misbehaving("unprintable", _raising(RuntimeError("\ud800" + "x" * 10_000))),
    Misbehaving("mute", _raising(Mute())),
    Misbehaving("raises", _raising(ZeroDivisionError("division by zero"))),
    Misbehaving("refuses_late", _raising(UnsupportedError("needs k % 16 == 0"))),
    Misbehaving("one_bit", _changed(_off_by_one_bit)),
    Misbehaving("named_arithmetic", _changed(_off_by_one_bit), "deep_gemm.sm90.bf16"),
    Misbehaving("unknown_arithmetic", _changed(dict), "nonesuch"),
    Misbehaving("no_arithmetic_at_all", _changed(dict), 7),
    Endless("endless_provenance", _changed(dict)),
    Timed("timed", _changed(dict)),
    Misbehaving("random", _random),
    Misbehaving("unwritten_row", _buffers(_all_but_last_row)),
    Misbehaving("writes_all", _buffers(_everything)),
    Misbehaving("reads_poison", _buffers(_adds_what_was_there)),
    Misbehaving("past_the_end", _stray(8)),
    Misbehaving("before_the_start", _stray(-1)),
    Misbehaving("overwrites_inputs", _overwrites_inputs),
    Misbehaving("clears_inputs", _clears_inputs),
    Misbehaving("no_output", _changed(lambda outputs: {})),
    Misbehaving("other_output", _changed(lambda outputs: {**outputs, "extra": np.zeros(1)})),
    Misbehaving("wrong_type", _changed(lambda outputs: {k: v.astype(np.float32) for k, v in outputs.items()})),
    Misbehaving("wrong_shape", _changed(lambda outputs: {k: v[..., 1:] for k, v in outputs.items()})),
]
