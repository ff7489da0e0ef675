"""What the kernel cannot read as it lies is rewritten into a workspace before the product, once a launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

from dgref.backends.cuda import scale_layouts
from dgref.backends.cuda.jit import compile_kernel, current_place
from dgref.backends.cuda.launch import Plan
from dgref.backends.cuda.sm90 import workspace
from dgref.backends.cuda.sm90.configuration import moves_scales
from dgref.backends.cuda.sm90.operands import Matrix, Scales, is_pointed
from dgref.backends.cuda.sm90.shape import Configuration, scales_deep
from dgref.backends.cuda.tensor_map import TensorMap
from dgref.errors import UnsupportedError, expected

SIDE = 64
RUNS = 2
MOST_GROUPS = (1 << 16) - 1


def k_major(name: str, matrix: Matrix) -> tuple[Matrix, list[Plan]]:
    """Return a matrix of the same values that wgmma can read, and the launch that fills it: none if it can already.

    8-bit operands must be K-major. The launch reads and writes the matrix once; the workspace belongs to the stream
    and the operand's name.
    """
    if matrix.major == "K" or matrix.element != "E4M3":
        return matrix, []
    stride = -(-matrix.k // 16) * 16
    _check_groups(name, matrix)
    target = _workspace(name, matrix.groups * matrix.rows * stride)
    plan = compile_kernel("sm90/transpose.cu", "dgref::transpose", {"side": SIDE}).prepare(
        (-(-matrix.rows // SIDE), -(-stride // SIDE), matrix.groups),
        (256,),
        [matrix.pointer, target, matrix.rows, matrix.k, matrix.stride, stride],
    )
    return replace(matrix, pointer=target.data_ptr(), major="K", stride=stride), [plan]


def widened(name: str, matrix: Matrix) -> tuple[Matrix, list[Plan]]:
    """Return E4M3 of the same values as packed codes, and the launch that fills it."""
    target = _workspace(name, matrix.groups * matrix.rows * matrix.k)
    plan = compile_kernel("sm90/widen.cu", "dgref::widen_rows", {"runs": RUNS}).prepare(
        (matrix.groups * matrix.rows, -(-matrix.k // (RUNS * 256 * 16))),
        (256,),
        [matrix.pointer, target, matrix.k, matrix.stride, matrix.k],
    )
    return replace(matrix, pointer=target.data_ptr(), element="E4M3", stride=matrix.k), [plan]


def rearranged(found: Configuration, operands: Any) -> tuple[Any, list[Plan]]:
    """Return the operands of a launch as its configuration wants them, and the launches that make them so."""
    before = []
    if operands.b.element == "E2M1" and found.shape.weights == "AS_A" and not found.shape.folded:
        b, before = widened("b", operands.b)
        operands = replace(operands, b=b)
    if found.wide and any(map(is_pointed, (operands.scale_a, operands.scale_b))):
        need = "one of at most 128 rows, for scales with gaps between them"
        raise UnsupportedError(expected("tile", found.tile, need))
    scattered = {name: count for name, count in _scale_counts(found).items() if _movable(getattr(operands, name))}
    if found.wide or moves_scales(found, tuple(scattered.values())):
        for name in scattered:
            moved, plan = mn_major(name, getattr(operands, name).grid)
            operands, before = replace(operands, **{name: moved}), [*before, plan]
    return operands, before


def folded(operands: Any, granule: int) -> tuple[Any, Any, Plan]:
    """Return the operands of the product that has the scales of packed weights folded into their codes, those of the
    product for the groups in which they do not fold, and the launch that fills what both read.
    """
    matrix, (scale_a, scale_b) = operands.b, operands.foldable
    _check_groups("b", matrix)
    grid = (-(-matrix.rows // 128), -(-matrix.k // 128))
    target = _workspace("b", matrix.groups * matrix.rows * matrix.k)
    blocks = _workspace("b_scale", 4 * matrix.groups * grid[0] * grid[1])
    counts = _workspace("rows", 8 * matrix.groups)
    some, others = counts[: 4 * matrix.groups], counts[4 * matrix.groups : 8 * matrix.groups]
    plan = compile_kernel("sm90/fold.cu", "dgref::fold", {"granule": granule}).prepare(
        (-(-grid[1] // 2), grid[0], matrix.groups),
        (256,),
        [
            matrix.pointer,
            target,
            scale_b.pointer,
            blocks,
            scale_a.struct(),
            operands.layout,
            some,
            others,
            workspace.arrivals(*current_place(), 2 * matrix.groups, "folds"),
            matrix.stride,
            matrix.k,
            scale_b.block,
            operands.a.rows,
            matrix.rows,
            matrix.k,
        ],
    )
    wide = replace(matrix, pointer=target.data_ptr(), element="E4M3", stride=matrix.k)
    scales = Scales(blocks.data_ptr(), grid[1], 1, grid[0] * grid[1])
    return replace(operands, b=wide, scale_b=scales, layout=some), replace(operands, layout=others), plan


def _check_groups(name: str, matrix: Matrix) -> None:
    if matrix.groups > MOST_GROUPS:
        need = f"at most {MOST_GROUPS:,}, where {name} is rewritten first: each is a layer of the launch that does it"
        raise UnsupportedError(expected("groups", f"{matrix.groups:,}", need))


def _scale_counts(found: Configuration) -> dict[str, int]:
    """Return how many scales of rows a stage holds of each operand."""
    shape, tile = found.shape, found.tile
    return {"scale_a": shape.parts * tile.rows_copied, "scale_b": scales_deep(shape) * tile.block_n}


def _movable(scales: Any) -> bool:
    return isinstance(scales, Scales) and scales.grid is not None


def mn_major(name: str, grid: Any) -> tuple[Callable[[int, int], TensorMap], Plan]:
    """Return the map of scales [..., rows, K-scales] that are moved to where it reads them, and the launch for it."""
    *groups, rows, each = grid.shape
    padded, lines = -(-rows // 4) * 4, prod(groups) * each
    target = _workspace(name, lines * padded * 4).view(grid.dtype)[: lines * padded].view(*groups, each, padded)
    read = lambda box, deep: TensorMap.tiled(target, "float32", (rows, lines), (padded * 4,), (box, deep), 0)  # noqa: E731
    return read, scale_layouts.prepare_transposed(grid, target)


def _workspace(name: str, count: int) -> Any:
    return workspace.rewritten(*current_place(), name, count)
