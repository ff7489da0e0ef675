"""Products of three-axis tensors named by an einsum expression, such as `bhr,hdr->bhd`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dgref.errors import InputError, ShapeError, counted, expected
from dgref.formats.scaling import FULL
from dgref.formats.tensor import ScaledTensor
from dgref.reference.dispatch import EXACT, product
from dgref.reference.operands import bind, operation, scaled, values


@dataclass(frozen=True)
class Roles:
    """What each letter of an expression does: batch axes, the rows of a, the rows of b, and what is summed over."""

    a: str
    b: str
    out: str
    batch: str
    rows: str
    columns: str
    summed: str

    @property
    def a_last(self) -> str:
        """The axes of a with those summed over last: the order of a ScaledTensor."""
        return self.batch + self.rows + self.summed

    @property
    def b_last(self) -> str:
        """The axes of b with those summed over last: the order of a ScaledTensor."""
        return self.batch + self.columns + self.summed


def roles(expression: str) -> Roles:
    """Return the roles of the letters of `ab,cd->ef`; each operand has one axis that only it and the output have."""
    if not isinstance(expression, str):
        raise InputError(expected("expression", repr(expression), "a text such as 'bhr,hdr->bhd'"))
    text = expression.replace(" ", "")
    inputs, arrow, out = text.partition("->")
    a, comma, b = inputs.partition(",")
    if not (arrow and comma and a.isalpha() and b.isalpha() and all(len(set(t)) == len(t) for t in (a, b, out))):
        raise InputError(expected("expression", repr(expression), "two operands and an output such as 'bhr,hdr->bhd'"))
    found = Roles(
        a,
        b,
        out,
        batch="".join(x for x in out if x in a and x in b),
        rows="".join(x for x in a if x not in b),
        columns="".join(x for x in b if x not in a),
        summed="".join(x for x in a if x in b and x not in out),
    )
    if len(found.rows) != 1 or len(found.columns) != 1 or not found.summed:
        need = "one axis of a alone, one of b alone, and one summed over"
        raise InputError(expected("expression", repr(expression), need))
    if set(out) != set(found.batch + found.rows + found.columns):
        raise InputError(expected("expression", repr(expression), f"an output of axes {sorted({*a, *b})}"))
    return found


@operation
def einsum(
    expression: str, a: Any, b: Any, c: Any = None, *, arithmetic: Any = EXACT, out: str = "bfloat16"
) -> np.ndarray:
    """Return the sum over the axes of `expression` that its output lacks, plus c.

    A plain array has its axes in the order of the expression. A ScaledTensor has those summed over last, as
    everywhere: a scaled operand of `bhd,bhr->hdr` comes as [h, d, b] and [h, r, b].
    """
    role = roles(expression)
    a, b = _summed_last(a, role.a, role.a_last, "a"), _summed_last(b, role.b, role.b_last, "b")
    extents = bind({"a": (" ".join(role.a_last), a), "b": (" ".join(role.b_last), b), "c": (" ".join(role.out), c)})
    natural = role.batch + role.rows + role.columns
    start = None if c is None else np.transpose(values(c, "c"), [role.out.index(x) for x in natural])
    result = product(_flat(a, role, "a"), _flat(b, role, "b"), _merge(start, role), arithmetic=arithmetic, out=out)
    result = result.reshape([extents[x] for x in natural])
    return np.ascontiguousarray(np.transpose(result, [natural.index(x) for x in role.out]))


def as_products(
    expression: str, a: Any, b: Any
) -> tuple[ScaledTensor, ScaledTensor, Callable[[np.ndarray], np.ndarray]]:
    """Return [batch, rows, k] and [batch, columns, k], and what makes [batch, rows, columns] of an output."""
    role = roles(expression)
    a, b = _summed_last(a, role.a, role.a_last, "a"), _summed_last(b, role.b, role.b_last, "b")
    order = [role.out.index(letter) for letter in role.batch + role.rows + role.columns]
    natural = lambda array: _merge(np.ascontiguousarray(np.transpose(array, order)), role)  # noqa: E731
    return _flat(a, role, "a"), _flat(b, role, "b"), natural


def _summed_last(operand: Any, written: str, last: str, name: str) -> ScaledTensor:
    tensor = scaled(operand, name)
    if isinstance(operand, ScaledTensor):
        return tensor
    if tensor.data.ndim != len(written):
        raise ShapeError(
            expected(f"{name} shape", list(tensor.shape), f"{counted(len(written), 'axis')} [{' '.join(written)}]")
        )
    return replace(tensor, data=np.transpose(tensor.data, [written.index(x) for x in last]))


def _flat(tensor: ScaledTensor, role: Roles, name: str) -> ScaledTensor:
    """Return [batch, rows, k], the batch axes merged into one and the axes summed over into one K."""
    keep, batch = len(role.batch), len(role.batch) + 1
    if len(role.summed) > 1:
        _check_whole_blocks(tensor, name)
    data = _merged(tensor.data, keep, batch)
    scaling = tensor.scaling
    scale = None if tensor.scale is None else _merged(tensor.scale, keep, batch)
    if scale is not None and len(role.summed) > 1:
        scaling = replace(scaling, block=(1, scaling.block[1]))
    return replace(tensor, data=data, scale=scale, scaling=scaling)


def _merged(array: np.ndarray, batch_axes: int, first_summed: int) -> np.ndarray:
    shape = array.shape
    lead = [int(np.prod(shape[:batch_axes], dtype=np.int64))] if batch_axes else []
    return array.reshape(*lead, shape[batch_axes], int(np.prod(shape[first_summed:], dtype=np.int64)))


def _merge(start: np.ndarray | None, role: Roles) -> np.ndarray | None:
    if start is None or len(role.batch) < 2:
        return start
    return start.reshape(-1, *start.shape[-2:])


def _check_whole_blocks(tensor: ScaledTensor, name: str) -> None:
    if tensor.scale is None:
        return
    height, width = tensor.scaling.block
    if height != 1 or width == FULL or tensor.shape[-1] % width:
        need = f"whole blocks of one row along the last axis, which is {tensor.shape[-1]} long"
        raise ShapeError(expected(f"{name} scale block", tensor.scaling.block, need))
