"""What the caller hands over, checked, and the tensor maps that the kernel reads it through."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dgref.backends.cuda.binding import Address, Struct
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import FormatError, LayoutError, ShapeError, expected

PAYLOADS = {
    "E4M3": ("torch.float8_e4m3fn", "torch.uint8"),
    "BF16": ("torch.bfloat16",),
    "E2M1": ("torch.uint8", "torch.int8", "torch.float4_e2m1fn_x2"),  # two codes to a byte, the low nibble first
}
OUTPUTS = {"torch.bfloat16": "BF16", "torch.float32": "F32"}
WIDTH = {"E4M3": 1, "BF16": 2, "E2M1": 1}
_SCALES = struct.Struct("=Q3i4x")  # the fields of dgref::Scales, in order


@dataclass(frozen=True)
class Matrix:
    """One operand as a [groups, rows, k] view of memory, whichever of rows and k is contiguous."""

    pointer: int | Address
    groups: int
    rows: int
    k: int
    major: str  # K | MN
    stride: int  # bytes between lines of the contiguous dimension
    element: str

    @property
    def extents(self) -> tuple[int, int, int]:
        """Return groups, rows and K."""
        return self.groups, self.rows, self.k

    def tensor_map(self, block_rows: int, block_k: int) -> TensorMap:
        """Return the map whose box is one block: rows by K, or 64 rows by K where rows are contiguous."""
        if self.element == "E2M1":
            shape, box = (self.k // 2, self.groups * self.rows), (block_k // 2, block_rows)
            return TensorMap.tiled(self.pointer, "uint8", shape, (self.stride,), box, 128)
        dtype = "uint8" if self.element == "E4M3" else "bfloat16"
        if self.major == "K":
            shape, box = (self.k, self.groups * self.rows), (block_k, block_rows)
        else:
            shape, box = (self.rows, self.groups * self.k), (64, block_k)
        return TensorMap.tiled(self.pointer, dtype, shape, (self.stride,), box, 128)


def extents(name: str, tensor: Any, packed: bool = False) -> tuple[int, int, int]:
    """Return the groups, rows and K of a matrix or a stack, two codes to a byte where they are packed."""
    if tensor.dim() not in (2, 3):
        raise ShapeError(expected(name, tuple(tensor.shape), "a matrix or a stack of matrices"))
    *groups, rows, k = tensor.shape
    return (*groups, 1)[0], rows, k * 2 if packed else k


def check_payload(name: str, tensor: Any, element: str) -> None:
    """Raise unless a tensor holds an operand's elements."""
    if str(tensor.dtype) not in PAYLOADS[element]:
        raise FormatError(expected(name, tensor.dtype, " or ".join(PAYLOADS[element])))


def matrix(name: str, tensor: Any, element: str) -> Matrix:
    """Read a [rows, k] or [groups, rows, k] tensor; a transposed view is an MN-major operand."""
    check_payload(name, tensor, element)
    groups, rows, k = extents(name, tensor)
    row_stride, k_stride = tensor.stride()[-2:]
    major = "K" if k_stride == 1 or k == 1 else "MN"
    if major == "MN" and row_stride != 1 and rows != 1:
        raise LayoutError(expected(name, f"strides {tuple(tensor.stride())}", "rows or columns that are contiguous"))
    line, lines = (row_stride, rows) if major == "K" else (k_stride, k)
    if groups > 1 and tensor.stride(0) != line * lines:
        raise LayoutError(expected(name, f"stride {tensor.stride(0)} between groups", f"{line * lines}, back to back"))
    width = WIDTH[element]
    if line == 0 and lines > 1:
        raise LayoutError(
            expected(name, f"strides {tuple(tensor.stride())}", "lines that lie apart: copy what is expanded")
        )
    if line * width % 16 and lines * groups > 1:
        need = f"a multiple of 16 bytes: the copy engine reads no other; pad {'K' if major == 'K' else 'the rows'}"
        raise LayoutError(expected(f"{name}, line stride", f"{line * width} bytes", need))
    if tensor.data_ptr() % 16:
        raise LayoutError(expected(f"{name}, address", str(tensor.data_ptr()), "a multiple of 16 bytes"))
    if element == "E2M1":
        if major != "K":
            raise LayoutError(expected(name, f"strides {tuple(tensor.stride())}", "packed codes along contiguous K"))
        k *= 2
    stride = line * width if lines * groups > 1 else (line * width + 15) // 16 * 16
    return Matrix(tensor.data_ptr(), groups, rows, k, major, stride, element)


def _check_scale(name: str, scale: Any, dtype: str = "torch.float32") -> None:
    if str(scale.dtype) != dtype:
        raise FormatError(expected(name, scale.dtype, dtype))
    if scale.dim() not in (2, 3):
        raise ShapeError(expected(name, tuple(scale.shape), "a matrix or a stack of matrices"))


@dataclass(frozen=True)
class Scales:
    """Scales that are read by pointer, with any strides; a row is one of the operand, or 128 of them."""

    pointer: int | Address
    row: int
    block: int
    group: int
    grid: Any = None  # them as a tensor, where that is contiguous and a kernel may move them to where a map reads them

    def struct(self) -> Struct:
        """Return dgref::Scales."""
        known = isinstance(self.pointer, Address)
        data = _SCALES.pack(self.pointer.now if known else self.pointer, self.row, self.block, self.group)
        return Struct(data, ((0, self.pointer),) if known else ())


NO_SCALES = Scales(0, 0, 0, 0)


