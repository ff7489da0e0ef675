"""How the paged logits kernels share out their work, and how a fused key cache holds payloads and scales.

Sources: DeepGEMM 2.6.1, `sm90_paged_mqa_logits.cuh`, `sm100_paged_mqa_logits.cuh` and `csrc/apis/attention.hpp`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dgref.errors import FormatError, ShapeError, choice, expected, whole_number
from dgref.formats.element import FORMATS
from dgref.formats.packing import pack, unpack
from dgref.formats.scaling import FULL, Scaling
from dgref.formats.tensor import ScaledTensor
from dgref.reference.operands import integers, operation, scaled

SPLIT_KV = 256  # keys in one unit of work
MOST_SMS = 1 << 16
SCHEDULES = ("sm90", "sm100")


@operation
def paged_mqa_metadata(context_lens: Any, *, num_sms: int, schedule: str = "sm90", indices: Any = None) -> np.ndarray:
    """Return int32 [num_sms + 1, 2]: where each SM starts, as (query, unit of SPLIT_KV keys within it).

    A sequence's length is the last of its row of `context_lens` [batch, next_n]. `sm90` counts queries in atoms of two
    tokens and gives the remainder to the last SMs; `sm100` counts tokens and gives it to the first. With `indices`
    (`next_n` 1), tokens of equal index are one sequence.
    """
    lengths = integers(context_lens, "context_lens", 0)
    if lengths.ndim != 2 or lengths.shape[1] == 0:
        raise ShapeError(
            expected("context_lens shape", list(lengths.shape), "two axes [batch, next_n], next_n at least 1")
        )
    num_sms = whole_number("num_sms", num_sms, 1, MOST_SMS)
    choice("schedule", schedule, SCHEDULES)
    indices = None if indices is None else _sequence_of_tokens(indices, lengths)
    starts = _sm90_starts if schedule == "sm90" else _sm100_starts
    return np.array(starts(lengths, num_sms, indices), np.int32).reshape(num_sms + 1, 2)


def _sequence_of_tokens(indices: Any, lengths: np.ndarray) -> np.ndarray:
    indices = integers(indices, "indices")
    if lengths.shape[1] != 1:
        raise ShapeError(expected("context_lens shape", list(lengths.shape), "[tokens, 1], with indices"))
    if indices.shape != lengths.shape[:1]:
        raise ShapeError(expected("indices shape", list(indices.shape), f"[{len(lengths)}], as context_lens has"))
    return indices


def _units(lengths: np.ndarray) -> np.ndarray:
    return -(-lengths // SPLIT_KV)


def _first_above(running: np.ndarray, unit: int) -> tuple[int, int]:
    """Return which entry of a running sum a unit of work belongs to, and the work before that entry."""
    entry = int(np.searchsorted(running, unit, side="right"))
    return entry, int(running[entry - 1]) if entry else 0


def _sm90_starts(lengths: np.ndarray, num_sms: int, indices: np.ndarray | None) -> list[tuple[int, int]]:
    if indices is not None:
        return _sm90_ragged_starts(lengths[:, 0], num_sms, indices)
    batch, next_n = lengths.shape
    atoms = -(-next_n // (2 if next_n >= 2 else 1))
    units = _units(lengths[:, -1])
    running = np.cumsum(units * atoms)
    share, rest = divmod(int(running[-1]) if batch else 0, num_sms)
    starts = []
    for sm in range(num_sms):
        unit = sm * share + max(sm - (num_sms - rest), 0)
        query, before = _first_above(running, unit)
        per_atom = int(units[query]) if query < batch else 0
        atom, split = divmod(unit - before, per_atom) if per_atom else (0, 0)
        starts.append((query * atoms + atom, split))
    return [*starts, (batch * atoms, 0)]


def _sm90_ragged_starts(lengths: np.ndarray, num_sms: int, indices: np.ndarray) -> list[tuple[int, int]]:
    """Return the starts where two neighbouring tokens of one sequence make an atom, seen as long as the second."""
    tokens: list[int] = []
    seen: list[int] = []
    token = 0
    while token < len(lengths):
        paired = token + 1 < len(lengths) and indices[token] == indices[token + 1]
        tokens.append(token)
        seen.append(int(lengths[token + paired]))
        token += 1 + paired
    running = np.cumsum(_units(np.array(seen, np.int64)))
    share, rest = divmod(int(running[-1]) if tokens else 0, num_sms)
    starts = []
    for sm in range(num_sms + 1):
        unit = sm * share + max(sm - (num_sms - rest), 0)
        atom, before = _first_above(running, unit)
        starts.append((tokens[atom] if atom < len(tokens) else len(lengths), unit - before))
    return starts


def _sm100_starts(lengths: np.ndarray, num_sms: int, indices: np.ndarray | None) -> list[tuple[int, int]]:
    batch, next_n = lengths.shape
    if indices is None:
        firsts, counts, seen = np.arange(batch) * next_n, np.full(batch, next_n), lengths[:, -1]
    else:
        firsts, counts = _runs(indices)
        seen = lengths[firsts + counts - 1, 0]
    running = np.cumsum(_units(seen) * counts)
    share, rest = divmod(int(running[-1]) if len(running) else 0, num_sms)
    starts = []
    for sm in range(num_sms + 1):
        unit = sm * share + min(sm, rest)
        request, before = _first_above(running, unit)
        here = request < len(running)
        starts.append((int(firsts[request]), int((unit - before) // counts[request])) if here else (lengths.size, 0))
    return starts


def _runs(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first token and the length of every run of equal indices."""
    changed = np.concatenate([[True], indices[1:] != indices[:-1]]) if len(indices) else np.zeros(0, bool)
    firsts = np.flatnonzero(changed)
    return firsts, np.diff(np.append(firsts, len(indices)))


