"""How a product may have been computed of which nobody says how: the plans whose limits its bound is made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dgref.formats.native import to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference.arithmetic import DEQUANTISED, OUTSIDE, Arithmetic
from dgref.reference.bound_operand import SHORT_SCALES, Plan
from dgref.reference.tensor_core import NARROW, TensorCore

_SMALLEST = 2.0**-126  # below it an fp32 product of scales loses bits


def plans_of(a: Any, b: Any, model: Arithmetic, c: Any, alpha: float, by_size: bool) -> list[Plan]:
    """Return the plans of a model in every order that is in use; where it is undeclared, every other way as well.

    A sum in fp32 may be taken in any order. A narrower accumulator exists in tensor cores only, whose instructions may
    come in any order and any chains. With `by_size`, limits must not depend on signs.
    """
    narrow = model.tensor_core.fraction_bits < NARROW
    core = (halved if narrow else one_at_a_time)(model.tensor_core)
    plans = [Plan(model, core, "instructions" if narrow and not by_size else "any")]
    if model.status != "undeclared":
        return plans
    plans += _dequantised(a, b, by_size) + _scaled_outside(a, b, model)
    return plans if c is None or alpha != 1.0 else plans + [_seeded(plan) for plan in plans if _takes_seed(plan, a, b)]


def _dequantised(a: Any, b: Any, by_size: bool) -> list[Plan]:
    """Return the plans of scaled elements that are brought into fp32, or into 16 bits where these hold them.

    A tensor core may add the products of 16 bits; one that takes block scales itself loses no more.
    """
    scalings = [operand.scaling for operand in (a, b) if _scaled(operand)]
    way = DEQUANTISED, one_at_a_time(DEQUANTISED.tensor_core)
    plans = [Plan(*way, "any" if by_size else "rounded", dequantised=True)] if scalings else []
    short = all(scaling.scale_format in SHORT_SCALES for scaling in scalings)
    return [*plans, Plan(*way, "any")] if scalings and short else plans


def _scaled_outside(a: Any, b: Any, model: Arithmetic) -> list[Plan]:
    """Return the plan of sums over blocks that are multiplied by the product of their scales, where that may vanish."""
    if model.scales != "core" or not (_scaled(a) and _scaled(b)):
        return []
    if _smallest_scale(a) * _smallest_scale(b) >= _SMALLEST:
        return []
    block = min(operand.scaling.extents(operand.shape)[1] for operand in (a, b))
    arithmetic = OUTSIDE.but(interval=block, core=DEQUANTISED.core, status="undeclared")
    return [Plan(arithmetic, one_at_a_time(DEQUANTISED.tensor_core), "any")]


def _scaled(operand: Any) -> bool:
    return isinstance(operand, ScaledTensor) and operand.scale is not None


def _smallest_scale(operand: ScaledTensor) -> float:
    scales = np.abs(to_numpy(operand.scale_values()).astype(np.float64))
    return float(np.min(scales, where=scales > 0, initial=np.inf))


def _seeded(plan: Plan) -> Plan:
    return replace(plan, arithmetic=plan.arithmetic.but(c="core"))


def _takes_seed(plan: Plan, a: Any, b: Any) -> bool:
    """Return whether C may be the first term of a plan's sum: in fp32, where nothing multiplies the sum afterwards."""
    factors = [operand.global_factor() for operand in (a, b) if _scaled(operand)]
    finished = plan.dequantised or all(factor is None for factor in factors)
    inside = plan.arithmetic.scales in ("none", "core")
    return finished and inside and plan.core.fraction_bits >= NARROW


def one_at_a_time(core: TensorCore) -> TensorCore:
    """Return a core that aligns one product at a time: in any order, what it loses covers every other step."""
    return replace(core, step=1) if core.group == 1 else core


def halved(core: TensorCore) -> TensorCore:
    """Return a core that takes half an instruction at a time: in any order, what it loses covers whole ones."""
    return replace(core, step=core.k // 2)
