"""Compiled counting of bytes: what a whole checkpoint is read with."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def count_bytes(data, counts):
    """Add how often each byte occurs at each address modulo four to counts[4, 256]."""
    whole = data.size // 4 * 4
    for i in range(0, whole, 4):
        counts[0, data[i]] += 1
        counts[1, data[i + 1]] += 1
        counts[2, data[i + 2]] += 1
        counts[3, data[i + 3]] += 1
    for i in range(whole, data.size):
        counts[i - whole, data[i]] += 1


def byte_counts(chunks) -> np.ndarray:
    """Return counts[4, 256] over chunks whose sizes, but for the last, are multiples of four."""
    counts = np.zeros((4, 256), np.int64)
    for chunk in chunks:
        count_bytes(chunk, counts)
    return counts
