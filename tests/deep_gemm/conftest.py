"""Every test of the drop-in starts from its default settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dgref.deep_gemm import configure, set_mk_alignment_for_contiguous_layout, set_num_sms, set_pdl


@pytest.fixture(autouse=True)
def default_settings() -> Iterator[None]:
    torch.manual_seed(0)
    _reset()
    yield
    _reset()


def _reset() -> None:
    configure()
    set_mk_alignment_for_contiguous_layout(128)
    set_num_sms(0)
    set_pdl(False)
