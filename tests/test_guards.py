"""Outputs lie between guard bytes: aligned as an allocator aligns them, whatever their type, on NumPy and on torch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from dgref.backends.base import BufferKernel
from dgref.formats.native import to_numpy
from dgref.guards import ALIGNMENT, GUARD_BYTES, GuardedOutputs, guarded_outputs
from dgref.observation import observe
from tests import samples

PLACES = {"numpy": None, "torch": torch.from_numpy}
TYPES = [np.float32, np.uint8, np.int32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (), (0, 7)])
def test_an_output_is_aligned_contiguous_and_of_its_type(place: str, dtype: type, shape: tuple[int, ...]) -> None:
    made = GuardedOutputs({"d": np.zeros(shape, dtype)}, PLACES[place])
    part = made.parts["d"]
    found = to_numpy(made["d"])
    assert (found.shape, found.dtype) == (shape, dtype)
    assert found.flags.c_contiguous
    rest = part.bytes[part.start :]
    assert (rest.data_ptr() if place == "torch" else rest.ctypes.data) % ALIGNMENT == 0
    assert min(part.start, len(part.bytes) - part.stop) >= GUARD_BYTES
    assert not found.size or set(found.reshape(-1).view(np.uint8)) == {0xFF}


@pytest.mark.parametrize("place", PLACES)
def test_every_byte_outside_is_watched_and_none_inside(place: str) -> None:
    made = GuardedOutputs({"d": np.zeros((4, 6), np.float32)}, PLACES[place])
    part = made.parts["d"]
    made.fill(0x55)
    part.bytes[part.start : part.stop] = 1
    assert made.sentences(made.touched(0x55)) == []
    for at in (0, part.start - 1, part.stop, len(part.bytes) - 1):
        part.bytes[at] = 2
    assert list(made.touched(0x55)["d"]) == [-part.start, -1, 96, len(part.bytes) - 1 - part.start]
    assert made.sentences({"d": np.array([-1, 96, 97])}) == [
        "output d: 1 byte written before its start, the first at byte -1 (row -1, column 5)",
        "output d: 2 bytes written past its end, the first at byte 96 (row 4, column 0)",
    ]


@pytest.mark.parametrize("pattern", [0xFF, 0x55])
def test_a_stray_byte_that_equals_one_pattern_shows_over_the_other(pattern: int) -> None:
    outputs = guarded_outputs(samples.case())
    part = outputs.parts["d"]

    def launch() -> None:
        outputs["d"][...] = 1
        part.bytes[part.stop] = pattern

    seen = observe(BufferKernel(launch, outputs), 0, {"d": None})
    assert "1 byte written past its end" in seen.evidence["guards"][0]
    assert seen.differing == []


def test_a_kernel_without_guards_claims_nothing_about_them() -> None:
    seen = observe(BufferKernel(lambda: None, {"d": np.zeros(4, np.float32)}), 0, {"d": None})
    assert "guards" not in seen.evidence


@pytest.mark.parametrize("reads", [False, True])
def test_an_output_is_unwritten_where_nothing_else_of_it_changes(reads: bool) -> None:
    d = np.zeros(8, np.float32)

    def launch() -> None:
        d[:6] = 1
        d[0] = np.isnan(d[7]) if reads else 1  # true over one of the patterns

    assert observe(BufferKernel(launch, {"d": d}), 0, {"d": None}).evidence.get("unwritten") == (
        None if reads else {"d": 2}
    )
