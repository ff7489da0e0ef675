"""Conversions and scale layouts: the same kernels on every architecture that has FP8."""

from __future__ import annotations

from typing import Any

import numpy as np

from dgref.backends.base import Inputs, Kernel, Outputs
from dgref.backends.cuda import quantizers, scale_layouts
from dgref.backends.cuda.case_kernel import CaseKernel
from dgref.backends.cuda.placement import native, on_device
from dgref.formats import RECIPES, as_codes
from dgref.formats.native import to_numpy
from dgref.formats.packing import unpack
from dgref.ops import OPS
from dgref.suite import Case


class _Made:
    """A kernel whose launch allocates its results; they are read back outside the launch."""

    def __init__(self, launch: Any, read: Any):
        self._launch, self._read = launch, read
        self._made: Any = None

    def __call__(self) -> None:
        self._made = self._launch()

    def outputs(self) -> Outputs:
        return self._read(self._made)

    def poison(self, pattern: int) -> None:
        self._made = None


def _exact(case: Case, batch_invariant: bool) -> str:
    return "exact"


def _quantize_refuses(case: Case) -> str | None:
    if case.operands["x"].recipe not in ("float32", "bfloat16"):
        return f"quantisers read float32 and bfloat16, not {case.operands['x'].recipe}"
    return quantizers.unsupported(case.params["recipe"])


def _quantize_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    x, recipe = on_device(native(inputs["x"])), RECIPES[case.params["recipe"]]

    def read(made: quantizers.Quantized) -> Outputs:
        found = {"data": _codes(made.data, recipe.format, case.shape["n"]), "scale": _plain(made.scale)}
        return found if made.global_scale is None else {**found, "global_scale": _plain(made.global_scale).reshape(())}

    return _Made(lambda: quantizers.quantize(x, recipe), read)


def _codes(data: Any, format: str, columns: int) -> np.ndarray:
    stored = as_codes(to_numpy(data.cpu()))
    return unpack(stored, format, count=columns) if format == "float4_e2m1fn" else stored


def _plain(tensor: Any) -> np.ndarray:
    array = np.ascontiguousarray(to_numpy(tensor.cpu()))
    return array if array.dtype == np.float32 else as_codes(array)


def _layout_prepare(case: Case, inputs: Inputs, batch_invariant: bool) -> Kernel:
    problem = OPS[case.op].problem(case)
    scales = on_device(np.ascontiguousarray(inputs["scales"].values(), np.float32))
    name, parameters = _LAYOUTS[case.op](problem, inputs)
    return _Made(lambda: scale_layouts.pack(name, scales, **parameters), lambda made: {"buffer": to_numpy(made.cpu())})


def _packed(problem: Any, inputs: Inputs) -> tuple[str, dict[str, Any]]:
    if not problem["psum"]:
        return "packed_ue8m0", {}
    return "packed_ue8m0_psum", {"ends": on_device(inputs["ends"]), "row_alignment": problem["alignment"]}


def _k_grouped(problem: Any, inputs: Inputs) -> tuple[str, dict[str, Any]]:
    from dgref.reference.grouped import k_spans

    spans = k_spans(inputs["grouped_layout"], problem["k"], problem["psum"], problem["alignment"])
    return "packed_ue8m0_k_grouped", {"extents": [-(-(span.stop - span.start) // problem["block"]) for span in spans]}


_LAYOUTS = {
    "scales_mn_major": lambda problem, inputs: ("mn_major_tma", {}),
    "scales_packed": _packed,
    "scales_packed_k_grouped": _k_grouped,
}
CASES = {
    "quantize": CaseKernel(_quantize_refuses, _exact, _quantize_prepare),
    **{op: CaseKernel(lambda case: None, _exact, _layout_prepare) for op in _LAYOUTS},
}
