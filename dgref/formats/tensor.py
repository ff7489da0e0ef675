"""The tensor that travels: codes together with what they mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dgref.formats.scaling import Scaling

Array = Any  # a NumPy array or a torch tensor; both kinds pass through unchanged


@dataclass(frozen=True)
class ScaledTensor:
    """Codes, their format, and the logical grid of scales that multiplies them.

    `data` holds one unsigned code an element. `scale` is float32 values when the scale format is float32, codes
    otherwise, one for each block of the last two axes. `global_scale` is float32 (a scalar, or one per leading index)
    and multiplies everything when `scaling.global_scale` says so.
    """

    data: Array
    format: str
    scale: Array | None = None
    scaling: Scaling | None = None
    global_scale: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape, in elements."""
        return tuple(self.data.shape)

    def with_scale(self, scale: Array) -> ScaledTensor:
        """Return the same tensor under other scales."""
        return replace(self, scale=scale)
