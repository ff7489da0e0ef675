"""A whole mixture-of-experts layer in one call, its symmetric buffer and its weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from dgref import reference
from dgref.annotations import explained
from dgref.deep_gemm.arguments import Matrix, Recipe, ScaledStack, Stack, Vector
from dgref.deep_gemm.operands import (
    BF16,
    FP4,
    FP8,
    UE8M0,
    check_shape,
    integers,
    no_kernel,
    output_format,
    payload,
    unpacked,
)
from dgref.deep_gemm.settings import SETTINGS
from dgref.deep_gemm.utils.math import align
from dgref.errors import FormatError, InputError, ShapeError, UnsupportedError, counted, expected, unknown_name
from dgref.formats.layouts import LAYOUTS
from dgref.formats.native import like, to_numpy
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import ScaledTensor

TOKEN_ALIGNMENT = 384  # the least common multiple of the kernel's candidate tiles (DeepGEMM layout/mega_moe.cuh)
MMA_TYPES = ("fp8xfp4", "bf16xbf16")
_BLOCK = (1, 32)


class SymmBuffer:
    """Room for one rank's tokens; fill `x`, `x_sf`, `topk_idx` and `topk_weights` before every call.

    The reference needs no room between the stages: `l1_acts`, `l2_acts` and their scales are None on the CPU.
    """

    def __init__(
        self,
        group: Any,
        num_experts: int,
        num_max_tokens_per_rank: int,
        num_topk: int,
        hidden: int,
        intermediate_hidden: int,
        num_ring_tokens: int,
        mma_type: str = "fp8xfp4",
        activation: str = "swiglu",
    ):
        _check_activation(activation)
        if mma_type not in MMA_TYPES:
            raise unknown_name("mma_type", mma_type, MMA_TYPES)
        if group.size() != 1:
            need = "1 rank: `dgref.reference.mega_moe` computes any number of ranks in one call"
            raise UnsupportedError(expected("group", f"{group.size()} ranks", need))
        self.group = group
        self.num_experts = num_experts
        self.num_max_tokens_per_rank = num_max_tokens_per_rank
        self.num_topk = num_topk
        self.hidden = hidden
        self.intermediate_hidden = intermediate_hidden
        self.num_ring_tokens = num_ring_tokens
        self.l1_acts = self.l1_acts_sf = self.l2_acts = self.l2_acts_sf = None
        self._allocate(mma_type == "fp8xfp4")
        self.handle = SimpleNamespace(buffer_ptrs=[self.buffer.data_ptr()])

    def _allocate(self, scaled: bool) -> None:
        """Make one buffer of bytes and the views into it, in the order that DeepGEMM has them."""
        parts = [("x", torch.float8_e4m3fn if scaled else torch.bfloat16, self.hidden)]
        if scaled:
            parts.append(("x_sf", torch.int32, self.hidden // 128))
        parts += [("topk_idx", torch.int64, self.num_topk), ("topk_weights", torch.float32, self.num_topk)]
        sizes = [self.num_max_tokens_per_rank * width * dtype.itemsize for _, dtype, width in parts]
        self.buffer = torch.zeros(sum(sizes), dtype=torch.int8)
        self.x_sf = None
        for (name, dtype, width), piece in zip(parts, self.buffer.split(sizes), strict=True):
            setattr(self, name, piece.view(dtype).view(self.num_max_tokens_per_rank, width))

    def destroy(self) -> None:
        """Let the memory and the group go."""
        self.handle = self.buffer = self.group = self.x = self.x_sf = self.topk_idx = self.topk_weights = None


@explained
def get_symm_buffer_for_mega_moe(
    group: Any,
    num_experts: int,
    num_max_tokens_per_rank: int,
    num_topk: int,
    hidden: int,
    intermediate_hidden: int,
    use_fp8_dispatch: bool | None = None,
    mma_type: str = "fp8xfp4",
    activation: str = "swiglu",
) -> SymmBuffer:
    """Return a buffer for at least so many tokens of a rank; `use_fp8_dispatch` is the old way to say `mma_type`."""
    tokens = align(num_max_tokens_per_rank, TOKEN_ALIGNMENT)
    if use_fp8_dispatch is not None:
        if use_fp8_dispatch != mma_type.startswith("fp8"):
            raise InputError(expected("use_fp8_dispatch", use_fp8_dispatch, f"what mma_type={mma_type!r} says"))
        warnings.warn("`use_fp8_dispatch` is deprecated: use `mma_type`", DeprecationWarning, stacklevel=2)
    ring = tokens * group.size()  # the least that DeepGEMM allows: one expert's tokens from everywhere
    return SymmBuffer(group, num_experts, tokens, num_topk, hidden, intermediate_hidden, ring, mma_type, activation)


@explained
def transform_weights_for_mega_moe(
    l1_weights: Stack | ScaledStack, l2_weights: Stack | ScaledStack, activation: str = "swiglu"
) -> tuple[Any, Any]:
    """Return weights in the kernel's order: gate and up rows in turns of 8, rows of packed scales in UTCCP order."""
    _check_activation(activation)
    if not isinstance(l1_weights, tuple):
        return _in_order(l1_weights, _INTERLEAVED), l2_weights
    first = tuple(
        _in_order(t, steps) for t, steps in zip(l1_weights, (_INTERLEAVED, (*_INTERLEAVED, *_UTCCP)), strict=True)
    )
    return first, (l2_weights[0], _in_order(l2_weights[1], _UTCCP))


