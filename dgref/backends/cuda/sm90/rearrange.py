"""What the kernel cannot read as it lies is rewritten into a workspace before the product, once a launch."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from dgref.backends.cuda import scale_layouts
from dgref.backends.cuda.jit import compile_kernel, current_device, current_stream
from dgref.backends.cuda.launch import Plan
from dgref.backends.cuda.sm90 import workspace
from dgref.backends.cuda.sm90.operands import Matrix

SIDE = 64
RUNS = 2


def k_major(name: str, matrix: Matrix) -> tuple[Matrix, list[Plan]]:
    """Return a matrix of the same values that wgmma can read, and the launch that fills it: none if it can already.

    8-bit operands must be K-major. The launch reads and writes the matrix once; the workspace belongs to the stream
    and the operand's name.
    """
    if matrix.major == "K" or matrix.element != "E4M3":
        return matrix, []
    stride = -(-matrix.k // 16) * 16
    target = _workspace(name, matrix.groups * matrix.rows * stride)
    plan = compile_kernel("sm90/transpose.cu", "dgref::transpose", {"side": SIDE}).prepare(
        (-(-matrix.rows // SIDE), -(-stride // SIDE), matrix.groups),
        (256,),
        [matrix.pointer, target.data_ptr(), matrix.rows, matrix.k, matrix.stride, stride],
    )
    return replace(matrix, pointer=target.data_ptr(), major="K", stride=stride), [plan]


def widened(name: str, matrix: Matrix) -> tuple[Matrix, list[Plan]]:
    """Return E4M3 of the same values as packed codes, and the launch that fills it."""
    target = _workspace(name, matrix.groups * matrix.rows * matrix.k)
    plan = compile_kernel("sm90/widen.cu", "dgref::widen_rows", {"runs": RUNS}).prepare(
        (matrix.groups * matrix.rows, -(-matrix.k // (RUNS * 256 * 16))),
        (256,),
        [matrix.pointer, target.data_ptr(), matrix.k, matrix.stride, matrix.k],
    )
    return replace(matrix, pointer=target.data_ptr(), element="E4M3", stride=matrix.k), [plan]


def mn_major(name: str, scale: Any) -> tuple[Any, list[Plan]]:
    """Return scales [..., rows, blocks] whose rows TMA can read, and the launch that fills them: none if it can.

    Scales that are no matrices, or neither contiguous nor MN-major, come back as they are, for their reader to refuse.
    """
    if scale.dim() < 2:
        return scale, []
    *groups, rows, blocks = scale.shape
    readable = scale.stride(-2) == 1 and scale.stride(-1) % 4 == 0
    if readable or not scale.is_contiguous() or str(scale.dtype) != "torch.float32":
        return scale, []
    padded = -(-rows // 4) * 4
    count = prod(groups) * blocks * padded
    target = _workspace(name, count * 4).view(scale.dtype)[:count].view(*groups, blocks, padded)
    return target[..., :rows].transpose(-1, -2), [scale_layouts.prepare_transposed(scale, target)]


def _workspace(name: str, count: int) -> Any:
    device = current_device()
    return workspace.rewritten(device, current_stream(device), name, count)
