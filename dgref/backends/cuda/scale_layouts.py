"""Scale layouts on the GPU, bit-equal to `dgref.LAYOUTS[name].pack` and `.unpack` on the CPU."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from dgref.backends.cuda.binding import Address, Operand, Struct
from dgref.backends.cuda.jit import Kernel, compile_kernel, on_device
from dgref.backends.cuda.launch import Plan
from dgref.errors import FormatError, ShapeError, UnsupportedError, expected, whole_numbers
from dgref.formats.layouts import LAYOUTS
from dgref.formats.layouts.elements import ue8m0_codes

if TYPE_CHECKING:
    import torch

SOURCE = "common/scale_layouts.cu"
_ROWS, _WORDS, _THREADS, _SIDE = 128, 32, 256, 64
_ROW_BLOCKS = 2048  # of pack_rows: enough to fill a large GPU, few enough to look up their groups seldom
_FLOATS, _CODES = ("torch.float32",), ("torch.uint8", "torch.float8_e8m0fnu")
_BYTES = (*_CODES, "torch.float8_e4m3fn")
_PROBLEM = struct.Struct("=4Q7i4x")  # the fields of layouts::Problem, in order


@dataclass(frozen=True)
class Geometry:
    """What a launch is told about a grid of scales: its extents, how rows are shared and grouped, what it becomes."""

    rows: int
    columns: int
    padded_rows: int
    row_shift: int = 0
    groups: int = 0
    row_alignment: int = 128
    total_words: int = 0

    @property
    def words(self) -> int:
        """How many words of four codes a row has."""
        return -(-self.columns // 4)

    def packed(self, source: Any, target: Any, ends: Any = None, offender: Any = None) -> bytes:
        """Return layouts::Problem for these tensors."""
        pointers = (tensor.data_ptr() if tensor is not None else 0 for tensor in (source, target, ends, offender))
        return self._packed(pointers)

    def planned(self, source: Any, target: Any) -> Struct:
        """Return layouts::Problem that reads an operand of a call, wherever it lies."""
        address: Address = source.data_ptr()
        return Struct(self._packed((address.now, target.data_ptr(), 0, 0)), ((0, address),))

    def _packed(self, pointers: Iterable[int]) -> bytes:
        shared = (self.row_shift, self.groups, self.row_alignment, self.total_words)
        return _PROBLEM.pack(*pointers, self.rows, self.columns, self.padded_rows, *shared)


def pack(name: str, scales: torch.Tensor, *, check: bool = False, **parameters: Any) -> torch.Tensor:
    """Return the buffer of a grid of scales [..., rows, columns] on a GPU, as `LAYOUTS[name].pack` does.

    Float32 scales become UE8M0 by their exponent bits. With `check`, a scale that is no positive power of two is an
    error, at the price of waiting for the GPU; without, its mantissa is dropped. `ends` and `extents` are int32
    tensors on the GPU or plain sequences.
    """
    layout = LAYOUTS[name]
    if layout.name not in PACKERS:
        raise UnsupportedError(expected("CUDA layout", name, "one of " + ", ".join(PACKERS)))
    _check_grid(scales, name)
    with on_device(scales):
        return PACKERS[layout.name](scales.contiguous(), check=check, **parameters)


def unpack(name: str, buffer: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return the grid of scales of a buffer in `swizzle_128x4`, as `LAYOUTS[name].unpack` does."""
    layout, shape = LAYOUTS[name], tuple(shape)
    if layout.name != "swizzle_128x4":
        raise UnsupportedError(expected("CUDA layout", name, "swizzle_128x4: others are only packed"))
    if prod(buffer.shape) != layout.size(shape) or str(buffer.dtype) not in _BYTES or not buffer.is_cuda:
        got = f"{tuple(buffer.shape)} {buffer.dtype} on {buffer.device}"
        raise ShapeError(expected("buffer", got, f"{layout.size(shape)} bytes on a GPU", f"scales {shape}"))
    import torch

    with on_device(buffer):
        grid = torch.empty(shape, dtype=buffer.dtype, device=buffer.device)
        geometry = Geometry(shape[-2], shape[-1], -(-shape[-2] // _ROWS) * _ROWS)
        _launch_tiles("unswizzle_128x4", (shape[-1] % 4 == 0,), buffer.contiguous(), grid, geometry)
        return grid


def utccp_words(words: torch.Tensor) -> torch.Tensor:
    """Return packed words [..., rows] with the rows of every 128 in the order of `utccp_4x32`."""
    import torch

    if words.shape[-1] % _ROWS or words.element_size() != 4 or not words.is_contiguous():
        got = f"{tuple(words.shape)} {words.dtype}, strides {words.stride()}"
        raise ShapeError(expected("words", got, "contiguous [..., rows] of 4 bytes, rows a multiple of 128"))
    with on_device(words):
        target = torch.empty_like(words)
        geometry = Geometry(words.shape[-1], prod(words.shape[:-1]), words.shape[-1])
        _launch("utccp_words", ("uint4",), words, target, geometry, (_blocks(words.numel() // 4),))
        return target


def _transposed(scales, check: bool) -> torch.Tensor:
    import torch

    if str(scales.dtype) not in _FLOATS:
        raise FormatError(expected("scales", scales.dtype, "float32", "mn_major_tma"))
    rows, columns = scales.shape[-2:]
    target = torch.empty(*scales.shape[:-2], columns, -(-rows // 4) * 4, device=scales.device)
    _launch("transpose_floats", (_SIDE,), scales, target, *_transposing(scales, target))
    return target


def prepare_transposed(scales: Operand, target: torch.Tensor) -> Plan:
    """Return the launch that writes contiguous float32 scales [..., rows, columns] into `target`, in `mn_major_tma`."""
    geometry, grid = _transposing(scales, target)
    plan = _kernel("transpose_floats", (_SIDE,)).prepare(grid, (_THREADS,), (geometry.planned(scales, target),))
    plan.kept = [target]
    return plan


def _transposing(scales: torch.Tensor, target: torch.Tensor) -> tuple[Geometry, tuple[int, int, int]]:
    rows, columns = scales.shape[-2:]
    geometry = Geometry(rows, columns, target.shape[-1])
    return geometry, (-(-columns // _SIDE), -(-geometry.padded_rows // _SIDE), _batches(scales))


def _packed(scales, check: bool, row_shift: int = 0) -> torch.Tensor:
    import torch

    rows, columns = scales.shape[-2] << row_shift, scales.shape[-1]
    geometry = Geometry(rows, columns, -(-rows // 4) * 4, row_shift)
    target = torch.empty(
        *scales.shape[:-2], geometry.words, geometry.padded_rows, dtype=torch.int32, device=scales.device
    )
    _pack_words(scales, target, geometry, check)
    return target


def _packed_broadcast(scales, check: bool) -> torch.Tensor:
    return _packed(scales, check, row_shift=7)


def _packed_utccp(scales, check: bool) -> torch.Tensor:
    import torch

    rows, columns = scales.shape[-2:]
    geometry = Geometry(rows, columns, -(-rows // _ROWS) * _ROWS)
    target = torch.empty(
        *scales.shape[:-2], geometry.words, geometry.padded_rows, dtype=torch.int32, device=scales.device
    )
    _pack_words(scales, target, geometry, check, utccp=True)
    return target


def _packed_psum(scales, check: bool, ends: Any, row_alignment: int = 128) -> torch.Tensor:
    import torch

    rows, columns = scales.shape[-2:]
    ends = _as_int32("ends", ends, scales)
    geometry = Geometry(rows, columns, -(-rows // 4) * 4, groups=len(ends), row_alignment=row_alignment)
    target = torch.empty(
        *scales.shape[:-2], geometry.words, geometry.padded_rows, dtype=torch.int32, device=scales.device
    )
    _pack_words(scales, target, geometry, check, ends=ends)
    return target


def _packed_k_grouped(scales, check: bool, extents: Any, total_words: int | None = None) -> torch.Tensor:
    """Pack [sum of K blocks, MN]; `total_words` spares the wait for extents that lie on the GPU."""
    import torch

    if scales.ndim != 2:
        raise ShapeError(expected("scales", f"shape {tuple(scales.shape)}", "[sum of K blocks, MN]"))
    if total_words is None:
        known = [int(extent) for extent in extents]
        if sum(known) != scales.shape[0]:
            raise ShapeError(
                expected("extents", f"{known} with sum {sum(known)}", f"counts with sum {scales.shape[0]}")
            )
        total_words = sum(-(-extent // 4) for extent in known)
    extents = _as_int32("extents", extents, scales)
    geometry = Geometry(*scales.shape, 0, groups=len(extents), total_words=total_words)
    target = torch.empty(total_words, geometry.columns, dtype=torch.int32, device=scales.device)
    wide = 4 if geometry.columns % 4 == 0 else 1
    across = -(-geometry.columns // (_THREADS * wide))
    grid = (across, max(1, min(total_words, -(-_ROW_BLOCKS // max(across, 1)))))
    _checked_launch("pack_rows", (_source(scales), wide), scales, target, geometry, grid, check, extents)
    return target


def _swizzled(scales, check: bool) -> torch.Tensor:
    import torch

    if str(scales.dtype) not in _BYTES:
        raise FormatError(expected("scales", scales.dtype, "scales of one byte", "swizzle_128x4"))
    layout, shape = LAYOUTS["swizzle_128x4"], tuple(scales.shape)
    target = torch.empty(layout.buffer_shape(shape), dtype=scales.dtype, device=scales.device)
    geometry = Geometry(shape[-2], shape[-1], -(-shape[-2] // _ROWS) * _ROWS)
    _launch_tiles("swizzle_128x4", (shape[-1] % 4 == 0,), scales, target, geometry)
    return target


def _utccp_rows(scales, check: bool) -> torch.Tensor:
    import torch

    rows, columns = scales.shape[-2:]
    padded, count = -(-rows // _ROWS) * _ROWS, columns * scales.element_size()
    target = torch.empty(*scales.shape[:-2], padded, columns, dtype=scales.dtype, device=scales.device)
    bytes_, word = next((b, w) for b, w in ((16, "uint4"), (4, "unsigned"), (1, "unsigned char")) if count % b == 0)
    geometry = Geometry(rows, count // bytes_, padded)
    grid = (_blocks(padded * geometry.columns), 1, _batches(scales))
    _launch("utccp_rows", (word,), scales, target, geometry, grid)
    return target


PACKERS: dict[str, Callable[..., Any]] = {
    "mn_major_tma": _transposed,
    "packed_ue8m0": _packed,
    "packed_ue8m0_broadcast_128": _packed_broadcast,
    "packed_ue8m0_psum": _packed_psum,
    "packed_ue8m0_k_grouped": _packed_k_grouped,
    "utccp_4x32_packed_ue8m0": _packed_utccp,
    "swizzle_128x4": _swizzled,
    "utccp_4x32": _utccp_rows,
}


def _pack_words(scales, target, geometry: Geometry, check: bool, utccp: bool = False, ends=None) -> None:
    source = _source(scales)
    arguments = (source, utccp, geometry.columns % 4 == 0)
    grid = (-(-geometry.words // _WORDS), -(-geometry.rows // _ROWS), _batches(scales))
    _checked_launch("pack_words", arguments, scales, target, geometry, grid, check, ends)


def _source(scales) -> str:
    if str(scales.dtype) not in _FLOATS + _CODES:
        need = "float32, or UE8M0 codes as uint8 or float8_e8m0fnu"
        raise FormatError(expected("scales", scales.dtype, need, "packed_ue8m0"))
    return "layouts::Exponents" if str(scales.dtype) in _FLOATS else "layouts::Codes"


def _checked_launch(entry: str, arguments: tuple, scales, target, geometry, grid, check: bool, ends=None) -> None:
    """Launch; with `check`, raise what the CPU says about scales that are no powers of two."""
    import torch

    offender = torch.zeros(1, dtype=torch.int32, device=scales.device) if check else None
    _launch(entry, arguments, scales, target, geometry, grid, ends, offender)
    if check and bool(offender.item()):
        ue8m0_codes(scales.cpu())  # raises, and says where


def _launch_tiles(entry: str, arguments: tuple, source, target, geometry: Geometry) -> None:
    batches = source.numel() // max(geometry.padded_rows * geometry.words * 4, 1)
    if entry == "swizzle_128x4":
        batches = _batches(source)
    grid = (-(-geometry.words // _WORDS), geometry.padded_rows // _ROWS, batches)
    _launch(entry, arguments, source, target, geometry, grid)


def _launch(entry, arguments, source, target, geometry: Geometry, grid, ends=None, offender=None) -> None:
    if 0 in grid:
        return
    _kernel(entry, arguments).launch(grid, (_THREADS,), (geometry.packed(source, target, ends, offender),))


@lru_cache(maxsize=256)
def _kernel(entry: str, arguments: tuple) -> Kernel:
    return compile_kernel(SOURCE, entry, {str(index): value for index, value in enumerate(arguments)})


def _as_int32(name: str, values: Any, like) -> torch.Tensor:
    import torch

    if isinstance(values, torch.Tensor):
        if values.dtype not in (torch.int32, torch.int64):
            raise FormatError(expected(name, values.dtype, "torch.int32 or torch.int64"))
        return values.to(device=like.device, dtype=torch.int32).contiguous()
    return torch.tensor(whole_numbers(name, values), dtype=torch.int32, device=like.device)


def _batches(scales) -> int:
    return prod(scales.shape[:-2])


def _blocks(items: int) -> int:
    """Return how many blocks a loop over items gets: enough to fill any GPU, few enough to be cheap."""
    return max(1, min(-(-items // _THREADS), 4096))


def _check_grid(scales, name: str) -> None:
    if scales.ndim < 2 or not scales.is_cuda:
        raise ShapeError(
            expected("scales", f"{tuple(scales.shape)} on {scales.device}", "[..., rows, columns] on a GPU", name)
        )
