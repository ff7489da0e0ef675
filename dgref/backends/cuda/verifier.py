"""GEMM in a declared arithmetic, bit for bit, on CUDA cores: what production shapes are checked against on the GPU.

The tensor core is modelled, never used (kernels/common/verifier.cu). An `Arithmetic` says which instruction, when its
chain is promoted, how K is split; this module turns that into template constants and one launch.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from dgref.backends.cuda.jit import compile_kernel, on_device
from dgref.errors import FormatError, InputError, ShapeError, UnsupportedError, expected
from dgref.reference.arithmetic import Arithmetic, resolve

if TYPE_CHECKING:
    import torch

SOURCE = "common/verifier.cu"
_STAGE, _TILE = 32, 64
_MODELS = {
    "sm90.wgmma.float8_e4m3fn": "verifier::Fp8<verifier::E4m3>",
    "sm90.wgmma.float8_e5m2": "verifier::Fp8<verifier::E5m2>",
    "sm90.wgmma.bfloat16": "verifier::Integer<verifier::Bfloat16, 25, 16>",
    "sm90.wgmma.float16": "verifier::Integer<verifier::Float16, 25, 16>",
    "sm90.wgmma.tfloat32": "verifier::Integer<verifier::Tfloat32, 25, 8>",
    "sm100.tcgen05.float8_e4m3fn": "verifier::Integer<verifier::Float8E4m3, 25, 32>",
    "sm100.tcgen05.float8_e5m2": "verifier::Integer<verifier::Float8E5m2, 25, 32>",
    "sm100.tcgen05.bfloat16": "verifier::Integer<verifier::Bfloat16, 25, 16>",
    "sm100.tcgen05.float16": "verifier::Integer<verifier::Float16, 25, 16>",
    "sm100.tcgen05.tfloat32": "verifier::Integer<verifier::Tfloat32, 25, 8>",
}
_OUTPUTS = {"float32": "float", "bfloat16": "unsigned short"}
_PROBLEM = struct.Struct("=6Q3q4q5i4xQif")  # the fields of verifier::Problem, in order


def unsupported(arithmetic: str | Arithmetic, k: int) -> str | None:
    """Say why the verifier cannot compute an arithmetic; None where it can."""
    row = resolve(arithmetic)
    if row.core not in _MODELS:
        return f"no model of {row.core} on CUDA cores; there is one of " + ", ".join(sorted(_MODELS))
    fields = {
        "promotion": (row.promotion, ("add", "fma")),
        "scales": (row.scales, ("none", "product", "epilogue")),
        "reduction": (row.reduction, ("ascending",)),
        "c": (row.c, ("after",)),
        "partial": (row.partial, ("float32",)),
        "output_rounding": (row.output_rounding, ("nearest_even",)),
        "fold_b": (row.fold_b, (None,)),
        "round_a": (row.round_a, (None, row.tensor_core.format)),
        "round_b": (row.round_b, (None, row.tensor_core.format)),
    }
    for name, (value, known) in fields.items():
        if value not in known:
            return f"{name} {value!r}: the verifier knows {' and '.join(map(str, known))}"
    if row.lanes is not None:
        return "sums shared by the lanes of a warp: the verifier has a tensor core's alone"
    positions = [row.interval, *(stop for _, stop in row.ranges(k)[:-1])]
    uneven = [position for position in positions if position % _STAGE]
    return f"a chain or split ends at K = {uneven[0]}: the verifier stops at multiples of {_STAGE}" if uneven else None


def verify_gemm(
    a: torch.Tensor,
    b: torch.Tensor,
    arithmetic: str | Arithmetic,
    *,
    scale_a: torch.Tensor | None = None,
    scale_b: torch.Tensor | None = None,
    c: torch.Tensor | None = None,
    alpha: float = 1.0,
    out: str = "float32",
) -> torch.Tensor:
    """Return a[m, k] @ b[n, k].T as `arithmetic` adds it up, `out` being float32 or bfloat16.

    Scales are FP32 grids [ceil(m / r), chains], r being 1 or another power of two; C is FP32 [m, n], added last.
    FP8 comes as torch's float8 dtypes. TF32 comes as float32, whose low 13 bits are dropped (or rounded, where the
    arithmetic says so), or as bfloat16.
    """
    row = resolve(arithmetic)
    reason = unsupported(row, a.shape[-1])
    if reason:
        raise UnsupportedError(expected("verifier", f"arithmetic {row.name}", reason))
    _check_operands(a, b, c, row, out)
    with on_device(a):
        a, b = _loadable(_rounded(a, row.round_a, row)), _loadable(_rounded(b, row.round_b, row))
        return _launch(a, b, row, scale_a, scale_b, c, alpha, out)


def model_constants(arithmetic: Arithmetic, splits: int, out: str) -> dict[str, Any]:
    """Return the template arguments of an arithmetic."""
    scaled = arithmetic.scales == "product"
    promotion = "kFused" if arithmetic.promotion == "fma" else "kMultiplied"
    if not scaled:
        promotion = "kAdded" if arithmetic.interval else "kNever"
    return {
        "model": _MODELS[arithmetic.core],
        "promotion": f"verifier::{promotion}",
        "split": splits > 1,
        "output": _OUTPUTS[out],
    }


def _launch(a, b, row, scale_a, scale_b, c, alpha, out) -> torch.Tensor:
    import torch

    (m, k), n = a.shape, b.shape[0]
    ends = [-(-stop // _STAGE) for _, stop in row.ranges(k)]
    kernel = compile_kernel(SOURCE, "verify", model_constants(row, len(ends), out))
    d = torch.empty(m, n, dtype=getattr(torch, out), device=a.device)
    if row.scales != "product" and (scale_a is not None or scale_b is not None):
        raise InputError(expected("scale_a and scale_b", "given", f"None: {row.name} takes alpha instead"))
    scales = [_scale(scale_a, m, "scale_a", row, k, d), _scale(scale_b, n, "scale_b", row, k, d)]
    addend = None if c is None else c.float().contiguous()
    split_ends = torch.tensor(ends, dtype=torch.int32, device=a.device)
    problem = _PROBLEM.pack(
        *(0 if tensor is None else tensor.data_ptr() for tensor in (a, b, scales[0][0], scales[1][0], addend, d)),
        *(a.stride(0), b.stride(0), n),
        *(scales[0][1] + scales[1][1]),
        *(m, n, k),
        *(scales[0][2], scales[1][2]),
        split_ends.data_ptr(),
        *(-(-(row.interval or k) // _STAGE), alpha),
    )
    if m and n:
        kernel.launch((-(-n // _TILE), -(-m // _TILE)), (256,), (problem,))
    return d


def _scale(scale, rows: int, name: str, row: Arithmetic, k: int, like) -> tuple[Any, tuple[int, int], int]:
    """Return a scale grid with its strides and the log2 of the rows that share an entry."""
    if row.scales != "product":
        return None, (0, 0), 0
    chains = sum(len(row.chains(start, stop)) for start, stop in row.ranges(k))
    if scale is None or scale.ndim != 2 or scale.shape[1] != chains:
        got = "None" if scale is None else tuple(scale.shape)
        raise ShapeError(expected(name, got, f"[rows, {chains}]: one column for each chain of {row.interval} of K"))
    if str(scale.dtype) != "torch.float32" or scale.device != like.device:
        raise FormatError(expected(name, f"{scale.dtype} on {scale.device}", f"float32 on {like.device}"))
    shift = next((bits for bits in range(31) if -(-rows // (1 << bits)) == len(scale)), None)
    if shift is None:
        raise ShapeError(expected(name, tuple(scale.shape), f"ceil({rows} / 2^i) rows for some i"))
    return scale, (scale.stride(0), scale.stride(1)), shift


def _rounded(operand: torch.Tensor, format: str | None, row: Arithmetic) -> torch.Tensor:
    """Return a TF32 operand as float32, rounded to nearest even where the arithmetic rounds it beforehand."""
    import torch

    if row.tensor_core.format != "tfloat32":
        return operand
    wide = operand.float()
    if format is None:
        return wide
    bits = wide.view(torch.int32)
    rounded = (bits + 0xFFF + (bits >> 13 & 1) & ~0x1FFF).view(torch.float32)
    return torch.where(wide.isfinite(), rounded, wide)


def _loadable(operand: torch.Tensor) -> torch.Tensor:
    """Return the operand so that eight elements load at once: K contiguous and padded with zeros to a multiple of 8."""
    import torch

    if operand.shape[1] % 8:
        bits = operand.view(_bits_dtype(operand))
        operand = torch.nn.functional.pad(bits, (0, -operand.shape[1] % 8))
    eight = 8 * operand.element_size()
    aligned = operand.stride(1) == 1 and operand.stride(0) % 8 == 0 and operand.data_ptr() % eight == 0
    return operand if aligned else operand.contiguous()


def _bits_dtype(operand: torch.Tensor) -> torch.dtype:
    import torch

    return {1: torch.uint8, 2: torch.int16, 4: torch.int32}[operand.element_size()]


def _check_operands(a, b, c, row: Arithmetic, out: str) -> None:
    need = row.tensor_core.format
    for name, operand in (("a", a), ("b", b)):
        dtype = str(operand.dtype).removeprefix("torch.")
        if dtype not in (("float32", "bfloat16") if need == "tfloat32" else (need,)):
            raise FormatError(expected(name, dtype, need, row.name))
        if operand.ndim != 2 or not operand.is_cuda:
            raise ShapeError(expected(name, f"shape {tuple(operand.shape)} on {operand.device}", "[rows, K] on a GPU"))
    if a.shape[1] != b.shape[1]:
        raise ShapeError(expected("b", f"K = {b.shape[1]}", f"K = {a.shape[1]}, as a has"))
    if c is not None and tuple(c.shape) != (a.shape[0], b.shape[0]):
        raise ShapeError(expected("c", tuple(c.shape), (a.shape[0], b.shape[0])))
    if out not in _OUTPUTS:
        raise FormatError(expected("out", out, " or ".join(_OUTPUTS)))
