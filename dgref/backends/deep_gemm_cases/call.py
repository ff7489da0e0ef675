"""A case on its way into DeepGEMM: its operands as torch tensors in the layouts that its kernels read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from dgref.backends.base import Inputs, Kernel
from dgref.formats import LAYOUTS, ScaledTensor
from dgref.formats.native import as_native, like
from dgref.formats.packing import pack
from dgref.guards import GuardedOutputs, guarded_outputs
from dgref.ops import OPS
from dgref.suite import Case

FP8, FP4, UE8M0 = "float8_e4m3fn", "float4_e2m1fn", "float8_e8m0fnu"


@dataclass(frozen=True)
class Operation:
    """How one op runs: why a case cannot (case, architecture), which kernel family computes it, and the launch.

    `family` is the end of a name in ARITHMETICS, `exact`, or None where no order of adding is fixed.
    """

    refuses: Callable[[Case, str], str | None]
    family: Callable[[Case], str | None]
    prepare: Callable[[Call], Kernel]


@dataclass
class Call:
    """One case on its way into the library: its operands as torch tensors in the library's layouts."""

    backend: Any  # the backend: its library, device and architecture_name
    case: Case
    inputs: Inputs

    @property
    def library(self) -> ModuleType:
        return self.backend.library

    def param(self, name: str, default: Any = None) -> Any:
        """Return a parameter of the case, with the op's default."""
        return OPS[self.case.op].problem(self.case).params.get(name, default)

    def place(self, array: np.ndarray) -> Any:
        """Return a native or integer array as a torch tensor on the backend's device."""
        import torch

        placed = like(np.ascontiguousarray(array), torch.empty(0)).to(self.backend.device)
        # NumPy's empty arrays have strides of zero, in which the library sees neither rows nor columns
        return placed if placed.numel() else torch.empty(placed.shape, dtype=placed.dtype, device=placed.device)

    def index(self, name: str) -> Any:
        """Return an index operand."""
        return self.place(np.asarray(self.inputs[name], np.int32))

    def payload(self, name: str, tensor: ScaledTensor | None = None) -> Any:
        """Return an operand's elements as [..., rows, k] in the memory order that the case asks for."""
        tensor = self.inputs[name] if tensor is None else tensor
        choice = self.case.operands.get(name)
        major = choice.major if choice else "k"
        codes = np.ascontiguousarray(tensor.data if major == "k" else np.swapaxes(tensor.data, -1, -2))
        stored = pack(codes, FP4).view(np.int8) if tensor.format == FP4 else as_native(codes, tensor.format)
        placed = self.place(stored)
        return placed if major == "k" else placed.transpose(-1, -2)

    def scale(self, tensor: ScaledTensor) -> Any:
        """Return scales as kernels read them: MN-major float32 or packed words, and 128x128 float32 as it is."""
        rows = tensor.shape[-2]
        if self.backend.architecture_name == "sm90":
            if tensor.scaling.block[0] != 1:
                return self.place(tensor.scale)
            return self.place(LAYOUTS["mn_major_tma"].pack(tensor.scale))[..., :rows].transpose(-1, -2)
        by_row = np.repeat(tensor.scale, tensor.scaling.extents(tensor.shape)[0], axis=-2)[..., :rows, :]
        return self.place(LAYOUTS["packed_ue8m0"].pack(np.ascontiguousarray(by_row)))[..., :rows].transpose(-1, -2)

    def pair(self, name: str, tensor: ScaledTensor | None = None) -> Any:
        """Return an operand as the library takes it: (tensor, scales), or the tensor alone where it has none."""
        tensor = self.inputs[name] if tensor is None else tensor
        data = self.payload(name, tensor)
        return data if tensor.scale is None else (data, self.scale(tensor))

    def recipes(self) -> dict[str, Any]:
        """Return the recipe arguments of a product, for the layouts that `scale` makes."""
        if self.inputs["a"].scale is None:
            return {}
        a, b = (self.inputs[name].scaling.block for name in "ab")
        if self.backend.architecture_name == "sm100":
            return {"recipe_a": (1, a[1]), "recipe_b": (1, b[1])}
        return {"recipe": (a[0], b[0], a[1])}

    def outputs(self) -> GuardedOutputs:
        """Return room for every output, between guard bytes."""
        return guarded_outputs(self.case, self.place)

    def start(self, d: Any) -> Any:
        """Return what a product starts from, or None."""
        c = self.inputs.get("c")
        return None if c is None else self.place(as_native(c.data, c.format)).to(d.dtype)

    def function(self, scaled: str, plain: str) -> Callable:
        """Return the library's function for the operands there are."""
        return getattr(self.library, plain if self.inputs["a"].scale is None else scaled)


def under_alignment(call: Call, launch: Callable[[], Any]) -> Callable[[], Any]:
    """Return a launch under the case's alignment, which is a setting of the library's whole process."""
    align, alignment = call.library.set_mk_alignment_for_contiguous_layout, call.param("alignment")

    def run() -> Any:
        align(alignment)
        return launch()

    return run
