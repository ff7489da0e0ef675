"""What may come in the place of an argument by mistake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

OF_ANY_KIND = (
    *(None, 5, -1, 2**70, 1.5, "abc", True, [], (), {}, [1, 2, 3], (None, None), object(), torch.float32),
    *(np.ones((2, 2)), torch.tensor(1.0), torch.ones(0), torch.ones(3), torch.ones(2, 3, 4), torch.ones(1, 2, 3, 4)),
    *(torch.ones(2, 2, dtype=torch.complex64), torch.ones(2, 2, device="meta"), torch.ones(6, 2).to_sparse()),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.float8_e5m2)


def spoiled_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a tensor of other types, shapes, strides and values."""
    yield from (tensor.to(dtype) for dtype in DTYPES)
    yield from (tensor.to("meta"), tensor[None], tensor[0], tensor[1:], tensor[..., 1:], tensor[:0], tensor[..., :0])
    yield from (tensor.flatten(), tensor.transpose(0, -1), tensor.transpose(0, -1).contiguous())
    yield from (tensor.repeat_interleave(2, -1)[..., ::2], tensor[:1].expand(tensor.shape), torch.cat([tensor, tensor]))
    yield tensor.float().requires_grad_()
    if tensor.dtype == torch.int32:
        yield from (torch.full_like(tensor, value) for value in (2**31 - 1, -5, 0))


def spoiled(value: Any) -> Iterator[Any]:
    """Yield what may come in the place of an argument by mistake."""
    yield from OF_ANY_KIND
    if isinstance(value, torch.Tensor):
        yield from spoiled_tensors(value)
    if isinstance(value, tuple | list):
        yield from (value[1:], value[::-1], type(value)([*value, value[0]]))
        for place, member in enumerate(value):
            yield from (type(value)([*value[:place], other, *value[place + 1 :]]) for other in spoiled(member))
