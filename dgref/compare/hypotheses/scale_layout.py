"""Scale bytes at other places than the kernel looks for them: layouts mistaken for one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dgref.compare.hypotheses.base import Misreading, Scene, hypothesis, is_power_format, on
from dgref.compare.hypotheses.scale_types import refilled
from dgref.formats import LAYOUTS, ScaledTensor

Rearranged = Callable[[np.ndarray], np.ndarray]


def _grids(scene: Scene) -> Iterator[tuple[str, ScaledTensor]]:
    """Yield operands whose scales have somewhere to go wrong: grids of two axes or more."""
    return ((n, t) for n, t in scene.state.scaled() if t.scale.ndim > 1 and t.scale.size > 1)


def read_as(written: str, read: str) -> Rearranged:
    """Return what a grid becomes when it is packed in one layout and read in another; past the end there are zeros."""

    def rearranged(grid: np.ndarray) -> np.ndarray:
        buffer = np.ascontiguousarray(LAYOUTS[written].pack(grid))
        buffer = buffer.view(np.uint8) if LAYOUTS[written].elements.lanes > 1 else buffer
        if LAYOUTS[read].elements.lanes > 1:
            words = refilled(buffer, 4 * LAYOUTS[read].size(grid.shape)).view(np.int32)
            return LAYOUTS[read].unpack(words, grid.shape, codes=True)
        return LAYOUTS[read].unpack(refilled(buffer, LAYOUTS[read].size(grid.shape)), grid.shape)

    return rearranged


def rearranged(tensor: ScaledTensor, how: Rearranged) -> ScaledTensor:
    """Return the tensor with its scale grid rearranged."""
    return tensor.with_scale(np.ascontiguousarray(how(np.asarray(tensor.scale))).astype(tensor.scale.dtype, copy=False))


def _misplaced(name: str, cause: str, how: Rearranged, fix: str, remedy: str = "reading them so") -> Misreading:
    return Misreading(cause, on(name, lambda t: rearranged(t, how)), name, fix, remedy)


@hypothesis(14, likelihood=0.9)
def scale_major_swapped(scene: Scene) -> Iterator[Misreading]:
    """Scales in K-major order read as MN-major, or the other way round."""
    for name, _ in _grids(scene):
        for written, read in (("linear", "mn_major"), ("mn_major", "linear")):
            words = {"linear": "K-major", "mn_major": "MN-major"}
            fix = f"pass {name}'s scales {words[read]} (`layout={read}`), or read them {words[written]}, as they are"
            cause = f"the scales of {name} were {words[written]} and read as {words[read]}"
            yield _misplaced(name, cause, read_as(written, read), fix)


@hypothesis(15, likelihood=0.7)
def scale_padding_missing(scene: Scene) -> Iterator[Misreading]:
    """The rows of an MN-major scale buffer not padded to 16 bytes where the reader steps over padding."""
    for name, tensor in _grids(scene):
        rows = tensor.scale.shape[-2]
        if rows % 4:
            for cause, how in (
                (f"the scales of {name} lack the padding of {-rows % 4} rows that TMA needs", _unpadded),
                (f"the padding of {name}'s scales was read as scales", _padding_read),
            ):
                fix = f"pack {name}'s scales with `layout=mn_major_tma` (or packed_ue8m0), which pads to 16 bytes"
                yield _misplaced(name, cause, how, fix)


def _unpadded(grid: np.ndarray) -> np.ndarray:
    columns = np.swapaxes(grid, -1, -2)
    need = -(-grid.shape[-2] // 4) * 4
    flat = columns.reshape(*grid.shape[:-2], -1)
    width = need * grid.shape[-1]
    flat = np.concatenate([flat, np.zeros((*flat.shape[:-1], width - flat.shape[-1]), flat.dtype)], axis=-1)
    return np.swapaxes(flat.reshape(*grid.shape[:-2], grid.shape[-1], need)[..., : grid.shape[-2]], -1, -2)


def _padding_read(grid: np.ndarray) -> np.ndarray:
    rows, columns = grid.shape[-2:]
    padded = np.zeros((*grid.shape[:-2], columns, -(-rows // 4) * 4), grid.dtype)
    padded[..., :rows] = np.swapaxes(grid, -1, -2)
    flat = padded.reshape(*grid.shape[:-2], -1)[..., : rows * columns]
    return np.swapaxes(flat.reshape(*grid.shape[:-2], columns, rows), -1, -2)


def _is_bytes(tensor: ScaledTensor) -> bool:
    return np.asarray(tensor.scale).dtype.itemsize == 1


@hypothesis(16, likelihood=0.85)
def scale_swizzle(scene: Scene) -> Iterator[Misreading]:
    """The 128x4 swizzle of block scales absent, applied twice, or another one."""
    for name, tensor in _grids(scene):
        if not _is_bytes(tensor):
            continue
        pairs = (
            ("linear", "swizzle_128x4", f"the scales of {name} were linear and read as swizzled 128x4"),
            ("swizzle_128x4", "linear", f"the scales of {name} were swizzled 128x4 and read as linear"),
            ("swizzle_8x4", "swizzle_128x4", f"the scales of {name} were swizzled 8x4 and read as 128x4"),
            ("swizzle_128x4", "swizzle_8x4", f"the scales of {name} were swizzled 128x4 and read as 8x4"),
        )
        for written, read, cause in pairs:
            fix = f"pass {name}'s scales as they are read (`layout={read}`), or read them as `{written}`, as they are"
            yield _misplaced(name, cause, read_as(written, read), fix)
        fix = f"swizzle {name}'s scales once: `layout=swizzle_128x4` is what one swizzle gives"
        yield _misplaced(name, f"the scales of {name} were swizzled 128x4 twice", _twice, fix)


def _twice(grid: np.ndarray) -> np.ndarray:
    """Swizzle, swizzle the result again, and undo it once: the padded buffer of the first time is left."""
    rows, columns = grid.shape[-2:]
    once = np.ascontiguousarray(LAYOUTS["swizzle_128x4"].pack(grid))
    return once.reshape(*grid.shape[:-2], -(-rows // 128) * 128, -(-columns // 4) * 4)[..., :rows, :columns]


@hypothesis(17, likelihood=0.6)
def scale_permuted_not_interleaved(scene: Scene) -> Iterator[Misreading]:
    """Scale rows permuted for tensor memory but not interleaved, or interleaved in another order."""
    for name, tensor in _grids(scene):
        for layout in ("utccp_4x32", "shuffle_rows_16", "shuffle_rows_32"):
            if tensor.scale.shape[-2] % max(LAYOUTS[layout].divisor, 1) == 0:
                cause = f"the rows of {name}'s scales were permuted ({layout}) and read in their own order"
                fix = f"apply {layout} and the interleaving together, or neither [{name}]"
                yield _misplaced(name, cause, read_as(layout, "linear"), fix)


@hypothesis(18, likelihood=0.9)
def scale_byte_order(scene: Scene) -> Iterator[Misreading]:
    """The four UE8M0 bytes of a packed word in the other order."""
    for name, tensor in _grids(scene):
        if is_power_format(tensor) and tensor.scale.shape[-1] > 1:
            cause = f"the scale bytes of {name} were packed big-endian"
            fix = f"write and read the first of four scales of {name} in the low byte, as `layout=packed_ue8m0` has it"
            yield _misplaced(name, cause, _reversed_words, fix, "re-reading them little-endian")


def _reversed_words(grid: np.ndarray) -> np.ndarray:
    words = LAYOUTS["packed_ue8m0"].pack(grid).byteswap()
    return LAYOUTS["packed_ue8m0"].unpack(words, grid.shape, codes=True)


@hypothesis(19, likelihood=0.65)
def scale_tile_crosses_groups(scene: Scene) -> Iterator[Misreading]:
    """Scales of several groups laid out as one matrix where each group needs its own tiles, or the other way round."""
    for name, tensor in _grids(scene):
        if tensor.scale.ndim < 3 or tensor.scale.shape[0] < 2:
            continue
        layouts = ("swizzle_128x4", "packed_ue8m0") if is_power_format(tensor) else ("swizzle_128x4",)
        for layout in layouts if _is_bytes(tensor) else ("mn_major_tma",):
            for way, word in ((_joined, "as one matrix, so that a tile crosses groups"), (_parted, "group by group")):
                cause = f"the scales of {name}'s groups were read {word} ({layout})"
                fix = f"lay out the scales of every group by themselves, each padded to whole tiles [{name}]"
                yield _misplaced(name, cause, lambda g, way=way, layout=layout: way(g, layout), fix)


def _flat(grid: np.ndarray) -> tuple[int, int]:
    return int(np.prod(grid.shape[:-1])), grid.shape[-1]


def _bytes(layout: str) -> dict[str, bool]:
    return {"codes": True} if LAYOUTS[layout].elements.lanes > 1 else {}


def _joined(grid: np.ndarray, layout: str) -> np.ndarray:
    """Pack group by group, read as one matrix."""
    one, buffer = _flat(grid), LAYOUTS[layout].pack(grid)
    whole = refilled(buffer, LAYOUTS[layout].size(one))
    return LAYOUTS[layout].unpack(whole, one, **_bytes(layout)).reshape(grid.shape)


def _parted(grid: np.ndarray, layout: str) -> np.ndarray:
    """Pack as one matrix, read group by group."""
    buffer = LAYOUTS[layout].pack(grid.reshape(_flat(grid)))
    return LAYOUTS[layout].unpack(refilled(buffer, LAYOUTS[layout].size(grid.shape)), grid.shape, **_bytes(layout))


@hypothesis(20, likelihood=0.5)
def scale_buffer_undersized(scene: Scene) -> Iterator[Misreading]:
    """A scale buffer too small for its tiles: what lies past its end reads as zeros."""
    for name, tensor in _grids(scene):
        rows, columns = tensor.scale.shape[-2:]
        cuts = [(rows // 128 * 128, columns), (rows // 2, columns), (rows, columns // 4 * 4)]
        for high, wide in dict.fromkeys(cut for cut in cuts if 0 < cut[0] * cut[1] < rows * columns):
            missing = f"rows from {high}" if high < rows else f"K blocks from {wide}"
            cause = f"the scale buffer of {name} ends too early: {missing} read as zeros"
            fix = f"allocate whole tiles: {-(-rows // 128) * 128} rows of {-(-columns // 4) * 4} scales for {name}"
            yield _misplaced(name, cause, lambda g, h=high, w=wide: _cut(g, h, w), fix)


def _cut(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
    kept = np.zeros_like(grid)
    kept[..., :rows, :columns] = grid[..., :rows, :columns]
    return kept
