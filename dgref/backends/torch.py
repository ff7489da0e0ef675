"""PyTorch's own matrix products, on the CPU and on CUDA: what most code falls back to.

`torch/cpu` and `torch/cuda` are separate kernels (oneDNN and cuBLASLt). In which order they add, their libraries do not
say: they are held to the derived bound, but for scaled groups added up fast.
`torch/cuda_fast` passes use_fast_accum, which Hopper reads as "never promote the tensor core's accumulator".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dgref.arch import Architecture
from dgref.backends.base import BackendBase, FunctionKernel, Inputs, Kernel
from dgref.formats import LAYOUTS, RECIPES, ScaledTensor
from dgref.formats.native import as_native, like
from dgref.reference.arithmetic import Arithmetic
from dgref.suite import Case

PLAIN = ("bfloat16", "float16", "float32")


@dataclass(frozen=True)
class _Route:
    """How torch spells one pair of scalings: ScalingType names, and which devices take it."""

    a: str
    b: str
    devices: tuple[str, ...]
    architectures: tuple[str, ...] = ()  # empty: any
    outs: tuple[str, ...] = ("bfloat16",)


_BLACKWELL = ("sm100", "sm103", "sm120", "sm121")
# (block of a, block of b, scale format) -> route. torch/nn/functional.py scaled_mm; ATen/native/cuda/ScaledBlas.cpp
_ROUTES = {
    ((0, 0), (0, 0), "float32"): _Route(
        "TensorWise", "TensorWise", ("cpu", "cuda"), (), ("bfloat16", "float16", "float32")
    ),
    ((1, 0), (1, 0), "float32"): _Route("RowWise", "RowWise", ("cpu", "cuda"), ("sm89", "sm90", *_BLACKWELL)),
    ((1, 128), (128, 128), "float32"): _Route("BlockWise1x128", "BlockWise128x128", ("cuda",), ("sm90",)),
    ((1, 128), (1, 128), "float32"): _Route("BlockWise1x128", "BlockWise1x128", ("cuda",), ("sm90",)),
    ((1, 32), (1, 32), "float8_e8m0fnu"): _Route("BlockWise1x32", "BlockWise1x32", ("cuda",), _BLACKWELL),
    ((1, 16), (1, 16), "float8_e4m3fn"): _Route("BlockWise1x16", "BlockWise1x16", ("cuda",), _BLACKWELL),
}


class TorchBackend(BackendBase):
    """torch.matmul for plain operands, torch.nn.functional.scaled_mm for scaled ones, torch casts for `cast`."""

    def __init__(self, device: str, fast: bool = False):
        self.name = f"torch/{device}" + ("_fast" if fast else "")
        self.device = device
        self.fast = fast  # whether use_fast_accum is passed

    def unavailable(self) -> str | None:
        if self.device == "cpu":
            return None
        import torch

        return None if torch.cuda.is_available() else "torch sees no CUDA device here"

    def unsupported(self, case: Case, architecture: Architecture | None) -> str | None:
        if case.op not in _OPS:
            return f"torch has no {case.op}"
        return _OPS[case.op].refuses(self, case, architecture)

    def prepare(self, case: Case, inputs: Inputs) -> Kernel:
        return FunctionKernel(_OPS[case.op].prepare(self, case, inputs))

    def arithmetic(self, case: Case, architecture: Architecture | None) -> Arithmetic | None:
        return _OPS[case.op].declares(self, case)

    def provenance(self) -> dict[str, Any]:
        import torch

        return {"torch": torch.__version__, "device": self.device, "use_fast_accum": self.fast}


def _on_device(array: np.ndarray, backend: TorchBackend) -> Any:
    import torch

    return like(np.ascontiguousarray(array), torch.empty(0)).to(backend.device)


def _payload(tensor: ScaledTensor, backend: TorchBackend) -> Any:
    return _on_device(as_native(np.ascontiguousarray(tensor.data), tensor.format), backend)


# -- gemm -------------------------------------------------------------------------------------------------------------


def _route(case: Case) -> _Route | str | None:
    a, b = (RECIPES[case.operands[name].recipe] for name in "ab")
    if a.scaling is None and b.scaling is None:
        return (
            None
            if a.format == b.format and a.format in PLAIN
            else f"torch has no product of unscaled {a.format} and {b.format}"
        )
    if a.scaling is None or b.scaling is None:
        return "torch has no product of a scaled and an unscaled operand"
    if a.scaling.scale_format != b.scaling.scale_format:
        return "torch takes one scale format for both operands"
    found = _ROUTES.get((a.scaling.block, b.scaling.block, a.scaling.scale_format))
    return found or f"torch has no scaling {a.scaling.block} by {b.scaling.block} in {a.scaling.scale_format}"


def _gemm_refuses(backend: TorchBackend, case: Case, architecture: Architecture | None) -> str | None:
    if case.params.get("accumulate") or case.params.get("head_splits"):
        return "torch's products neither accumulate into C in one kernel nor split heads"
    route = _route(case)
    if isinstance(route, str):
        return route
    if route is None:
        return _plain_refuses(backend, case)
    return _scaled_refuses(backend, case, route, architecture)


def _plain_refuses(backend: TorchBackend, case: Case) -> str | None:
    if backend.fast:
        return "use_fast_accum is an option of scaled products only"
    recipe = case.operands["a"].recipe
    if backend.device == "cpu" and recipe == "bfloat16" and case.inputs.kind == "specials":
        # Intel SDM, VDPBF16PS: denormal inputs are treated as zeros. Seen on Sapphire Rapids; not without AVX-512 BF16.
        return "Inf times a subnormal is NaN or Inf by processor: BF16 instructions may read subnormals as zero"
    if case.out != recipe and (backend.device == "cpu" or case.out != "float32"):
        return f"torch.mm on {backend.device} has no {recipe} product with {case.out} output"
    return None


def _scaled_refuses(backend: TorchBackend, case: Case, route: _Route, architecture: Architecture | None) -> str | None:
    if backend.device not in route.devices:
        return f"torch has {route.a} by {route.b} products on {' and '.join(route.devices)} only"
    here = architecture.name if architecture else "none"
    if backend.device == "cuda" and route.architectures and here not in route.architectures:
        return f"needs {' or '.join(route.architectures)}, this is {here}"
    if backend.fast and route.a not in ("TensorWise", "RowWise"):
        return "use_fast_accum does not apply to blockwise scaling"
    if case.out not in route.outs:
        return f"{route.a} products give {' or '.join(route.outs)}, not {case.out}"
    if RECIPES[case.operands["a"].recipe].format == RECIPES[case.operands["b"].recipe].format == "float8_e5m2":
        return "cuBLASLt has no product of two E5M2 operands"
    if backend.device == "cuda" and (case.shape["k"] % 16 or case.shape["n"] % 16 or 0 in case.shape.values()):
        return "cuBLASLt's scaled products need k and n to be positive multiples of 16"
    if route.a == "BlockWise1x128" and case.shape["m"] % 4:
        return "cuBLASLt reads 1x128 scales of a multiple of 4 rows"
    return None


def _gemm_prepare(backend: TorchBackend, case: Case, inputs: Inputs) -> Callable[[], dict[str, Any]]:
    import torch

    a, b = inputs["a"], inputs["b"]
    left, right = _payload(a, backend), _payload(b, backend).t()
    route = _route(case)
    dtype = getattr(torch, case.out)
    if route is None:
        options = {} if case.out == a.format else {"out_dtype": dtype}
        return lambda: {"d": torch.mm(left, right, **options)}
    scales = [_scale(inputs[name], kind, backend) for name, kind in (("a", route.a), ("b", route.b))]
    call = partial(_scaled_mm, left, right, scales, route, dtype, backend.fast)
    return lambda: {"d": call()}


def _scale(tensor: ScaledTensor, kind: str, backend: TorchBackend) -> list[Any]:
    """Return the scale tensors as torch wants them for a ScalingType."""
    if kind in ("BlockWise1x32", "BlockWise1x16"):
        stored = LAYOUTS["swizzle_128x4"].pack(tensor.scale).reshape(-1)
        parts = [_on_device(as_native(stored, tensor.scaling.scale_format), backend)]
        return parts if tensor.global_scale is None else [*parts, _on_device(np.asarray(tensor.global_scale), backend)]
    scale = np.asarray(tensor.scale, np.float32)
    if kind == "TensorWise":
        return [_on_device(scale.reshape(()), backend)]
    if kind == "BlockWise1x128":  # [M, K/128] with stride (1, M), also where M is 1
        return [_on_device(scale.T, backend).as_strided(scale.shape, (1, scale.shape[0]))]
    if kind == "BlockWise128x128":
        return [_block_scale(scale, backend)]
    return [_on_device(scale, backend)]


def _block_scale(scale: np.ndarray, backend: TorchBackend) -> Any:
    """Return [N/128, K/128] scales as torch wants those of the transposed B: [K/128 rounded up to 4, N/128]."""
    rows, columns = scale.shape
    padded = np.zeros((rows, -(-columns // 4) * 4), np.float32)
    padded[:, :columns] = scale
    return _on_device(padded, backend).as_strided((padded.shape[1], rows), (1, padded.shape[1]))


def _scaled_mm(left: Any, right: Any, scales: list[list[Any]], route: _Route, dtype: Any, fast: bool) -> Any:
    import torch

    (scale_a, *_), (scale_b, *_) = scales
    if route.a in ("TensorWise", "RowWise"):
        scale_b = scale_b.t() if route.b == "RowWise" else scale_b
        return torch._scaled_mm(left, right, scale_a, scale_b, out_dtype=dtype, use_fast_accum=fast)
    kinds, swizzles = torch.nn.functional.ScalingType, torch.nn.functional.SwizzleType
    swizzle = swizzles.SWIZZLE_32_4_4 if route.a in ("BlockWise1x32", "BlockWise1x16") else swizzles.NO_SWIZZLE
    recipes = [
        [getattr(kinds, name)] + [kinds.TensorWise] * (len(parts) - 1)
        for name, parts in zip((route.a, route.b), scales, strict=True)
    ]
    swizzled = [[swizzle] + [swizzles.NO_SWIZZLE] * (len(parts) - 1) for parts in scales]
    return torch.nn.functional.scaled_mm(
        left, right, scales[0], recipes[0], scales[1], recipes[1], swizzled[0], swizzled[1], output_dtype=dtype
    )


# -- grouped ----------------------------------------------------------------------------------------------------------


_FAST_GROUPS = Arithmetic("torch.scaled_grouped_mm_fast", "sm90.wgmma.float8_e4m3fn", scales="each", status="hardware")


def _grouped_refuses(backend: TorchBackend, case: Case, architecture: Architecture | None) -> str | None:
    if backend.device != "cuda":
        return "torch's grouped product is a CUDA kernel"
    if not case.params.get("psum") or case.params.get("alignment", 128) != 1:
        return "torch's grouped product takes the ends of the groups, without alignment"
    route = _route(case)
    if isinstance(route, str):
        return route
    if case.out != "bfloat16" or (route is None and case.operands["a"].recipe != "bfloat16"):
        return "torch's grouped products are of BF16 or scaled FP8, and give bfloat16"
    here = architecture.name if architecture else "none"
    if route is None:
        refused = backend.fast or here not in ("sm90", "sm100")
        return "torch's _grouped_mm needs sm90 or sm100, and has no fast accumulation" if refused else None
    if route.a != "RowWise" or here != "sm90":
        return "torch's _scaled_grouped_mm takes a scale for each row of a and of b, on sm90"
    narrow = case.shape["k"] % 16 or case.shape["n"] % 16
    return "torch's _scaled_grouped_mm needs k and n to be multiples of 16" if narrow else None


def _grouped_declares(backend: TorchBackend, case: Case) -> Arithmetic | None:
    """Return what torch 2.11's CUTLASS kernel gave in every bit on an H200: one chain, then one scale, then the other.

    Without fast accumulation every 128 of K are added in FP32 before that, which no arithmetic says.
    """
    return _FAST_GROUPS if backend.fast else None


def _grouped_prepare(backend: TorchBackend, case: Case, inputs: Inputs) -> Callable[[], dict[str, Any]]:
    import torch

    left, right = _payload(inputs["a"], backend), _payload(inputs["b"], backend).transpose(-1, -2)
    ends = _on_device(np.asarray(inputs["grouped_layout"], np.int32), backend)
    if inputs["a"].scale is None:
        return lambda: {"d": torch._grouped_mm(left, right, offs=ends)}
    scales = [_on_device(np.asarray(inputs[name].scale[..., 0], np.float32), backend) for name in "ab"]
    options = {"offs": ends, "out_dtype": torch.bfloat16, "use_fast_accum": backend.fast}
    return lambda: {"d": torch._scaled_grouped_mm(left, right, *scales, **options)}


# -- cast -------------------------------------------------------------------------------------------------------------


def _cast_refuses(backend: TorchBackend, case: Case, architecture: Architecture | None) -> str | None:
    import torch

    if backend.fast:
        return "use_fast_accum is an option of scaled products only"
    if not hasattr(torch, case.out) or case.out.startswith("float4"):
        return f"torch has no cast to {case.out}"
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    mine = "torch>=2.13" if version >= (2, 13) else "torch<=2.12"
    if case.params.get("convention") != mine:
        return f"this torch casts by the convention {mine!r}"
    return None


def _cast_prepare(backend: TorchBackend, case: Case, inputs: Inputs) -> Callable[[], dict[str, Any]]:
    import torch

    values, dtype = _payload(inputs["x"], backend), getattr(torch, case.out)
    width = {1: torch.uint8, 2: torch.uint16}[dtype.itemsize]
    return lambda: {"y": values.to(dtype).view(width)}


@dataclass(frozen=True)
class _TorchOp:
    refuses: Callable[[TorchBackend, Case, Architecture | None], str | None]
    prepare: Callable[[TorchBackend, Case, Inputs], Callable[[], dict[str, Any]]]
    declares: Callable[[TorchBackend, Case], Arithmetic | None] = lambda backend, case: None


_OPS = {
    "gemm": _TorchOp(_gemm_refuses, _gemm_prepare),
    "gemm_grouped_contiguous": _TorchOp(_grouped_refuses, _grouped_prepare, _grouped_declares),
    "cast": _TorchOp(_cast_refuses, _cast_prepare),
}
BACKENDS = [TorchBackend("cpu"), TorchBackend("cuda"), TorchBackend("cuda", fast=True)]
