"""8-bit operands that are MN-major are rewritten K-major into a workspace before the product."""

from __future__ import annotations

from dataclasses import replace

from dgref.backends.cuda.jit import compile_kernel, current_device, current_stream
from dgref.backends.cuda.launch import Plan
from dgref.backends.cuda.sm90 import workspace
from dgref.backends.cuda.sm90.operands import Matrix

SIDE = 64


def k_major(name: str, matrix: Matrix) -> tuple[Matrix, list[Plan]]:
    """Return a K-major matrix of the same values, and the launch that fills it: none if it is K-major already.

    The launch reads and writes the matrix once; the workspace belongs to the stream and the operand's name.
    """
    if matrix.major == "K":
        return matrix, []
    stride = -(-matrix.k // 16) * 16
    device = current_device()
    stream = current_stream(device)
    target = workspace.transposed(device, stream, name, matrix.groups * matrix.rows * stride)
    plan = compile_kernel("sm90/transpose.cu", "dgref::transpose", {"side": SIDE}).prepare(
        (-(-matrix.rows // SIDE), -(-stride // SIDE), matrix.groups),
        (256,),
        [matrix.pointer, target.data_ptr(), matrix.rows, matrix.k, matrix.stride, stride],
    )
    return replace(matrix, pointer=target.data_ptr(), major="K", stride=stride), [plan]