@explained
def fp8_fp4_mega_moe(
    y: Matrix,
    l1_weights: ScaledStack,
    l2_weights: ScaledStack,
    sym_buffer: SymmBuffer,
    cumulative_local_expert_recv_stats: Vector | None = None,
    recipe: Recipe = (1, 1, 32),
    activation: str = "swiglu",
    activation_clamp: float | None = None,
    fast_math: bool = True,
) -> None:
    """Write the layer's output for the tokens in the buffer into y, for transformed FP4 (or FP8) weights.

    `fast_math` chooses nothing here: the reference's activation is the arithmetic's.
    """
    if tuple(recipe) != (1, 1, 32):
        raise FormatError(expected("recipe", tuple(recipe), (1, 1, 32)))
    if y.is_cuda:
        raise no_kernel()
    _check_room(y, sym_buffer, cumulative_local_expert_recv_stats)
    weights = [_restored(name, pair) for name, pair in (("l1_weights", l1_weights), ("l2_weights", l2_weights))]
    tokens = y.shape[0]
    codes = payload("x", sym_buffer.x[:tokens], (FP8,))
    x_scale = unpacked("x scales", sym_buffer.x_sf[:tokens], (tokens, sym_buffer.hidden // 32), _BLOCK)
    x = ScaledTensor(codes.data[None], FP8, x_scale[None], Scaling(_BLOCK, UE8M0))
    _layer(y, x, weights, sym_buffer, cumulative_local_expert_recv_stats, _Activation(activation, activation_clamp))


@explained
def bf16_mega_moe(
    y: Matrix,
    l1_weights: Stack,
    l2_weights: Stack,
    sym_buffer: SymmBuffer,
    cumulative_local_expert_recv_stats: Vector | None = None,
    activation: str = "swiglu",
    activation_clamp: float | None = None,
    fast_math: bool = True,
) -> None:
    """Write the layer's output for the tokens in the buffer into y, all BF16."""
    if y.is_cuda:
        raise no_kernel()
    _check_room(y, sym_buffer, cumulative_local_expert_recv_stats)
    first = payload("l1_weights", _back(l1_weights, _INTERLEAVED), (BF16,), 3)
    weights = [first, payload("l2_weights", l2_weights, (BF16,), 3)]
    x = payload("x", sym_buffer.x[None, : y.shape[0]], (BF16,), 3)
    _layer(y, x, weights, sym_buffer, cumulative_local_expert_recv_stats, _Activation(activation, activation_clamp))


@dataclass(frozen=True)
class _Activation:
    name: str
    clamp: float | None


_INTERLEAVED, _UTCCP = ("gate_up_interleave_8",), ("utccp_4x32",)


def _check_activation(name: str) -> None:
    if name != "swiglu":
        raise unknown_name("activation", name, ("swiglu",))


def _in_order(tensor: torch.Tensor, steps: tuple[str, ...]) -> torch.Tensor:
    """Return [groups, rows, columns] with its rows in another order and its strides as they were."""
    order = _rows_order(tensor.shape[1], steps).to(tensor.device)
    return torch.empty_like(tensor).copy_(tensor[:, order])


def _back(tensor: torch.Tensor, steps: tuple[str, ...]) -> torch.Tensor:
    """Undo `_in_order`."""
    return tensor[:, torch.argsort(_rows_order(tensor.shape[1], steps)).to(tensor.device)]


def _rows_order(rows: int, steps: tuple[str, ...]) -> torch.Tensor:
    """Return which row each place holds after the layouts named by `steps`, one after the other."""
    order = np.arange(rows, dtype=np.uint32)[:, None]
    for name in steps:
        order = LAYOUTS[name].pack(order)
    if order.size != rows:
        raise ShapeError(expected("weights", f"{rows} rows", f"whole tiles of {steps[-1]}: {order.size} rows"))
    return torch.from_numpy(order.reshape(rows).astype(np.int64))


def _restored(name: str, pair: tuple[torch.Tensor, torch.Tensor]) -> ScaledTensor:
    """Return transformed weights and scales in their logical order."""
    weights, words = pair
    steps = _INTERLEAVED if name == "l1_weights" else ()
    plain = payload(name, _back(weights, steps) if steps else weights, (FP4, FP8), 3)
    check_shape(
        f"{name} scales", words, (*plain.shape[:2], -(-plain.shape[2] // 128)), "transform_weights_for_mega_moe"
    )
    scale = unpacked(
        f"{name} scales", _back(words, (*steps, *_UTCCP)), (*plain.shape[:2], plain.shape[2] // 32), _BLOCK
    )
    return ScaledTensor(plain.data, plain.format, scale, Scaling(_BLOCK, UE8M0))


def _check_room(y: torch.Tensor, buffer: SymmBuffer, stats: torch.Tensor | None) -> None:
    """Raise unless the output and the counts are what the buffer's layer writes."""
    if buffer.buffer is None:
        raise InputError(expected("sym_buffer", "one that was destroyed", "one from get_symm_buffer_for_mega_moe"))
    tokens, room = y.shape[0], buffer.num_max_tokens_per_rank
    if tokens > room:
        raise ShapeError(expected("y", counted(tokens, "token"), f"at most the buffer's {room}"))
    check_shape("y", y, (tokens, buffer.hidden))
    if output_format("y", y) != BF16:
        raise FormatError(expected("y", y.dtype, "torch.bfloat16"))
    if stats is not None:
        integers("cumulative_local_expert_recv_stats", stats, (buffer.num_experts,))


def _layer(y: Any, x: ScaledTensor, weights: list, buffer: SymmBuffer, stats: Any, activation: _Activation) -> None:
    _check_activation(activation.name)
    tokens = y.shape[0]
    result = reference.mega_moe(
        x,
        to_numpy(buffer.topk_idx[None, :tokens]),
        to_numpy(buffer.topk_weights[None, :tokens]),
        *weights,
        None if stats is None else to_numpy(stats)[None],
        activation_clamp=activation.clamp,
        arithmetic=SETTINGS.arithmetic_of("bf16" if x.scale is None else "fine"),
    )
    y.detach().copy_(like(result["y"][0], y))
    if stats is not None:
        stats.copy_(like(result["recv_stats"][0], y))
