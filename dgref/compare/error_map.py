"""Where in an output the wrong elements are, as a small grid of digits that a report can draw."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_ROWS, MOST_COLUMNS = 48, 64


def error_map(different: np.ndarray) -> dict[str, Any]:
    """Return a grid of digits: 0 where no element of a tile differs, 1 to 9 for the share that does.

    Leading axes (groups, batches) are stacked as rows, in order; `rows_per_group` says how many rows each has.
    """
    matrix = different.reshape(-1, different.shape[-1]) if different.ndim > 1 else different.reshape(1, -1)
    if 0 in matrix.shape:
        return {"shape": list(different.shape), "tile": [1, 1], "cells": []}
    height, width = (-(-size // most) for size, most in zip(matrix.shape, (MOST_ROWS, MOST_COLUMNS), strict=True))
    rows = np.arange(0, matrix.shape[0], height)
    columns = np.arange(0, matrix.shape[1], width)
    counts = np.add.reduceat(np.add.reduceat(matrix.astype(np.int64), rows, axis=0), columns, axis=1)
    sizes = np.outer(np.diff([*rows, matrix.shape[0]]), np.diff([*columns, matrix.shape[1]]))
    digits = np.where(counts == 0, 0, 1 + 8 * counts // sizes)
    return {
        "shape": list(different.shape),
        "tile": [height, width],
        "rows_per_group": int(different.shape[-2]) if different.ndim > 2 else None,
        "cells": ["".join(str(digit) for digit in line) for line in digits],
    }
