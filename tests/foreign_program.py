"""A program under test that knows nothing of dgref: it reads the exported files and writes its outputs beside them.

It needs only the standard library and NumPy, and handles BF16 products with FP32 outputs, as a C program would.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    types = {"U8": np.uint8, "U16": np.uint16, "F32": np.float32, "I32": np.int32}
    arrays = {}
    for name, row in header.items():
        if name != "__metadata__":
            start, end = row["data_offsets"]
            body = data[8 + length + start : 8 + length + end]
            arrays[name] = np.frombuffer(body, types[row["dtype"]]).reshape(row["shape"])
    return arrays


def write_safetensors(path, name, array):
    header = {name: {"dtype": "U32", "shape": array.shape, "data_offsets": [0, array.nbytes]}}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + array.tobytes())


def bfloat16_to_float32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


folder = Path(sys.argv[1])
for case in json.loads((folder / "manifest.json").read_text())["cases"]:
    arrays = read_safetensors(folder / case["inputs_file"])
    a, b = bfloat16_to_float32(arrays["a"]), bfloat16_to_float32(arrays["b"])
    d = a @ b.T  # "equation" in the manifest: d[m,n] = sum_k a[m,k] * b[n,k]
    write_safetensors(folder / case["outputs_file"], "d", d.astype(np.float32).view(np.uint32))
