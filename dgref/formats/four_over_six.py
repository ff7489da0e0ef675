"""4-over-6: each NVFP4 block is scaled so that its largest value becomes 6 or 4, whichever loses less.

Between 4 and 6 E2M1 has nothing, so a block whose second largest value lies near 5/6 of its amax is better off one step
down (arXiv 2512.02010). The error of a candidate is measured in the domain of the input, added up in fp32 in the order
of the elements, and a tie goes to 6, as TransformerEngine's quantize_4over6_nvfp4.cuh does it.
"""

from __future__ import annotations

import numpy as np

from dgref.formats.blocks import beside_blocks
from dgref.formats.element import Format
from dgref.formats.scaling import Scaling
from dgref.formats.tensor import global_range

EXPANSION = np.float32(1.5)  # 6 / 4


def block_errors(
    blocks: np.ndarray, values: np.ndarray, scale: np.ndarray, fraction: tuple[np.ndarray, np.ndarray], kind: str
) -> np.ndarray:
    """Return each block's error: `values` are decoded payloads, `fraction` is that of `global_fraction`."""
    numerator, denominator = fraction
    restored = values * beside_blocks(scale) * numerator / denominator
    difference = restored - blocks
    errors = np.abs(difference) if kind == "mae" else difference * difference
    return _row_tree(_in_order(errors))


def _in_order(errors: np.ndarray) -> np.ndarray:
    """Return sums along the columns of a block, one float32 addition after the other."""
    total = np.zeros(errors.shape[:-1], np.float32)
    for column in range(errors.shape[-1]):
        total = total + errors[..., column]
    return total


def _row_tree(sums: np.ndarray) -> np.ndarray:
    """Return sums along the rows of a block, halves added to halves as a warp reduction does."""
    rows = sums.swapaxes(-1, -2)
    while rows.shape[-1] > 1:
        half = -(-rows.shape[-1] // 2)
        upper = np.zeros_like(rows[..., :half])
        upper[..., : rows.shape[-1] - half] = rows[..., half:]
        rows = rows[..., :half] + upper
    return rows[..., 0]


def choose(four: tuple[np.ndarray, ...], six: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return (quotients, scales) of the better candidate of each block; both come as (quotients, scales, errors)."""
    better = four[2] < six[2]
    return np.where(beside_blocks(better), four[0], six[0]), np.where(better, four[1], six[1])


def global_fraction(format: Format, scaling: Scaling, stored: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return the global factor of dequantising as (numerator, denominator), each float32."""
    if scaling.global_scale == "amax":
        return beside_blocks(stored), np.float32(global_range(scaling, format.name))
    one = np.ones_like(stored)
    pair = (stored, one) if scaling.global_scale == "multiply" else (one, stored)
    return beside_blocks(pair[0]), beside_blocks(pair[1])
