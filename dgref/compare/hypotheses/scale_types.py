"""Scale bits taken for another type, and scales of one granularity taken for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from dgref.compare.hypotheses.base import (
    Misreading,
    Scene,
    State,
    hypothesis,
    is_float_format,
    on,
    scale_floats,
    with_floats,
)
from dgref.formats import FORMATS, LAYOUTS, ScaledTensor


def refilled(buffer: np.ndarray, size: int) -> np.ndarray:
    """Return the first `size` elements of a flat buffer, zeros after its end."""
    flat = np.ascontiguousarray(buffer).reshape(-1)[:size]
    return flat if flat.size == size else np.concatenate([flat, np.zeros(size - flat.size, flat.dtype)])


@hypothesis(11, likelihood=0.75)
def float32_read_as_ue8m0(scene: Scene) -> Iterator[Misreading]:
    """The bytes of float32 scales read as UE8M0 exponents."""
    for name, tensor in scene.state.scaled():
        if is_float_format(tensor) and tensor.scale.size > 1:
            layout = scene.state.layout(name)
            yield Misreading(
                f"the float32 bits of {name}'s scales were read as UE8M0 bytes, four for each scale",
                on(name, lambda t, layout=layout: _bytes_as_exponents(t, layout)),
                name,
                f"pass {name} with `layout=packed_ue8m0`, or read its scales as float32: a view does not convert them",
                "reading them so",
            )


def _bytes_as_exponents(tensor: ScaledTensor, layout: str) -> ScaledTensor:
    """Read every byte of the buffer as an exponent, in the places of the logical grid, row by row."""
    buffer = np.ascontiguousarray(LAYOUTS[layout].pack(scale_floats(tensor)))
    codes = refilled(buffer.view(np.uint8), tensor.scale.size).reshape(tensor.scale.shape)
    return with_floats(tensor, FORMATS["float8_e8m0fnu"].decode(codes))


@hypothesis(12, likelihood=0.75)
def e4m3_read_as_e8m0(scene: Scene) -> Iterator[Misreading]:
    """E4M3 scales read as UE8M0 or the other way round, as when NVFP4 is taken for MXFP4."""
    tensors = dict(scene.state.scaled())
    names = " and ".join(tensors)
    formats = {tensor.scaling.scale_format for tensor in tensors.values()}
    if formats == {"float8_e4m3fn"}:
        yield Misreading(
            f"the E4M3 scales of {names} were read as UE8M0: NVFP4 taken for MXFP4",
            lambda state: _reread(state, "float8_e8m0fnu"),
            names,
            f"tell the kernel that {names} have E4M3 scales per 16 (NVFP4), not UE8M0 per 32",
            "reading them so",
        )
    if formats == {"float8_e8m0fnu"} and all((np.asarray(t.scale) < 0x7F).all() for t in tensors.values()):
        yield Misreading(
            f"the UE8M0 scales of {names} were read as E4M3: MX taken for NVFP4",
            lambda state: _reread(state, "float8_e4m3fn"),
            names,
            f"tell the kernel that {names} have UE8M0 scales (MX)",
            "reading them so",
        )


def _reread(state: State, format: str) -> State:
    """Read the scales of every operand as another format: an instruction takes one format for both."""
    for name, tensor in list(state.scaled()):
        state = state.put(name, replace(tensor, scaling=replace(tensor.scaling, scale_format=format)))
    return state


@hypothesis(13, likelihood=0.6)
def wrong_granularity(scene: Scene) -> Iterator[Misreading]:
    """Scales spread over blocks of another size than they were made for."""
    for name, tensor in scene.state.scaled():
        rows, columns = tensor.scale.shape[-2:] if tensor.scale.ndim > 1 else (1, 1)
        for word, pick in _granularities(tensor, rows, columns):
            yield Misreading(
                f"the scales of {name} were read as {word}",
                on(name, lambda t, pick=pick: t.with_scale(pick(np.asarray(t.scale)))),
                name,
                f"{name} has one scale per {_block(tensor)}: tell the kernel so, or requantise",
                "reading them so",
            )


def _block(tensor: ScaledTensor) -> str:
    return "x".join(str(extent or "all") for extent in tensor.scaling.block)


def _granularities(tensor: ScaledTensor, rows: int, columns: int) -> Iterator[tuple[str, Callable]]:
    """Yield how a grid of scales looks when its index is computed for blocks of another size."""
    high, wide = np.arange(rows), np.arange(columns)
    block = tensor.scaling.block
    if rows > 1 and columns > 1:
        yield "one per tensor", lambda s: np.broadcast_to(s[..., :1, :1], s.shape).copy()
    if columns > 1:
        yield "one per row", lambda s: np.broadcast_to(s[..., :1], s.shape).copy()
        yield f"one per {2 * block[1]} of K", lambda s: s[..., wide // 2]
        yield f"one per {block[1] // 2} of K", lambda s: s[..., np.minimum(2 * wide, columns - 1)]
    if rows > 1 and block[0] == 1:
        yield "one per 128 rows", lambda s: s[..., high // 128, :]
        yield "one for all rows", lambda s: s[..., :1, :].repeat(rows, axis=-2)
    if rows > 1 and block[0] > 1:
        yield "one per row of the grid's end", lambda s: s[..., np.minimum(block[0] * high, rows - 1), :]
