"""Which calls are launched again as they are, and which are built anew."""

from __future__ import annotations

import struct

import pytest
import torch

from dgref.backends.cuda.binding import Operand
from dgref.backends.cuda.sm90 import launch


class Plan:
    """Counts its launches."""

    launches = 0

    def at(self, addresses: list[int]) -> None:
        self.launches += 1


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    monkeypatch.setattr(launch, "current_device", lambda: 0)
    monkeypatch.setattr(launch, "current_stream", lambda device: 7)
    monkeypatch.setattr(launch._local, "plans", {}, raising=False)
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
    monkeypatch.setattr(launch, "current_stream", lambda device: 8)
    launch.repeatable(build, (), ())
    assert [plan.launches for plan in plans] == [1, 1]
