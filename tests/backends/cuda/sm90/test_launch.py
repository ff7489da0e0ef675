"""Which calls are launched again as they are, and which are built anew."""

from __future__ import annotations

import struct
from contextlib import contextmanager

import pytest
import torch

from dgref.backends.cuda.binding import Operand
from dgref.backends.cuda.sm90 import launch
from dgref.errors import InputError
from tests.backends.cuda.sm90.recording import CPU


class Plan:
    """Counts its launches."""

    launches = 0

    def at(self, addresses: list[int]) -> None:
        self.launches += 1


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    monkeypatch.setattr(launch, "current_place", lambda: (CPU, 7))
    monkeypatch.setattr(launch, "ensure_context", lambda device: None)
    monkeypatch.setattr(launch._kept, "plans", {})
    return []


def test_only_a_call_that_differs_in_what_a_launch_depends_on_is_built(built: list[tuple]) -> None:
    plans: list[Plan] = []

    def build(*arguments: object) -> Plan:
        built.append(arguments)
        plans.append(Plan())
        return plans[-1]

    a, b = torch.zeros(4, 8), torch.zeros(8)
    for tensors, options in [
        ((a, None), (1,)),
        ((a, None), (1,)),
        ((a.clone(), None), (1,)),
        ((torch.zeros(33)[1:].view(4, 8), None), (1,)),  # no longer a multiple of 16 bytes
        ((a.view(8, 4), None), (1,)),
        ((a.t(), None), (1,)),
        ((a.view(torch.int32), None), (1,)),
        ((a, b), (1,)),
        ((a, None), (2,)),
    ]:
        launch.repeatable(build, tensors, options)
    assert [plan.launches for plan in plans] == [3, 1, 1, 1, 1, 1, 1]
    assert built[0][0].shape == a.shape and built[0][1:] == (None, 1)


def test_an_operand_hands_out_no_number(built: list[tuple]) -> None:
    operand = Operand(torch.zeros(4, 2, 8), 3).transpose(1, 2)
    assert operand.stride() == (16, 1, 8) and operand.data_ptr().index == 3
    operand = Operand(torch.zeros(4, 8), 3).t()
    address = operand.data_ptr()
    assert operand.stride() == (1, 8) and address.index == 3 and address % 16 == 0
    for wrong in (lambda: address + 1, lambda: int(address), lambda: struct.pack("q", address)):
        with pytest.raises((TypeError, struct.error)):
            wrong()


def test_a_stream_has_launches_of_its_own(built: list[tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [Plan(), Plan()]
    waiting = iter(plans)

    def build() -> Plan:
        return next(waiting)

    launch.repeatable(build, (), ())
    monkeypatch.setattr(launch, "current_place", lambda: (CPU, 8))
    launch.repeatable(build, (), ())
    assert [plan.launches for plan in plans] == [1, 1]


class OnGpu:
    """A tensor as a call reads it, on a GPU."""

    dtype, shape = torch.float32, (4, 8)

    def __init__(self, index: int):
        self.index, self.device = index, torch.device("cuda", index)

    def get_device(self) -> int:
        return self.index

    def data_ptr(self) -> int:
        return 4096

    def stride(self) -> tuple[int, int]:
        return 8, 1

    def is_neg(self) -> bool:
        return False


def test_a_call_is_launched_where_its_tensors_lie(built: list[tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    current, entered = [0], []

    @contextmanager
    def switched(tensor: OnGpu):
        entered.append(tensor.index)
        current[0], before = tensor.index, current[0]
        yield
        current[0] = before

    monkeypatch.setattr(launch, "current_place", lambda: (current[0], 7))
    monkeypatch.setattr(launch, "on_device", switched)
    monkeypatch.setattr(launch, "Operand", lambda tensor, index: tensor)
    plans: list[Plan] = []

    def build(a: OnGpu, c: None, d: OnGpu) -> Plan:
        built.append((current[0], a.index))
        plans.append(Plan())
        return plans[-1]

    for index in (1, 0, 1):
        assert launch.repeatable(build, (OnGpu(index), None, OnGpu(index)), ())
    assert built == [(1, 1), (0, 0)] and entered == [1, 1] and current == [0]
    assert [plan.launches for plan in plans] == [2, 1]


@pytest.mark.parametrize(
    ("tensors", "placed"),
    [
        ((OnGpu(0), None, OnGpu(1)), "a on cuda:0, d on cuda:1"),
        ((OnGpu(1), None, torch.zeros(2)), "a on cuda:1, d on cpu"),
        ((torch.zeros(2), None, torch.zeros(2)), "a on cpu, d on cpu"),
    ],
)
def test_operands_apart_are_refused(built: list[tuple], monkeypatch: pytest.MonkeyPatch, tensors, placed) -> None:
    monkeypatch.setattr(launch, "current_place", lambda: (0, 7))

    def build(a, c, d) -> Plan:
        return Plan()

    with pytest.raises(InputError, match=f"operands: got {placed}, need all on one GPU"):
        launch.repeatable(build, tensors, ())