def split_kv_cache(fused: Any, depth: int, format: str = "float8_e4m3fn") -> ScaledTensor:
    """Return the keys of a fused cache uint8 [pages, page, 1, bytes]: in each page all payloads, then all scales.

    FP8 keys have one float32 scale each; FP4 keys are packed low nibble first and have a UE8M0 byte for 32 elements.
    """
    fused, packed = np.asarray(fused), _is_packed(format)
    if whole_number("depth", depth, 1) % 32 and packed:
        raise ShapeError(expected("depth", depth, "a multiple of 32 for FP4 keys: one scale for each 32"))
    payload = depth // 2 if packed else depth
    if fused.dtype != np.uint8 or fused.ndim != 4 or fused.shape[2:] != (1, payload + 4):
        got = f"{fused.dtype} {list(fused.shape)}"
        raise FormatError(expected("kv_cache", got, f"uint8 [pages, page, 1, {payload + 4}]"))
    pages, page = fused.shape[:2]
    raw = np.ascontiguousarray(fused).reshape(pages, page * (payload + 4))
    codes = raw[:, : page * payload].reshape(pages, page, payload)
    scale_bytes = np.ascontiguousarray(raw[:, page * payload :]).reshape(pages, page, 4)
    if not packed:
        scale = scale_bytes.view(np.float32)
        return ScaledTensor(codes, format, scale, Scaling((1, FULL)))
    scaling = Scaling((1, 32), "float8_e8m0fnu", rule="ceil")
    return ScaledTensor(unpack(codes, format), format, scale_bytes[..., : depth // 32], scaling)


def _is_packed(format: str) -> bool:
    """Return whether keys of a format take half a byte each; a fused cache holds FP4 or FP8."""
    bits = FORMATS[format].bits
    if bits not in (4, 8):
        raise FormatError(expected("keys format", FORMATS[format].name, "an FP8 or FP4 format"))
    return bits == 4


def fuse_kv_cache(keys: ScaledTensor) -> np.ndarray:
    """Return the fused cache of keys [pages, page, d]: the inverse of `split_kv_cache`."""
    keys = scaled(keys, "keys")
    if len(keys.shape) != 3:
        raise ShapeError(expected("keys shape", list(keys.shape), "three axes [pages, page, d]"))
    (pages, page, depth), packed = keys.shape, _is_packed(keys.format)
    need = ((1, 32), "float8_e8m0fnu") if packed else ((1, FULL), "float32")
    if keys.scale is None or (keys.scaling.block, keys.scaling.scale_format) != need:
        raise FormatError(expected("keys scales", keys, f"{keys.format} with {need[1]} scales for {need[0]}"))
    codes = np.asarray(keys.data, np.uint8)
    if packed:
        codes = pack(codes, keys.format)
        scale = np.full((pages, page, 4), 127, np.uint8)  # 1.0 where a short key leaves bytes free
        scale[..., : depth // 32] = keys.scale
    else:
        scale = np.ascontiguousarray(keys.scale, np.float32).view(np.uint8)
    parts = [codes.reshape(pages, -1), scale.reshape(pages, -1)]
    return np.concatenate(parts, axis=1).reshape(pages, page, 1, -1)
