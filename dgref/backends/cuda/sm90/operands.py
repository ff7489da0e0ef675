"""What the caller hands over, checked, and the tensor maps that the kernel reads it through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dgref.backends.cuda.binding import Address
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import FormatError, LayoutError, ShapeError, expected

PAYLOADS = {
    "E4M3": ("torch.float8_e4m3fn", "torch.uint8"),
    "BF16": ("torch.bfloat16",),
    "E2M1": ("torch.uint8", "torch.int8", "torch.float4_e2m1fn_x2"),  # two codes to a byte, the low nibble first
}
OUTPUTS = {"torch.bfloat16": "BF16", "torch.float32": "F32"}
WIDTH = {"E4M3": 1, "BF16": 2, "E2M1": 1}


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


def matrix(name: str, tensor: Any, element: str) -> Matrix:
    """Read a [rows, k] or [groups, rows, k] tensor; a transposed view is an MN-major operand."""
    if str(tensor.dtype) not in PAYLOADS[element]:
        raise FormatError(expected(name, tensor.dtype, " or ".join(PAYLOADS[element])))
    if tensor.dim() not in (2, 3):
        raise ShapeError(expected(name, tuple(tensor.shape), "a matrix or a stack of matrices"))
    *_, rows, k = tensor.shape
    groups = tensor.shape[0] if tensor.dim() == 3 else 1
    row_stride, k_stride = tensor.stride()[-2:]
    major = "K" if k_stride == 1 or k == 1 else "MN"
    if major == "MN" and row_stride != 1 and rows != 1:
        raise LayoutError(expected(name, f"strides {tuple(tensor.stride())}", "rows or columns that are contiguous"))
    line, lines = (row_stride, rows) if major == "K" else (k_stride, k)
    if groups > 1 and tensor.stride(0) != line * lines:
        raise LayoutError(expected(name, f"stride {tensor.stride(0)} between groups", f"{line * lines}, back to back"))
    width = WIDTH[element]
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


def _check_scale(name: str, scale: Any) -> None:
    if str(scale.dtype) != "torch.float32":
        raise FormatError(expected(name, scale.dtype, "torch.float32"))
    if scale.dim() not in (2, 3):
        raise ShapeError(expected(name, tuple(scale.shape), "a matrix or a stack of matrices"))


def vector_scale_map(name: str, scale: Any, lines: int, columns: int, box: int, box_lines: int = 1) -> TensorMap:
    """Return the map of scales along K: `lines` rows of K-scales, each `columns` long and a multiple of 16 bytes.

    `scale` is logically [..., columns, K/128] FP32 with `columns` contiguous (MN-major, TMA-aligned).
    """
    _check_scale(name, scale)
    across, along = scale.stride()[-2:]
    if scale.shape[-2] != columns or scale.numel() != lines * columns:
        raise ShapeError(expected(name, tuple(scale.shape), f"{columns} rows and {lines} scales of each in all"))
    if across != 1 and columns != 1:
        need = "MN-major: the next row's scale beside it (get_mn_major_tma_aligned_tensor makes it so)"
        raise LayoutError(expected(name, f"strides {tuple(scale.stride())}", need))
    if lines == 1:
        along = (columns + 3) // 4 * 4
    if scale.dim() == 3 and scale.shape[0] > 1 and scale.stride(0) != along * scale.shape[-1]:
        raise LayoutError(expected(name, f"stride {scale.stride(0)} between groups", along * scale.shape[-1]))
    return TensorMap.tiled(scale, "float32", (columns, lines), (along * 4,), (box, box_lines), 0)


@dataclass(frozen=True)
class BlockScale:
    """Scales of 128 x 128 blocks, read by pointer: any strides."""

    pointer: int | Address
    stride_n: int
    stride_k: int
    stride_group: int


NO_BLOCK_SCALE = BlockScale(0, 0, 0, 0)


def block_scale(name: str, scale: Any, matrix_: Matrix) -> BlockScale:
    """Read [ceil(rows/128), ceil(k/128)] FP32 scales, one such grid for each group."""
    _check_scale(name, scale)
    grid = (-(-matrix_.rows // 128), -(-matrix_.k // 128))
    if tuple(scale.shape[-2:]) != grid or scale.numel() != grid[0] * grid[1] * matrix_.groups:
        raise ShapeError(expected(name, tuple(scale.shape), f"{grid} for each of {matrix_.groups} groups"))
    group = scale.stride(0) if scale.dim() == 3 else 0
    return BlockScale(scale.data_ptr(), *scale.stride()[-2:], group)


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
    return OUTPUTS[str(tensor.dtype)]


def output_map(d: Any) -> Callable[[int], TensorMap] | None:
    """Return D's map in boxes of 16 rows by so many bytes, or None where the copy engine cannot write D."""
    width = d.element_size()
    stride = d.stride(-2) * width
    groups = d.shape[0] if d.dim() == 3 else 1
    back_to_back = groups == 1 or d.stride(0) == d.stride(-2) * d.shape[-2]
    if stride % 16 or d.data_ptr() % 16 or not back_to_back:
        return None
    dtype = "bfloat16" if width == 2 else "float32"
    shape = (d.shape[-1], groups * d.shape[-2])
    return lambda line: TensorMap.tiled(d, dtype, shape, (stride,), (line // width, 16), line)
