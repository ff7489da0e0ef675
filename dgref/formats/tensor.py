"""The tensor that travels: codes together with what they mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgref.errors import FormatError, ShapeError, expected
from dgref.formats.element import FORMATS, Array, as_format
from dgref.formats.native import is_torch, like, on_cpu, to_numpy
from dgref.formats.packing import pack
from dgref.formats.scaling import Scaling


@dataclass(frozen=True, repr=False, eq=False)  # comparing arrays is `dgref.compare`'s
class ScaledTensor:
    """Codes, their format, and the logical grid of scales that multiplies them.

    `data` holds one unsigned code an element. `scale` is float32 values when the scale format is float32, codes
    otherwise, one for each block of the last two axes. `global_scale` is float32 (a scalar, or one per leading index)
    and belongs to everything when `scaling.global_scale` says so.
    """

    data: Array
    format: str
    scale: Array | None = None
    scaling: Scaling | None = None
    global_scale: Array | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", as_format(self.format).name)
        if not hasattr(self.data, "shape"):
            raise FormatError(expected("data", type(self.data).__name__, "a NumPy array or a torch tensor of codes"))

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape, in elements."""
        return tuple(self.data.shape)

    def with_scale(self, scale: Array) -> ScaledTensor:
        """Return the same tensor under other scales."""
        return replace(self, scale=scale)

    def values(self) -> Array:
        """Return the payload as float32, scales left out."""
        return FORMATS[self.format].decode(self.data)

    def scale_values(self) -> Array | None:
        """Return the scale grid as float32, the global scale left out; None where there are no scales."""
        if self.scale is None or self.scaling.scale_format == "float32":
            return self.scale
        return FORMATS[self.scaling.scale_format].decode(self.scale)

    def expanded_scale(self) -> Array | None:
        """Return each element's own scale as float32, the global scale left out; None where there are no scales."""
        if self.scale is None:
            return None
        scale = to_numpy(self.scale_values(), "scale")
        return like(expand(scale, self.scaling, self.shape), self.scale)

    def global_fraction(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (numerator, denominator) of the global factor as float64, each a scalar or one per leading index."""
        if self.global_scale is None:
            return None
        stored = np.asarray(to_numpy(self.global_scale, "global_scale"), np.float64)
        if self.scaling.global_scale == "divide":
            return np.asarray(1.0), stored
        denominator = global_range(self.scaling, self.format) if self.scaling.global_scale == "amax" else 1.0
        return stored, np.asarray(denominator)

    def global_factor(self) -> np.ndarray | None:
        """Return what multiplies everything as float64, a scalar or one per leading index; None where nothing does."""
        fraction = self.global_fraction()
        return None if fraction is None else fraction[0] / fraction[1]

    def packed(self) -> Array:
        """Return the payload as memory holds it: two FP4 codes a byte, the even index in the low nibble.

        FP6 codes fill 3 bytes by fours; wider codes are returned as they are. Other orders: `formats.packing`.
        """
        return self.data if FORMATS[self.format].storage_bits >= 8 else pack(self.data, self.format)

    def transposed(self) -> ScaledTensor:
        """Return the tensor with its last two axes swapped, its scale grid along with them; nothing is copied."""
        if len(self.shape) < 2:
            raise ShapeError(expected("tensor", f"shape {self.shape}", "two axes to transpose"))
        scale = None if self.scale is None else self.scale.swapaxes(-1, -2)
        scaling = None if self.scaling is None else self.scaling.transposed()
        return replace(self, data=self.data.swapaxes(-1, -2), scale=scale, scaling=scaling)

    def validate(self, name: str = "tensor") -> ScaledTensor:
        """Return the tensor itself if its parts fit one another; else raise what came and what is needed."""
        _check_codes(name, self.data, self.format)
        if self.scaling is None:
            if self.scale is not None or self.global_scale is not None:
                raise FormatError(expected(f"{name}.scaling", "None beside scales", "a Scaling that explains them"))
            return self
        if not isinstance(self.scaling, Scaling):
            raise FormatError(expected(f"{name}.scaling", type(self.scaling).__name__, "a Scaling"))
        _check_scale(name, self)
        _check_global_scale(name, self)
        return self

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.shape)
        if self.scaling is None:
            return f"ScaledTensor({shape} {self.format}, unscaled)"
        rows, columns = (extent or "all" for extent in self.scaling.block)
        scaling = f"{rows}x{columns} {self.scaling.scale_format} {self.scaling.rule}"
        beside = f", global scale ({self.scaling.global_scale})" if self.scaling.has_global else ""
        return f"ScaledTensor({shape} {self.format}, {scaling}{beside})"


def in_numpy(value: Any, name: str) -> Any:
    """Return a torch tensor, or a ScaledTensor of them, as NumPy arrays on the CPU; anything else as it is."""
    if isinstance(value, ScaledTensor):
        parts = {part: in_numpy(getattr(value, part), f"{name}.{part}") for part in ("data", "scale", "global_scale")}
        return replace(value, **parts)
    return to_numpy(on_cpu(value, name), name) if is_torch(value) else value


def global_range(scaling: Scaling, format: str) -> float:
    """Return the amax that a global scale of 1 stands for: the payload's largest value times the largest scale."""
    return FORMATS[format].max * (scaling.scale_max or FORMATS[scaling.scale_format].max)


def expand(grid: np.ndarray, scaling: Scaling, shape: tuple[int, ...]) -> np.ndarray:
    """Return a scale grid broadcast to the elements of `shape`."""
    rows, columns = scaling.extents(shape)
    wide = np.repeat(grid, columns, axis=-1)[..., : shape[-1]]
    return wide if len(shape) == 1 else np.repeat(wide, rows, axis=-2)[..., : shape[-2], :]


def _check_codes(name: str, data: Array, format: str) -> None:
    codes, need = to_numpy(data, name), FORMATS[format]
    if codes.dtype != need.code_dtype:
        raise FormatError(expected(f"{name}.data", codes.dtype, f"codes as {need.code_dtype}", format))
    largest = int(codes.max()) if codes.size and need.storage_bits < 8 else 0
    if largest >> need.storage_bits:
        hint = "packed bytes must be unpacked first"
        raise FormatError(expected(f"{name}.data", hex(largest), f"codes below {1 << need.bits:#x}", hint))


def _check_scale(name: str, tensor: ScaledTensor) -> None:
    scaling = tensor.scaling
    if tensor.scale is None:
        raise FormatError(expected(f"{name}.scale", "None", f"a grid of {scaling.grid(tensor.shape)}"))
    scale, need = to_numpy(tensor.scale, f"{name}.scale"), FORMATS[scaling.scale_format]
    if scale.shape != scaling.grid(tensor.shape):
        context = f"{tensor.shape} in blocks of {scaling.extents(tensor.shape)}"
        raise ShapeError(expected(f"{name}.scale", scale.shape, scaling.grid(tensor.shape), context))
    dtype = np.dtype(np.float32) if need.name == "float32" else need.code_dtype
    if scale.dtype != dtype:
        raise FormatError(expected(f"{name}.scale", scale.dtype, dtype, f"scales are {need.name}"))
    negative = need.signed and (to_numpy(tensor.scale_values(), f"{name}.scale") < 0)
    if np.any(negative):
        where = tuple(int(i) for i in np.argwhere(negative)[0])
        raise FormatError(expected(f"{name}.scale", f"a negative scale at {where}", "scales of zero or above"))


def _check_global_scale(name: str, tensor: ScaledTensor) -> None:
    if tensor.scaling.has_global != (tensor.global_scale is not None):
        got = "a global scale" if tensor.global_scale is not None else "none"
        need = "one" if tensor.scaling.has_global else "none"
        raise FormatError(expected(f"{name}.global_scale", got, need, f"global_scale={tensor.scaling.global_scale!r}"))
    if tensor.global_scale is None:
        return
    stored = to_numpy(tensor.global_scale, f"{name}.global_scale")
    if stored.dtype.kind not in "fiu":
        raise FormatError(expected(f"{name}.global_scale", stored.dtype, "a number"))
    shape = stored.shape
    if shape not in ((), tensor.shape[:-2]):
        need = f"a scalar or one per leading index {tensor.shape[:-2]}"
        raise ShapeError(expected(f"{name}.global_scale", f"shape {shape}", need))
