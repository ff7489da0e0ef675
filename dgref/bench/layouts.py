"""Packing speed of every layout, against a copy of the same bytes: `python -m dgref.bench.layouts`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dgref.bench import best_seconds
from dgref.formats.layouts import LAYOUTS, Layout

LIMIT = 3.0  # the bar: at most this many times a copy
_GRIDS = ((32768, 128), (4096, 1024), (262144, 56))  # float32: 16, 16 and 56 MiB; square, wide and tall
_REPEATS = 25


def rows() -> Iterator[dict]:
    """Yield the worst grid of each layout: bytes, milliseconds of copy and pack, and their ratio."""
    for layout in LAYOUTS.values():
        yield max((_measure(layout, *grid) for grid in _GRIDS), key=lambda row: row["ratio"])


def _measure(layout: Layout, height: int, width: int) -> dict:
    """Time one layout; the bytes are those of the larger side, which is the buffer where a layout broadcasts."""
    scales = _scales(layout, height // 128 if layout.copies else height, width)
    parameters = _parameters(layout, scales.shape[0])
    buffer = layout.pack(scales, **parameters)
    larger = max(scales, buffer, key=lambda array: array.nbytes)
    copy = best_seconds(larger.copy, _REPEATS)
    pack = best_seconds(lambda: layout.pack(scales, **parameters), _REPEATS)
    return {
        "name": layout.name,
        "grid": tuple(scales.shape),
        "bytes": larger.nbytes,
        "copy_ms": copy * 1e3,
        "pack_ms": pack * 1e3,
        "ratio": pack / copy,
        "limit": LIMIT,
    }


def _scales(layout: Layout, height: int, width: int) -> np.ndarray:
    """Return bytes where the layout takes any dtype (the hardest to move quickly), else powers of two."""
    generator = np.random.default_rng(0)
    if layout.elements.name == "any":
        return generator.integers(0, 256, (height, width * 4), np.uint8)
    return np.exp2(generator.integers(-20, 20, (height, width))).astype(np.float32)


def _parameters(layout: Layout, height: int) -> dict:
    groups = {"extents": (height // 3, height - height // 3), "ends": (height // 2 - 1, height)}
    return {name: groups[name] for name in layout.parameters}


if __name__ == "__main__":
    for row in rows():
        print(
            f"{row['name']:45s} {row['bytes'] / 1e6:5.0f} MB  copy {row['copy_ms']:6.2f} ms"
            f"  pack {row['pack_ms']:6.2f} ms  {row['ratio']:5.2f}x"
        )
