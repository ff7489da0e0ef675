"""Inspection by sample of checkpoints as large as real ones, made of holes: `python -m dgref.bench.checkpoint`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from dgref.bench import resident_peak
from dgref.checkpoint import CONVENTIONS, inspect
from dgref.checkpoint.header import BITS

_SHARDS, _WEIGHTS, _SHAPE = 20, 5950, (2240, 7168)  # of float8, 95 GB; of float4 twice the rows
_CASES = (("deepseek_v3_fp8", 1), ("compressed_tensors_mxfp4", 2))


def rows() -> Iterator[dict]:
    """Yield one row for each convention: how large, how much of it was read, how long, and the most memory held."""
    for name, times in _CASES:
        with TemporaryDirectory() as folder:
            sparse(Path(folder), name, _SHARDS, _WEIGHTS, (_SHAPE[0] * times, _SHAPE[1]))
            start = perf_counter()
            found = inspect(folder, payload="sample")
            seconds = perf_counter() - start
        sizes = {"gigabytes": found.bytes / 1e9, "gigabytes_read": found.bytes_read / 1e9}
        yield {"name": name, "weights": len(found.tensors), **sizes, "seconds": seconds, "resident": resident_peak()}


def sparse(folder: Path, convention: str, shards: int, weights: int, shape: tuple[int, int]) -> Path:
    """Write a folder of shards whose headers are real and whose data are holes, which read as zeros."""
    row = CONVENTIONS[convention]
    grid = row.scale_shape(shape, row.blocks[0])
    parts = (
        (row.payload[0], row.payload_dtypes[0], (shape[0], shape[1] // row.packing)),
        (row.scale[0], row.scale_dtypes[0], grid),
    )
    for shard in range(shards):
        names = [f"model.layers.{number}.mlp.up_proj" for number in range(shard, weights, shards)]
        tensors = [(name + suffix, dtype, extents) for name in names for suffix, dtype, extents in parts]
        _write_holes(folder / f"model-{shard + 1:05}-of-{shards:05}.safetensors", tensors)
    return folder


def _write_holes(path: Path, tensors: list[tuple[str, str, tuple[int, int]]]) -> None:
    header, reached = {}, 0
    for name, dtype, (rows, columns) in tensors:
        size = rows * columns * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": [rows, columns], "data_offsets": [reached, reached + size]}
        reached += size
    raw = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        stream.truncate(8 + len(raw) + reached)


if __name__ == "__main__":
    for row in rows():
        print(
            f"{row['name']:26s} {row['weights']} weights, {row['gigabytes']:.1f} GB: {row['gigabytes_read']:.2f} GB"
            f" read in {row['seconds']:.1f} s, {row['resident']:.2f} GiB resident at most"
        )
