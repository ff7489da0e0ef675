"""What DeepGEMM itself refuses on a GPU: it asserts, a kernel does not compile, or the driver returns an error.

Each limit was seen with the library; none applies to another module with its surface. What the library takes and
computes wrongly is not among them: such a case runs and is judged.
"""

from __future__ import annotations

from collections.abc import Callable

from dgref.backends.deep_gemm_cases import products
from dgref.formats import RECIPES
from dgref.ops import OPS
from dgref.ops.op import element_bits
from dgref.suite import Case

SHORT = 32  # up to so many rows DeepGEMM chooses tiles of 16 or 32
WHOLE = 64  # what the extents of a sum over the batch must be multiples of


def refuses(case: Case, here: str) -> str | None:
    """Say what the library would refuse of this case; on Blackwell nothing but lines is known."""
    lines = _lines(case) if case.op in products.OPERATIONS else None
    further = _HOPPER.get(case.op) if here == "sm90" else None
    return lines or (further(case) if further else None)


def _lines(case: Case) -> str | None:
    """Say which matrix the copy engine cannot reach: its lines must be whole multiples of 16 bytes."""
    shape, problem = case.shape, OPS[case.op].problem(case)
    for operand in (*OPS[case.op].present(problem), *OPS[case.op].outputs):
        if operand.name not in ("a", "b", "d") or 0 in shape.values():
            continue
        extents = operand.shape(problem)
        choice = case.operands.get(operand.name)
        line = extents[-2] if choice and choice.major == "mn" else extents[-1]
        if line * element_bits(operand.format(problem)) % 128:
            return f"the copy engine reads lines of a multiple of 16 bytes: {operand.name} has {line} elements in one"
    return None


def _rows(case: Case) -> str | None:
    scaling = RECIPES[case.operands["b"].recipe].scaling
    row_by_row = scaling is not None and scaling.block[0] == 1
    if row_by_row and case.shape["m"] <= SHORT and 0 not in case.shape.values():
        return f"the sm_90a 1D1D kernel does not compile for the tiles that DeepGEMM chooses for M up to {SHORT}"
    return None


def _alignment(case: Case) -> str | None:
    height = OPS[case.op].problem(case)["alignment"]
    if height % 8 or height > 256 or (height > 64 and height % 128):
        return (
            f"sm_90a tiles are as tall as groups are aligned, a multiple of 8 up to 64, 128 or 256 rows: not {height}"
        )
    return None


def _extents(case: Case) -> str | None:
    sums = OPS[case.op].problem(case)["expression"] == "bmk,bnk->mn"
    if sums and any(case.shape[axis] % WHOLE for axis in "mnk"):
        return f"DeepGEMM sums over the batch where m, n and k are multiples of {WHOLE}"
    return None


_HOPPER: dict[str, Callable[[Case], str | None]] = {
    "gemm": _rows,
    "gemm_grouped_contiguous": _alignment,
    "gemm_grouped_k": _rows,
    "einsum": _extents,
}
