"""Philox4x32-10 (Salmon et al., SC11): the counter-based generator behind stochastic rounding.

Element i of the flattened (C order) array gets word i % 4 of the block whose counter is i // 4 and whose key is the
seed, so the same seed gives the same bits on every machine, whatever the array's shape or memory order.
"""

from __future__ import annotations

import numpy as np

from dgref.errors import whole_number

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(counters: np.ndarray, key: int) -> np.ndarray:
    """Return four 32-bit words a counter: counters uint64 [n] (the two upper words are zero) -> uint32 [n, 4]."""
    low, high = counters & _LOW, counters >> _HALF
    words = [low, high, np.zeros_like(low), np.zeros_like(low)]
    keys = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * words[0], _MULTIPLIERS[1] * words[2]
        words = [
            (second >> _HALF) ^ words[1] ^ np.uint64(keys[0]),
            second & _LOW,
            (first >> _HALF) ^ words[3] ^ np.uint64(keys[1]),
            first & _LOW,
        ]
        keys = [(k + w) & 0xFFFFFFFF for k, w in zip(keys, _WEYL, strict=True)]
    return np.stack(words, axis=-1).astype(np.uint32)


def check_seed(seed: int) -> int:
    """Return a seed that Philox takes: an integer of 64 bits."""
    return whole_number("seed", seed, 0, (1 << 64) - 1)


def random_words(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return one 32-bit word for each element of an array of this shape."""
    size = int(np.prod(shape, dtype=np.int64))
    blocks = philox4x32(np.arange((size + 3) // 4, dtype=np.uint64), check_seed(seed))
    return blocks.reshape(-1)[:size].reshape(shape)
