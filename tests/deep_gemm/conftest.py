"""Every test of the drop-in starts from its default settings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dgref.deep_gemm import configure, set_mk_alignment_for_contiguous_layout


@pytest.fixture(autouse=True)
def default_settings() -> Iterator[None]:
    torch.manual_seed(0)
    configure()
    set_mk_alignment_for_contiguous_layout(128)
    yield
    configure()
    set_mk_alignment_for_contiguous_layout(128)
