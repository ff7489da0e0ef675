"""What grouped kernels are told is checked before anything is launched, so none of this needs a GPU."""

from __future__ import annotations

import pytest
import torch

from dgref.backends.cuda import group_contract
from dgref.backends.cuda.sm90 import grouped
from dgref.errors import DgrefError

A, B, D = torch.zeros(256, 64), torch.zeros(2, 32, 64), torch.zeros(256, 32)


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def contiguous(layout: torch.Tensor, **options: bool) -> None:
    grouped.gemm_grouped_contiguous(A, B, D, layout, **options)


def labels(row: int, label: int) -> torch.Tensor:
    made = torch.zeros(256, dtype=torch.int32)
    made[row] = label
    return made


CALLS = {
    r"grouped_layout\[130\]: got 1, need 0, as row 128": lambda: contiguous(labels(130, 1), check=True),
    r"grouped_layout\[7\]: got 2, need <= 1": lambda: contiguous(labels(7, 2), check=True),
    r"grouped_layout\[1\]: got 100, need >= 128": lambda: contiguous(ints(90, 100), prefix_sum=True, check=True),
    r"masked_m\[1\]: got 9, need <= 8": lambda: grouped.gemm_grouped_masked(
        torch.zeros(2, 8, 64), B, torch.zeros(2, 8, 32), ints(8, 9), 4, check=True
    ),
    r"lengths that add up to 192, need 256": lambda: grouped.gemm_grouped_k(
        A, A, torch.zeros(2, 64, 64), ints(128, 64), check=True
    ),
}


@pytest.mark.parametrize("message", CALLS)
def test_what_breaks_the_contract_is_named(message: str) -> None:
    with pytest.raises(DgrefError, match=message):
        CALLS[message]()


def test_the_environment_asks_for_it_at_every_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGREF_CHECK_LABELS", "1")
    group_contract.always.cache_clear()
    try:
        with pytest.raises(DgrefError, match=r"grouped_layout\[130\]"):
            contiguous(labels(130, 1))
    finally:
        group_contract.always.cache_clear()