def is_pointed(scales: Scales | Callable[[int, int], TensorMap]) -> bool:
    """Say whether scales of rows can only be read one by one, as they lie."""
    return isinstance(scales, Scales) and scales.grid is None


def vector_scales(name: str, scale: Any, matrix_: Matrix, lines: int) -> Scales | Callable[[int, int], TensorMap]:
    """Read [..., rows, K-scales] FP32 scales, `lines` for each row in all groups: by a map where the copy engine can.

    It reads scales that are MN-major and TMA-aligned, in boxes of so many rows by so many scales of each.
    """
    _check_scale(name, scale)
    found = _mapped(name, scale, matrix_, lines)
    return found or replace(strided(name, scale), grid=scale if scale.is_contiguous() else None)


def word_scales(name: str, scale: Any, matrix_: Matrix, k: int) -> Callable[[int, int], TensorMap]:
    """Read [..., rows, words] of four UE8M0 scales that cover `k` elements, which must lie as the copy engine reads."""
    _check_scale(name, scale, "torch.int32")
    found = _mapped(name, scale, matrix_, -(-matrix_.k // k) * matrix_.groups)
    if found is None:
        need = "MN-major, 16-byte lines (get_mn_major_tma_aligned_packed_ue8m0_tensor makes them so)"
        raise LayoutError(expected(name, f"strides {tuple(scale.stride())}", need))
    return found


def _mapped(name: str, scale: Any, matrix_: Matrix, lines: int) -> Callable[[int, int], TensorMap] | None:
    """Return the map of scales of rows, if the copy engine can read them."""
    rows, each = scale.shape[-2:]
    if rows != matrix_.rows or each * matrix_.groups != lines or scale.numel() != lines * rows:
        raise ShapeError(expected(name, tuple(scale.shape), f"{matrix_.rows} rows and {lines} scales of each in all"))
    across, along = scale.stride()[-2:]
    if lines == 1:
        along = (rows + 3) // 4 * 4
    back_to_back = scale.dim() == 2 or scale.shape[0] == 1 or scale.stride(0) == along * each
    if (across == 1 or rows == 1) and along % 4 == 0 and along >= rows and scale.data_ptr() % 16 == 0 and back_to_back:
        return lambda box, deep: TensorMap.tiled(scale, "float32", (rows, lines), (along * 4,), (box, deep), 0)
    return None


def strided(name: str, scale: Any) -> Scales:
    """Return where scales [..., rows, K-scales] lie."""
    *groups, row, block = scale.stride()
    group = groups[0] if groups and scale.shape[0] > 1 else 0
    if max(group, row, block) >= 1 << 31:
        need = "strides below 2^31, as kernels hold them"
        raise LayoutError(expected(name, f"strides {tuple(scale.stride())}", need))
    return Scales(scale.data_ptr(), row, block, group)


def block_scales(name: str, scale: Any, matrix_: Matrix) -> Scales:
    """Read [ceil(rows/128), ceil(k/128)] FP32 scales, one such grid for each group."""
    _check_scale(name, scale)
    grid = (-(-matrix_.rows // 128), -(-matrix_.k // 128))
    if tuple(scale.shape[-2:]) != grid or scale.numel() != grid[0] * grid[1] * matrix_.groups:
        raise ShapeError(expected(name, tuple(scale.shape), f"{grid} for each of {matrix_.groups} groups"))
    return strided(name, scale)


def output_format(name: str, tensor: Any) -> str:
    """Return BF16 or F32; D's columns must be contiguous, and each element have memory of its own."""
    if str(tensor.dtype) not in OUTPUTS:
        raise FormatError(expected(name, tensor.dtype, " or ".join(OUTPUTS)))
    if tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
        raise LayoutError(expected(name, f"strides {tuple(tensor.stride())}", "contiguous columns"))
    steps = [stride for stride, extent in zip(tensor.stride()[:-1], tensor.shape[:-1], strict=True) if extent > 1]
    if min(steps, default=tensor.shape[-1]) < tensor.shape[-1]:
        need = f"memory for each element: {tensor.shape[-1]} or more from row to row"
        raise LayoutError(expected(name, f"strides {tuple(tensor.stride())}", need))
    if tensor.dim() == 3 and _groups_meet(tensor):
        need = "memory for each element: rows of a group lie in those of another"
        raise LayoutError(expected(name, f"strides {tuple(tensor.stride())} of {tuple(tensor.shape)}", need))
    return OUTPUTS[str(tensor.dtype)]


def _groups_meet(d: Any) -> bool:
    """Whether some row of a group of D shares memory with a row of another group."""
    (groups, rows, columns), (group, row, _) = d.shape, d.stride()
    for ahead in range(1, groups):
        below = ahead * group // row if rows > 1 else 0
        if any(abs(ahead * group - other * row) < columns for other in (below, below + 1) if other < rows):
            return True
        if below >= rows:  # so are all further groups
            return False
    return False


def output_map(d: Any) -> Callable[[int, int], TensorMap] | None:
    """Return D's (or C's) map in boxes of so many bytes by rows, or None where the copy engine cannot reach it."""
    width = d.element_size()
    stride = d.stride(-2) * width
    groups = d.shape[0] if d.dim() == 3 else 1
    back_to_back = groups == 1 or d.stride(0) == d.stride(-2) * d.shape[-2]
    if stride % 16 or d.data_ptr() % 16 or not back_to_back:
        return None
    dtype = "bfloat16" if width == 2 else "float32"
    shape = (d.shape[-1], groups * d.shape[-2])
    return lambda line, rows: TensorMap.tiled(d, dtype, shape, (stride,), (line // width, rows), line)
