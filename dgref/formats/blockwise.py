"""Quantising block by block: amax, rule, rounding of the scale, division; the truth for every fast path."""

from __future__ import annotations

import numpy as np

from dgref.formats import four_over_six
from dgref.formats.blocks import beside_blocks, block_amax, from_blocks, to_blocks
from dgref.formats.element import FORMATS, Format
from dgref.formats.payloads import PAYLOADS
from dgref.formats.rules import FLOAT32_MAX, RULES
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import global_range


def quantize_blocks(
    values: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray | None = None, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return (codes, scales as a ScaledTensor holds them) of float32 values under a stored global scale."""
    with np.errstate(all="ignore"):
        blocks = to_blocks(values, scaling)
        amax = block_amax(blocks)
        beside = None if stored is None else over_grid(stored, amax)
        if scaling.four_over_six == "no":
            quotient, scale = _candidate(blocks, amax, format, scaling, beside)
        else:
            quotient, scale = _four_over_six(blocks, amax, format, scaling, beside)
        codes = encode_payload(from_blocks(quotient, values.shape), format, scaling, seed)
    return codes, scale.reshape(scaling.grid(values.shape))


def _candidate(
    blocks: np.ndarray, amax: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray | None, widen: float = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return (quotients, stored scales)."""
    scale, factor = scale_and_factor(amax, format, scaling, stored, widen)
    return PAYLOADS[scaling.payload].apply(blocks, beside_blocks(factor)), scale


def scale_and_factor(
    amax: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray | None, widen: float = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return (stored scales, the factors that elements are divided or multiplied by); wanted scales are widened."""
    worked = working_global(stored, format, scaling)
    scale = store_scale(find_scale(amax, format, scaling, worked) * np.float32(widen), scaling)
    return scale, PAYLOADS[scaling.payload].factor(scale_values(scale, scaling), worked).astype(np.float32)


def find_scale(amax: np.ndarray, format: Format, scaling: Scaling, worked: np.ndarray | None) -> np.ndarray:
    """Return the wanted scales of blocks, before they are clamped and rounded to the scale format."""
    floor = np.float32(scaling.amax_floor)
    wanted = RULES[scaling.rule].find(np.where(amax < floor, floor, amax), format, worked)
    if scaling.zero_quotient:
        wanted = np.where(wanted == 0, wanted.dtype.type(scaling.zero_quotient), wanted)
    return wanted


def store_scale(wanted: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Return scales as a ScaledTensor holds them: float32 values, or codes of the scale format."""
    if scaling.scale_range is not None:
        wanted = np.clip(wanted, *map(wanted.dtype.type, scaling.scale_range))
    if scaling.scale_format == "float32":
        return wanted.astype(np.float32)
    format = FORMATS[scaling.scale_format]
    codes = format.encode(wanted)
    if scaling.zero_scale:
        codes = np.where(codes == 0, format.encode(np.float32(scaling.zero_scale)), codes)
    return codes


def scale_values(scale: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Return stored scales as float32."""
    return scale if scaling.scale_format == "float32" else FORMATS[scaling.scale_format].decode(scale)


def working_global(stored: np.ndarray | None, format: Format, scaling: Scaling) -> np.ndarray | None:
    """Return the number that rules and payloads use: the stored one, or the encode scale of a stored amax.

    TransformerEngine core_nvfp4.cuh: fp32(range / amax), at most the fp32 maximum, and 1 for a zero or infinite amax.
    """
    if stored is None or scaling.global_scale != "amax":
        return stored
    encode = np.minimum(np.float32(global_range(scaling, format.name)) / stored, FLOAT32_MAX)
    return np.where((stored == 0) | (encode == 0), np.float32(1), encode)


def encode_payload(quotient: np.ndarray, format: Format, scaling: Scaling, seed: int | None = None) -> np.ndarray:
    """Return the codes of quotients under the scaling's rounding or convention; what is too large saturates."""
    if scaling.convention is not None:
        return format.encode(quotient, convention=scaling.convention)
    return format.encode(quotient, scaling.rounding, overflow="saturate", seed=seed)


def _four_over_six(
    blocks: np.ndarray, amax: np.ndarray, format: Format, scaling: Scaling, stored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    fraction = four_over_six.global_fraction(format, scaling, stored)
    candidates = []
    for widen in (four_over_six.EXPANSION, 1.0):
        quotient, scale = _candidate(blocks, amax, format, scaling, stored, widen)
        values = format.decode(encode_payload(quotient, format, scaling))
        decoded = scale_values(scale, scaling)
        error = four_over_six.block_errors(blocks, values, decoded, fraction, scaling.four_over_six)
        candidates.append((quotient, scale, error))
    return four_over_six.choose(*candidates)


def over_grid(stored: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Return a global scale (scalar, or one per leading index) broadcast to the scale grid."""
    shape = stored.shape + (1,) * (grid.ndim - stored.ndim) if stored.ndim else ()
    return np.broadcast_to(stored.reshape(shape), grid.shape)
